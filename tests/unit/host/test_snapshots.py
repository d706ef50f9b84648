"""The store of snapshots: what is kept is what is found again, or nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway._model.network import Network
from slipway._model.options import Options
from slipway._run.assets import Assets
from slipway._snapshots import sparse_files as _sparse_files
from slipway._snapshots import verified_files as _checked_files
from slipway._snapshots.key import NoSnapshot, SnapshotKey, build_missing_error, check_clonable
from slipway._snapshots.store import SnapshotStore
from slipway._snapshots.verified_files import VerifiedFile
from slipway._util.errors import HostError, ImageError
from slipway._util.units import MIB
from slipway.machine import memory_files
from slipway.machine.model import PortKind, Snapshot
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.errors import UntrustedFile
from slipway_initramfs.freeze import Agent
from slipway_initramfs.languages import catalogue
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import SMALL_KERNEL
from support.stores import names, put_agent, put_image, put_kernel
from support.untrusted_files import OF_FILES
from support.waiting import LIMIT, block_until, read_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway._snapshots.stored_snapshot import StoredSnapshot

MEMORY = 16 * MIB
STATE = b"all else" * 1000
PIECES = {0: b"first", 70_000: b"x" * 5000, 5 * MIB + 4096: bytes(range(256)) * 4096}
PIECES[MEMORY - 3] = b"end"


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


@pytest.fixture
def key(images: ImageStore) -> SnapshotKey:
    image = put_image(images)
    return SnapshotKey("toy", "amd64", "qemu", MEMORY, 1, "ab" * 32, (("image", image.digest),))


@pytest.fixture
def snapshot() -> Iterator[Snapshot]:
    made = write_snapshot(PIECES)
    yield made
    made.close()


@pytest.fixture
def saved_snapshot(images: ImageStore, key: SnapshotKey, snapshot: Snapshot) -> StoredSnapshot:
    return SnapshotStore(images).save(key, snapshot)


def write_snapshot(pieces: dict[int, bytes], state: bytes = STATE) -> Snapshot:
    files = []
    for size, parts in ((MEMORY, pieces), (len(state), {0: state})):
        files.append(memory_files.create("test", size))
        for offset, data in parts.items():
            os.pwrite(files[-1], data, offset)
    memory, rest = files
    return Snapshot("qemu", "amd64", MEMORY, 1, PortKind.VIRTIO, memory, rest)


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size + 1, 0)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


# --- What is kept ----------------------------------------------------------------------------


def test_what_is_saved_is_found_and_opened_again(
    images: ImageStore, key: SnapshotKey, snapshot: Snapshot, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)

    assert store.find(key) == saved_snapshot
    assert store.list() == [saved_snapshot]
    opened = store.open(saved_snapshot)

    store.verify(saved_snapshot, opened)
    assert content(opened.memory) == content(snapshot.memory)
    assert content(opened.state) == STATE
    assert (opened.hypervisor, opened.memory_bytes, opened.cpus) == ("qemu", MEMORY, 1)
    opened.close()


def test_opened_snapshots_cannot_be_written(
    images: ImageStore, saved_snapshot: StoredSnapshot
) -> None:
    opened = SnapshotStore(images).open(saved_snapshot)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(opened.memory, b"x")

    opened.close()


def test_zeros_take_no_room(images: ImageStore, key: SnapshotKey) -> None:
    full = write_snapshot({0: bytes(MEMORY), 4096: b"x"})

    stored = SnapshotStore(images).save(key, full)

    assert stored.memory.size == MEMORY
    assert stored.disk_bytes < 1 * MIB
    full.close()


def test_loaded_snapshot_is_in_memory_and_sealed(
    images: ImageStore, snapshot: Snapshot, saved_snapshot: StoredSnapshot
) -> None:
    loaded = SnapshotStore(images).load(saved_snapshot)

    assert content(loaded.memory) == content(snapshot.memory)
    assert content(loaded.state) == STATE
    assert memory_files.is_sealed(loaded.memory)
    assert memory_files.is_sealed(loaded.state)
    with pytest.raises(PermissionError):
        os.open(f"/proc/self/fd/{loaded.memory}", os.O_RDWR | os.O_TRUNC)
    assert os.fstat(loaded.memory).st_blocks * 512 < 2 * MIB
    loaded.close()


def test_saving_again_replaces(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)
    other = write_snapshot({4096: b"other"})

    again = store.save(replace(key, inputs="cd" * 32), other)

    assert store.find(key) is None
    assert store.list() == [again]
    other.close()


def test_nothing_is_found_where_inputs_differ(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)

    assert store.find(replace(key, inputs="cd" * 32)) is None
    assert store.find(replace(key, hypervisor="kvm")) is None
    assert store.find(replace(key, memory_bytes=2 * MEMORY)) is None
    assert store.find(replace(key, image="no such name/..")) is None


def test_snapshot_of_another_machine_is_refused(
    images: ImageStore, key: SnapshotKey, snapshot: Snapshot
) -> None:
    store = SnapshotStore(images)

    for other in (
        replace(snapshot, cpus=2),
        replace(snapshot, hypervisor="kvm"),
        replace(snapshot, memory_bytes=MEMORY // 2),
        replace(snapshot, port=PortKind.SERIAL),
        replace(snapshot, port=PortKind.AUTO),
        replace(snapshot, network=True),
    ):
        with pytest.raises(HostError, match="another machine"):
            store.save(key, other)
    assert store.list() == []


@pytest.mark.parametrize(
    ("port", "network", "suffix"),
    [
        (PortKind.VIRTIO, True, "network"),
        (PortKind.SERIAL, False, "serial"),
        (PortKind.SERIAL, True, "serial-network"),
        (PortKind.TCP, True, "tcp"),
    ],
)
def test_snapshots_of_another_port_or_network_are_kept_beside_each_other(
    images: ImageStore,
    key: SnapshotKey,
    snapshot: Snapshot,
    saved_snapshot: StoredSnapshot,
    port: PortKind,
    network: bool,
    suffix: str,
) -> None:
    store = SnapshotStore(images)
    other = replace(key, port=port, network=network)
    assert store.find(other) is None

    store.save(other, replace(snapshot, port=port, network=network))

    found = store.find(other)
    assert found is not None
    assert found.key.name == f"{key.name}-{suffix}"
    assert store.find(key) == saved_snapshot
    with store.open(found) as opened, store.open(saved_snapshot) as plain:
        assert (opened.port, opened.network) == (port, network)
        assert (plain.port, plain.network) == (PortKind.VIRTIO, False)


def test_snapshots_go_with_their_image(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    from slipway_initramfs.store.garbage_collection import remove_image

    freed = remove_image(images, "toy", "amd64")

    assert SnapshotStore(images).list() == []
    assert names(images.root / "blobs") == []
    assert MIB < freed < MEMORY


def test_snapshots_go_when_their_image_is_replaced(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    put_image(images, root=b"another")

    with images.building("anything"):
        pass

    assert SnapshotStore(images).list() == []


# --- Removing --------------------------------------------------------------------------------


def test_removed_snapshot_is_gone_and_what_is_open_goes_on(
    images: ImageStore, key: SnapshotKey, snapshot: Snapshot, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)
    opened = store.open(saved_snapshot)

    freed = store.remove(key.name)

    assert freed >= len(STATE)
    assert store.find(key) is None
    assert saved_snapshot.memory.digest not in names(images.root / "blobs")
    assert content(opened.memory) == content(snapshot.memory)
    opened.close()
    with pytest.raises(ImageError, match="unknown snapshot"):
        store.remove(key.name)


def test_nothing_is_removed_while_another_process_writes(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)

    with images.building("anything"), pytest.raises(ImageError, match="another process"):
        store.remove(key.name)

    assert store.find(key) == saved_snapshot


def test_forgotten_snapshot_is_found_no_more(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)

    store.forget(replace(key, inputs="cd" * 32))
    assert store.find(key) == saved_snapshot
    store.forget(key)
    store.forget(key)

    assert store.find(key) is None


def test_who_finds_an_old_one_damaged_does_not_forget_the_new_one(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)
    new = write_snapshot({4096: b"other"})
    replaced = store.save(key, new)
    with images.building("anything"):  # sweeps the old one
        pass

    with pytest.raises(ImageError, match="lost"):
        store.open(saved_snapshot)

    assert store.find(key) == replaced
    new.close()


# --- Damage ----------------------------------------------------------------------------------


def damage_cases() -> list[Any]:
    return [
        pytest.param(lambda path, size: flip(path, 0), id="flipped-at-the-start"),
        pytest.param(lambda path, size: flip(path, size - 1), id="flipped-at-the-end"),
        pytest.param(lambda path, size: flip(path, size // 2 - 7), id="flipped-in-a-hole"),
    ]


@pytest.mark.parametrize("part", ["memory", "state"])
@pytest.mark.parametrize("damage", damage_cases())
@pytest.mark.parametrize("way", ["verify", "load"])
def test_flipped_bit_is_found_and_the_snapshot_forgotten(
    images: ImageStore,
    key: SnapshotKey,
    saved_snapshot: StoredSnapshot,
    part: str,
    damage: Callable[[Path, int], None],
    way: str,
) -> None:
    store = SnapshotStore(images)
    blob = getattr(saved_snapshot, part)
    damage(blob.path, blob.size)

    opened = store.open(saved_snapshot)
    with pytest.raises(ImageError, match="damaged") as caught:
        store.load(saved_snapshot) if way == "load" else store.verify(saved_snapshot, opened)

    assert "image build toy" in caught.value.hint
    assert store.find(key) is None
    opened.close()


@pytest.mark.parametrize("part", ["memory", "state"])
@pytest.mark.parametrize("by", [-1, 1, -4096, 4096])
def test_other_length_is_found_and_the_snapshot_forgotten(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot, part: str, by: int
) -> None:
    store = SnapshotStore(images)
    blob = getattr(saved_snapshot, part)
    os.truncate(blob.path, blob.size + by)

    with pytest.raises(ImageError, match="bytes instead of"):
        store.open(saved_snapshot)

    assert store.find(key) is None


@pytest.mark.parametrize("part", ["memory", "state"])
def test_lost_file_is_found_and_the_snapshot_forgotten(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot, part: str
) -> None:
    store = SnapshotStore(images)
    getattr(saved_snapshot, part).path.unlink()

    with pytest.raises(ImageError, match="has lost a file"):
        store.open(saved_snapshot)

    assert store.find(key) is None


@pytest.mark.parametrize("part", ["memory", "state", "reference"])
@pytest.mark.parametrize("harm", OF_FILES)
def test_file_that_others_decide_on_is_refused(
    images: ImageStore,
    key: SnapshotKey,
    saved_snapshot: StoredSnapshot,
    part: str,
    harm: Callable[[Path], str],
) -> None:
    store = SnapshotStore(images)
    reference = saved_snapshot.reference
    said = harm(reference if part == "reference" else getattr(saved_snapshot, part).path)

    if part != "reference":
        with pytest.raises(ImageError) as caught:
            store.open(saved_snapshot)
        assert said in caught.value.message
    with pytest.raises(ImageError) as caught:
        store.find(key)
    assert said in caught.value.message
    assert os.path.lexists(reference)


def test_damaged_snapshot_is_whole_when_it_is_saved_again(
    images: ImageStore, key: SnapshotKey, snapshot: Snapshot, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)
    flip(saved_snapshot.memory.path, 1)

    again = store.save(key, snapshot)

    opened = store.open(again)
    store.verify(again, opened)
    opened.close()


HOSTILE: dict[str, list[Any]] = {
    "image": [None, 1, "", "../toy", "toy\x1b[2J", "t" * 200, ["toy"]],
    "hypervisor": [None, "kvm", "qemu/..", {}],
    "inputs": [None, 1, []],
    "memory_bytes": [None, -1, 0, 1, MEMORY + 4096, 1 << 49, 1 << 80, 1.5, "16"],
    "cpus": [None, 0, -1, 9, 1 << 40, True, "1"],
    "network": [None, 1, "yes"],
    "port": [None, 1, "", "parallel", "tcp"],
    "made": [None, -1, 1 << 49, 1 << 70, "now"],
    "parts": [None, [], {"image": 1}, {"image": {"deep": [[]]}}, "x"],
    "memory": [
        None,
        "x",
        {},
        {"digest": "../../../etc/passwd", "size": MEMORY},
        {"digest": "A" * 64, "size": MEMORY},
        {"digest": "a" * 64, "size": -1},
        {"digest": "a" * 64, "size": MEMORY - 1},
        {"digest": 5, "size": MEMORY},
    ],
    "state": [None, [], {"digest": "a" * 64, "size": 0}, {"digest": "a" * 64, "size": 1 << 40}],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in HOSTILE.items() for value in values]
)
def test_record_that_cannot_be_ours_is_none(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot, name: str, value: Any
) -> None:
    store = SnapshotStore(images)
    manifest = images.record("snapshot", key.name)
    assert manifest is not None
    images.put_record("snapshot", key.name, {**manifest, name: value})

    assert store.find(key) is None
    assert store.list() == []


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=300) | st.dictionaries(st.text(max_size=5), st.integers()))
def test_manifest_of_anything_is_none(
    images: ImageStore, key: SnapshotKey, snapshot: Snapshot, data: bytes | dict[str, int]
) -> None:
    store = SnapshotStore(images)
    stored = store.find(key) or store.save(key, snapshot)
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    path = images.root / "manifests" / f"{stored.record}.json"
    whole = path.read_bytes()
    path.write_bytes(text)

    found = (store.find(key), store.list())

    path.write_bytes(whole)
    assert found == (None, [])


def test_record_of_another_name_is_none(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    directory = images.root / "refs" / "snapshot"
    (directory / key.name).rename(directory / replace(key, cpus=2).name)

    store = SnapshotStore(images)

    assert store.find(replace(key, cpus=2)) is None
    assert store.list() == []


# --- Writers ---------------------------------------------------------------------------------


SAVER = """
import os, sys
from pathlib import Path
from slipway._util.errors import ImageError
from slipway._snapshots.key import SnapshotKey
from slipway._snapshots.store import SnapshotStore
from slipway.machine import memory_files
from slipway.machine.model import PortKind, Snapshot
from slipway_initramfs.store.image_store import ImageStore
from support.stores import put_image

