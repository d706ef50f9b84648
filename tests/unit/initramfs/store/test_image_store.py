from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.root import default_root
from slipway_initramfs.units import MIB
from support.stores import names, put_agent, put_image, writer
from support.waiting import block_until

if TYPE_CHECKING:
    from typing import BinaryIO


def test_the_default_store_is_below_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert default_root() == Path("/var/cache/me/slipway")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_root() == Path("/home/me/.cache/slipway")


def test_lookups_in_an_empty_store_create_no_files(store: ImageStore) -> None:
    assert store.image("python") is None
    assert store.images() == []
    assert store.kernel() is None
    assert store.archive("agent", "1") is None
    assert not store.root.exists()


def test_an_image_is_found_by_name_and_by_digest(store: ImageStore) -> None:
    image = put_image(store)

    assert store.image(image.digest[:8]) == image
    assert store.image(image.digest[:5]) is None
    assert store.image("toy", "arm64") is None
    assert store.images() == [image]


def test_versions_of_a_language_lie_side_by_side(store: ImageStore) -> None:
    plain, versioned = put_image(store, "toy"), put_image(store, "toy@1.80", b"another")

    assert store.image("toy", "amd64") == plain
    assert store.image("toy@1.80", "amd64") == versioned


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the images of this test are amd64's")
def test_a_bare_name_stands_for_the_default(store: ImageStore) -> None:
    plain, versioned = put_image(store, "toy"), put_image(store, "toy@1.80", b"another")

    store.set_default("toy@1.80")
    assert store.image("toy") == versioned

    store.set_default("toy")
    assert store.image("toy") == plain


def test_default_counts_for_each_architecture_that_has_its_image(store: ImageStore) -> None:
    plain = {name: put_image(store, "toy", name.encode(), name) for name in ("amd64", "arm64")}
    versioned = put_image(store, "toy@1.80", b"another", "arm64")

    store.set_default("toy@1.80")

    assert store.image("toy", "arm64") == versioned
    assert store.image("toy", "amd64") == plain["amd64"]
    assert [store.default("toy", name) for name in ("amd64", "arm64")] == ["", "toy@1.80"]
    assert store.find_architectures("toy") == ["amd64", "arm64"]
    assert store.find_architectures("toy@1.80") == ["arm64"]


def test_a_missing_image_cannot_be_the_default(store: ImageStore) -> None:
    with pytest.raises(ImageError, match=r"toy@1\.80") as caught:
        store.set_default("toy@1.80")

    assert "slipway image build toy@1.80" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "a\0b", "x" * 500])
def test_impossible_names_are_no_images(store: ImageStore, name: str) -> None:
    assert store.image(name) is None


def test_equal_content_is_stored_once(store: ImageStore) -> None:
    put_image(store, "one")
    put_image(store, "two")

    assert len(names(store.root / "blobs")) == 1


def test_memory_grows_with_the_image_in_whole_mebibytes(store: ImageStore) -> None:
    small = put_image(store, "small", b"x")
    large = put_image(store, "large", b"x" * (10 * MIB))

    assert large.minimum_memory - small.minimum_memory >= 10 * MIB
    assert small.minimum_memory > 100 * MIB
    assert small.minimum_memory % MIB == 0
    assert small.default_memory == small.minimum_memory + 64 * MIB


def test_verify_finds_a_changed_byte_and_a_cut_file(store: ImageStore) -> None:
    image = put_image(store)
    image.verify()

    image.root_archive.write_bytes(b"root_archive")
    image.quick_check()
    with pytest.raises(ImageCorrupted, match="'toy' is damaged"):
        image.verify()

    image.root_archive.write_bytes(b"root")
    with pytest.raises(ImageCorrupted):
        image.quick_check()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 2}',
        b'{"format": 99, "kind": "image"}',
        b'{"format": 2, "kind": "image", "memory": 1}',
        b'{"format": 2, "kind": "image", "memory": -1}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_damaged_manifest_is_corrupted_and_not_listed(store: ImageStore, data: bytes) -> None:
    image = put_image(store)
    (store.root / "manifests" / f"{image.digest}.json").write_bytes(data)

    with pytest.raises(ImageCorrupted):
        store.image("toy", "amd64")
    assert store.images() == []


@pytest.mark.parametrize(("name", "architecture"), [("toy", "arm64"), ("other", "amd64")])
def test_an_image_copied_into_the_place_of_another_is_corrupted_and_not_listed(
    store: ImageStore, name: str, architecture: str
) -> None:
    image, other = put_image(store), put_image(store, name, b"other", architecture)
    places = store.root / "refs/image"

    (places / f"{name}-{architecture}").write_bytes((places / "toy-amd64").read_bytes())

    with pytest.raises(ImageCorrupted, match=f"{other.key} in the store is in truth toy-amd64"):
        store.image(name, architecture)
    assert store.images() == [image]