images = ImageStore(Path(sys.argv[1]))
size = int(sys.argv[2]) << 20
image = images.image("toy", "amd64") or put_image(images)
key = SnapshotKey("toy", "amd64", "qemu", size, 1, "ab" * 32, (("image", image.digest),))
store = SnapshotStore(images)

def snapshot():
    memory, state = memory_files.create("test", size), memory_files.create("test")
    os.write(memory, os.urandom(size))
    os.write(state, b"state" * 100)
    return Snapshot("qemu", "amd64", size, 1, PortKind.VIRTIO, memory, state)
"""


def saver(images: ImageStore, size: int, code: str) -> list[str]:
    return [sys.executable, "-c", SAVER + code, str(images.root), str(size)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.usefixtures("mounts")
def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    images = ImageStore(tmp_path / "mount" / "store")
    images.root.parent.mkdir()
    code = """
before = {str(path): path.stat().st_size for path in images.root.rglob("*") if path.is_file()}
try:
    store.save(key, snapshot(), 1 << 30)
except ImageError as error:
    print(error.message, error.hint, sep="\\n")
assert store.find(key) is None
left = {str(path): path.stat().st_size for path in images.root.rglob("*") if path.is_file()}
locks = [path for path in left if "/locks/" in path]
print([path for path in left if path not in before and path not in locks])
"""
    namespaces = "-m" if os.geteuid() == 0 else "-Urm"
    mount = f'mount -t tmpfs -o size=3m none {images.root.parent} && exec "$@"'
    command = ["unshare", namespaces, "sh", "-c", mount, "sh", *saver(images, 8, code)]

    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    message, hint, left = ended.stdout.splitlines()
    assert "needs about" in message
    assert "free" in message
    assert "slipway image prune" in hint
    assert left == "[]"


@pytest.mark.usefixtures("mounts")
def test_full_disk_between_the_files_leaves_nothing(tmp_path: Path) -> None:
    images = ImageStore(tmp_path / "mount" / "store")
    images.root.parent.mkdir()
    # Another program fills the disk after the check of its space.
    code = """
from slipway_initramfs.disk import space
space.check_space = lambda *_: None
full = snapshot()
os.pwrite(full.state, os.urandom(4 << 20), 0)
try:
    store.save(key, full, 1 << 30)
except ImageError as error:
    print(error.message)
print(sorted(path.stat().st_size for path in (images.root / "blobs").iterdir()))
print(os.listdir(images.root / "tmp"))
"""
    namespaces = "-m" if os.geteuid() == 0 else "-Urm"
    mount = f'mount -t tmpfs -o size=4m none {images.root.parent} && exec "$@"'
    command = ["unshare", namespaces, "sh", "-c", mount, "sh", *saver(images, 2, code)]

    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    message, blobs, temporary = ended.stdout.splitlines()
    assert "No space left on device" in message
    assert blobs == "[12]"  # the image's
    assert temporary == "[]"


def test_killed_savers_leave_nothing_behind(images: ImageStore) -> None:
    put_image(images)
    for _ in range(5):
        process = subprocess.Popen(
            saver(images, 64, "s = snapshot()\nprint(flush=True)\nwhile True: store.save(key, s)"),
            env=environment(),
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        read_until(process.stdout, b"\n", "the saver begins")
        block_until(
            lambda: images.temporary.exists() and names(images.temporary),
            "a snapshot is being written",
        )
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT)
        process.stdout.close()

        with images.building("anything"):
            pass

        store = SnapshotStore(images)
        assert names(images.temporary) == []
        blobs = {blob for found in store.list() for blob in (found.memory, found.state)}
        root = images.image("toy", "amd64")
        assert root is not None
        assert set(names(images.root / "blobs")) == {
            root.root.digest, *(blob.digest for blob in blobs)
        }  # fmt: skip
        for found in store.list():
            opened = store.open(found)
            store.verify(found, opened)
            opened.close()


def test_two_savers_at_once_leave_the_whole_of_one(images: ImageStore, key: SnapshotKey) -> None:
    made = [write_snapshot({offset: b"x" * 9000}) for offset in range(0, 4 * MIB, MIB)]
    errors: list[BaseException] = []

    def save(snapshot: Snapshot) -> None:
        try:
            SnapshotStore(images).save(key, snapshot)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(snapshot,)) for snapshot in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    store = SnapshotStore(images)
    stored = store.find(key)
    assert errors == []
    assert stored is not None
    opened = store.open(stored)
    store.verify(stored, opened)
    assert content(opened.memory) in [content(snapshot.memory) for snapshot in made]
    for snapshot in (opened, *made):
        snapshot.close()


def test_reading_a_snapshot_does_not_move_its_offsets(
    images: ImageStore, key: SnapshotKey, snapshot: Snapshot
) -> None:
    os.lseek(snapshot.memory, 123, os.SEEK_SET)

    SnapshotStore(images).save(key, snapshot)

    assert os.lseek(snapshot.memory, 0, os.SEEK_CUR) == 123


@pytest.mark.bare
def test_looking_up_imports_nothing_of_making(images: ImageStore, key: SnapshotKey) -> None:
    slow = (
        "hashlib",
        "asyncio",
        "tempfile",
        "socket",
        "slipway._snapshots.sparse_files",
        "subprocess",
    )
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from slipway._snapshots.key import SnapshotKey\n"
        "from slipway._snapshots.store import SnapshotStore\n"
        "from slipway_initramfs.store.image_store import ImageStore\n"
        f"store = SnapshotStore(ImageStore(Path({str(images.root)!r})))\n"
        f"store.find(SnapshotKey('toy', 'amd64', 'qemu', {MEMORY}, 1, {key.inputs!r}))\n"
        f"print(*(name for name in {slow!r} if name in sys.modules))"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == "\n"


# --- Files with holes ------------------------------------------------------------------------

PLACES = st.integers(0, 300_000)


@settings(deadline=None)
@given(
    pieces=st.dictionaries(PLACES, st.binary(max_size=6000), max_size=6),
    size=st.integers(1, 310_000),
    place=PLACES,
)
def test_copies_are_the_same_and_nothing_else_is(
    pieces: dict[int, bytes], size: int, place: int
) -> None:
    source, copy = memory_files.create("test"), memory_files.create("test")
    for offset, data in pieces.items():
        os.pwrite(source, data, offset)
    os.ftruncate(source, size)

    _sparse_files.copy(source, copy)

    told = _sparse_files.digest(source)
    assert content(copy) == content(source)
    assert _sparse_files.digest(copy) == told
    os.pwrite(copy, content(source), 0)  # with all holes filled
    assert _sparse_files.digest(copy) == told
    (byte,) = os.pread(copy, 1, place % size)
    os.pwrite(copy, bytes([byte ^ 0x80]), place % size)
    assert _sparse_files.digest(copy) != told
    os.pwrite(copy, bytes([byte]), place % size)
    for length in (size - 1, size + 1):
        os.ftruncate(copy, length)
        assert _sparse_files.digest(copy) != told
    os.close(source)
    os.close(copy)


def test_pages_that_change_places_are_found() -> None:
    one, other = memory_files.create("test", MIB), memory_files.create("test", MIB)
    for descriptor, places in ((one, (0, 5)), (other, (5, 0))):
        for place, byte in zip(places, b"ab", strict=True):
            os.pwrite(descriptor, bytes([byte]) * _sparse_files.CHUNK, place * _sparse_files.CHUNK)

    digests = {_sparse_files.digest(one), _sparse_files.digest(other)}

    assert len(digests) == 2
    os.close(one)
    os.close(other)


# --- What was checked ------------------------------------------------------------------------


@pytest.fixture
def settled_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written may be remembered."""
    monkeypatch.setattr(_checked_files, "_SETTLED", -(10**12))