def test_a_manifest_cannot_name_a_file_outside_of_the_store(store: ImageStore) -> None:
    image = put_image(store)
    path = store.root / "manifests" / f"{image.digest}.json"
    manifest = json.loads(path.read_text())
    manifest["archive"]["digest"] = "../../etc/passwd"
    path.write_text(json.dumps(manifest))

    with pytest.raises(ImageCorrupted):
        store.image("toy", "amd64")


@pytest.mark.parametrize("data", [b"", b"zz", b"../../x", b"a" * 64 + b"b"])
def test_a_damaged_reference_is_no_image(store: ImageStore, data: bytes) -> None:
    put_image(store)
    (store.root / "refs/image/toy-amd64").write_bytes(data)

    assert store.image("toy", "amd64") is None


def test_a_reference_to_a_lost_manifest_is_corrupted(store: ImageStore) -> None:
    image = put_image(store)
    (store.root / "manifests" / f"{image.digest}.json").unlink()

    with pytest.raises(ImageCorrupted, match="lost"):
        store.image("toy", "amd64")


def test_an_archive_is_written_once(store: ImageStore) -> None:
    made = []

    def write(file: BinaryIO) -> None:
        made.append(1)
        file.write(b"agent")

    first = store.put_archive("agent", "key", write)
    second = store.put_archive("agent", "key", write)

    assert first == second == store.archive("agent", "key")
    assert made == [1]
    assert first.path.read_bytes() == b"agent"


def test_a_damaged_archive_is_written_again(store: ImageStore) -> None:
    archive = put_agent(store)
    archive.path.write_bytes(b"AGENT")

    assert put_agent(store).path.read_bytes() == b"agent"


def test_a_failing_writer_leaves_no_file(store: ImageStore) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.put_archive("agent", "key", fail)

    assert store.archive("agent", "key") is None
    assert names(store.temporary) == []


def test_a_full_disk_is_an_error_that_says_where(store: ImageStore) -> None:
    def write(_: BinaryIO) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(BuildFailed, match="No space left") as caught:
        store.put_archive("agent", "key", write)

    assert str(store.root) in caught.value.message


def test_a_read_only_store_is_an_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")

    with pytest.raises(BuildFailed, match="cannot write"):
        put_agent(ImageStore(blocker / "store"))


# -- several processes ---------------------------------------------------------------------------

BUILDER = """
import sys, time
from pathlib import Path
from slipway_initramfs.store.image_store import ImageStore

def write(file):
    file.write(b"first half ")
    file.flush()
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
    file.write(b"second half")

archive = ImageStore(Path(sys.argv[1])).put_archive("agent", "key", write)
print(archive.digest)
"""


def start_builder(store: ImageStore, log: Path, go: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, store.root, log, go], stdout=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> None:
    block_until(path.exists, f"{path} is there")


def test_processes_that_need_the_same_archive_write_it_once(
    store: ImageStore, tmp_path: Path
) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    builders = [start_builder(store, log, go) for _ in range(4)]
    wait_for(log)
    go.touch()

    digests = {builder.communicate(timeout=60)[0] for builder in builders}

    assert len(digests) == 1
    assert log.read_text() == "made\n"


def test_a_killed_builder_leaves_a_store_that_works_and_is_swept(
    store: ImageStore, tmp_path: Path
) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    killed = start_builder(store, log, go)
    wait_for(log)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert len(names(store.temporary)) == 1

    archive = store.put_archive("agent", "key", writer(b"whole"))

    assert archive.path.read_bytes() == b"whole"
    assert names(store.temporary) == []


def test_a_builder_at_work_is_not_swept(store: ImageStore, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    slow = start_builder(store, log, go)
    wait_for(log)

    store.put_archive("agent", "another", writer(b"x"))
    go.touch()
    slow.communicate(timeout=60)

    archive = store.archive("agent", "key")
    assert archive is not None
    assert archive.path.read_bytes() == b"first half second half"


def test_a_wait_for_another_builder_is_reported(store: ImageStore, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    slow = start_builder(store, log, go)
    wait_for(log)
    told = []

    def report(line: str) -> None:
        told.append(line)
        go.touch()

    with store.building("archive-agent-key", report):
        pass

    slow.communicate(timeout=60)
    assert len(told) == 1
    assert "waiting" in told[0]


@pytest.mark.parametrize("name", ["../toy", "toy/../../x", "", "@1"])
def test_no_impossible_name_can_be_a_default(store: ImageStore, name: str) -> None:
    with pytest.raises(ImageError, match=r"invalid name|unknown image"):
        store.set_default(name)


def test_a_failed_rename_is_reported_and_leaves_no_file(store: ImageStore) -> None:
    with store.building("toy"):
        (store.root / "refs" / "toy" / "key").mkdir(parents=True)

        with pytest.raises(BuildFailed, match="cannot write below"):
            store.put_record("toy", "key", {})

    assert names(store.temporary) == []