@pytest.fixture
def checked_file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"sound")
    return path


def is_verified(path: Path) -> bool:
    with path.open("rb") as file:
        return VerifiedFile(
            file.fileno(), TrustedTree(path.parent), path.parent / "verified" / "memo"
        ).is_verified


def remember(path: Path) -> None:
    with path.open("rb") as file:
        VerifiedFile(
            file.fileno(), TrustedTree(path.parent), path.parent / "verified" / "memo"
        ).remember()


def rewrite(path: Path) -> None:
    before = path.stat()
    while path.stat().st_mtime_ns == before.st_mtime_ns:  # a clock's tick
        path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(path: Path) -> None:
    path.with_name("new").write_bytes(b"sound")
    path.with_name("new").replace(path)


@pytest.mark.usefixtures("settled_files")
def test_sound_file_is_known(checked_file: Path) -> None:
    assert not is_verified(checked_file)

    remember(checked_file)

    assert is_verified(checked_file)


@pytest.mark.usefixtures("settled_files")
@pytest.mark.parametrize("change", [rewrite, exchange, lambda path: os.truncate(path, 4)])
def test_changed_file_is_not_known(checked_file: Path, change: Callable[[Path], None]) -> None:
    remember(checked_file)

    change(checked_file)

    assert not is_verified(checked_file)


@pytest.mark.usefixtures("settled_files")
@pytest.mark.parametrize(
    "change", [lambda memo: b"", lambda memo: b"0" + memo[1:-9], lambda memo: memo + b" " * 9999]
)
def test_other_memo_says_nothing(checked_file: Path, change: Callable[[bytes], bytes]) -> None:
    remember(checked_file)
    memo = checked_file.parent / "verified" / "memo"
    memo.write_bytes(change(memo.read_bytes()))

    assert not is_verified(checked_file)


@pytest.mark.usefixtures("settled_files")
@pytest.mark.parametrize("harm", OF_FILES)
def test_memo_that_others_decide_on_is_refused(
    checked_file: Path, harm: Callable[[Path], str]
) -> None:
    remember(checked_file)
    said = harm(checked_file.parent / "verified" / "memo")

    for action in (remember, is_verified):
        with pytest.raises(UntrustedFile) as caught:
            action(checked_file)
        assert said in caught.value.message


def test_file_that_was_just_written_is_not_remembered(checked_file: Path) -> None:
    remember(checked_file)

    assert not is_verified(checked_file)


@pytest.mark.usefixtures("settled_files")
def test_verified_snapshot_is_remembered_until_it_is_gone(
    images: ImageStore, key: SnapshotKey, saved_snapshot: StoredSnapshot
) -> None:
    store = SnapshotStore(images)
    opened = store.open(saved_snapshot)

    store.verify(saved_snapshot, opened)

    memos = names(images.root / "verified")
    store.verify(saved_snapshot, opened)
    opened.close()
    assert memos == sorted([saved_snapshot.memory.digest, saved_snapshot.state.digest])
    store.remove(key.name)
    assert names(images.root / "verified") == []


# --- Shapes ----------------------------------------------------------------------------------


class ToyHypervisor:
    """Hypervisor of another host, or of another name."""

    def __init__(
        self, name: str = "qemu", host: str = "this host", architecture: str = "amd64"
    ) -> None:
        self.name = name
        self.architecture = architecture
        self._host = host

    def fingerprint(self) -> str:
        """Return the name of the host."""
        return self._host


def on(assets: Assets, **changes: str) -> Assets:
    """Return ``assets`` for a hypervisor with these ``changes``."""
    return replace(assets, hypervisor=ToyHypervisor(**changes))  # type: ignore[arg-type]


@pytest.fixture
def assets(images: ImageStore) -> Assets:
    archive = put_agent(images)
    agent = Agent(archive, archive.path, archive.blob.digest, "1", "rdinit=x -- y")
    image, kernel = put_image(images), put_kernel(images)
    language = catalogue.find_language("python")
    toy = ToyHypervisor()
    return Assets(language, image, kernel, agent, archive.path, None, 256 * MIB, toy)  # type: ignore[arg-type]


def test_shape_says_what_it_is_of(assets: Assets) -> None:
    key = SnapshotKey.of(assets, 2)

    assert key.name == "toy-amd64-qemu-256m-2"
    assert len(key.inputs) == 64
    assert key == SnapshotKey.of(assets, 2)
    assert hash(key) == hash(SnapshotKey.of(assets, 2))


def test_whatever_changes_makes_another_shape(assets: Assets) -> None:
    language = assets.language
    phase = replace(language.run, command=("another",))
    changed = [
        replace(assets, image=replace(assets.image, digest="0" * 64)),
        replace(assets, kernel=replace(assets.kernel, digest="0" * 64)),
        replace(assets, agent=replace(assets.agent, digest="0" * 64)),
        replace(assets, agent=replace(assets.agent, kernel_arguments="other")),
        replace(assets, memory=512 * MIB),
        replace(assets, memory=256 * MIB + 4096),
        replace(assets, language=replace(language, run=phase)),
        replace(assets, language=replace(language, build=phase)),
        replace(assets, language=replace(language, environment={"A": "b"})),
        replace(assets, language=replace(language, sample="another")),
        replace(assets, language=replace(language, source="another.py")),
    ]
    keys = [SnapshotKey.of(other, 1) for other in (assets, *changed)]
    keys.append(SnapshotKey.of(on(assets, host="another host"), 1))
    keys.append(SnapshotKey.of(on(assets, name="kvm"), 1))
    keys.append(SnapshotKey.of(on(assets, architecture="arm64"), 1))
    keys.append(SnapshotKey.of(assets, 2))
    keys.append(SnapshotKey.of(assets, 1, network=True))
    keys.append(SnapshotKey.of(assets, 1, port=PortKind.SERIAL))
    keys.append(SnapshotKey.of(assets, 1, port=PortKind.TCP))

    assert len({key.inputs for key in keys}) == len(keys)


def test_kernels_have_snapshots_of_their_own(images: ImageStore, assets: Assets) -> None:
    small = replace(assets, kernel=put_kernel(images, name=SMALL_KERNEL, content=b"small"))
    keys = [SnapshotKey.of(replace(each, memory=MEMORY), 1) for each in (assets, small)]
    store, snapshot = SnapshotStore(images), write_snapshot({4096: b"x"})

    stored = [store.save(key, snapshot) for key in keys]

    assert keys[1].name == f"{keys[0].name}-small"
    assert not keys[1].replaces(keys[0])
    assert [store.find(key) for key in keys] == stored
    snapshot.close()


def test_other_version_makes_another_shape(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    before = SnapshotKey.of(assets, 1)
    monkeypatch.setattr("slipway_protocol.__version__", "99.0")

    assert SnapshotKey.of(assets, 1) != before


def test_machine_whose_agent_is_on_the_network_has_the_same_snapshot_for_all_rules(
    assets: Assets,
) -> None:
    plain, with_rules = Options(port="tcp"), Options(port="tcp", network=Network())

    key = SnapshotKey.of_run(assets, plain)

    assert (key.port, key.network) == (PortKind.TCP, True)
    assert SnapshotKey.of_run(assets, with_rules) == key
    assert SnapshotKey.of_run(assets, Options()).port is PortKind.VIRTIO


def test_missing_snapshot_of_another_port_names_the_port(key: SnapshotKey) -> None:
    ports = (PortKind.VIRTIO, PortKind.SERIAL, PortKind.TCP)
    reasons = [build_missing_error(replace(key, port=port)).reason for port in ports]

    assert reasons == [
        "no matching snapshot",
        "no matching snapshot for the port serial",
        "no matching snapshot for the port tcp",
    ]


def test_what_is_asked_for_may_not_be_cloned(assets: Assets) -> None:
    check_clonable(assets, Options())
    with pytest.raises(NoSnapshot, match="kernel"):
        check_clonable(replace(assets, other_kernel=Path("vmlinux")), Options())
    with pytest.raises(NoSnapshot, match="boot"):
        check_clonable(assets, Options(boot_log=True))
