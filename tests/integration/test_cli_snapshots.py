"""``slipway snapshot``, snapshots by ``image build``, and ``run --cold`` with real machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import slipway
from slipway._local.runtime import AsyncRuntime
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway._run.launcher import DamagedImage
from slipway._snapshots.create import create_snapshot
from slipway._snapshots.key import SnapshotKey
from slipway._snapshots.store import SnapshotStore
from slipway.machine import memory_files
from slipway.machine.model import PortKind, Snapshot
from slipway.machine.qemu_hypervisor import QemuHypervisor
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.store.records import SMALL_KERNEL
from support.commands import PATIENCE
from support.stores import flip_a_byte, names, put_image, put_kernel
from support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway_initramfs.store.image_store import ImageStore
    from support.commands import Commands


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello.sh"
    path.write_text("echo hello")
    return path


@pytest.fixture
def assets(store: ImageStore) -> Assets:
    return find_assets(find_language("bash"), Options(), store, print)


@pytest.fixture
def key(assets: Assets) -> SnapshotKey:
    return SnapshotKey.of(replace(assets, hypervisor=QemuHypervisor()), 1)


def keep(store: ImageStore, key: SnapshotKey) -> SnapshotKey:
    """Keep a snapshot of this key that no machine ever was."""
    memory = memory_files.create("test", key.memory_bytes)
    state = memory_files.create("test", 5000)
    os.pwrite(memory, bytes([key.cpus]) * (1 << 20), 1 << 20)
    snapshot = Snapshot(
        key.hypervisor, key.architecture, key.memory_bytes, key.cpus, PortKind.VIRTIO, memory, state
    )
    SnapshotStore(store).save(key, snapshot)
    snapshot.close()
    return key


def states(commands: Commands, store: ImageStore) -> dict[str, str]:
    """Why each snapshot is stale, by its key."""
    ended = commands("slipway", "snapshot", "list", "--json", "--store", store.root)
    assert ended.code == 0, ended.stderr
    return {record["key"]: record["stale"] for record in json.loads(ended.stdout)}


# --- What is there ---------------------------------------------------------------------------


def test_snapshots_are_listed(commands: Commands, store: ImageStore, key: SnapshotKey) -> None:
    keep(store, key)

    ended = commands("slipway", "snapshot", "list", "--store", store.root)
    records = commands("slipway", "snapshot", "list", "--json", "--store", store.root)

    heading, row = ended.stdout.decode().splitlines()
    assert " ".join(heading.split()) == "KEY IMAGE ARCH MACHINE MEMORY CPUS MIB CREATED USED STATE"
    assert row.split()[:6] == [
        key.name,
        "bash",
        key.architecture,
        "qemu",
        str(key.memory_bytes >> 20),
        "1",
    ]
    assert row.split()[-1] == "current"
    (record,) = json.loads(records.stdout)
    assert (record["key"], record["image"], record["machine"]) == (key.name, "bash", "qemu")
    assert (record["memory"], record["cpus"]) == (key.memory_bytes, 1)
    assert record["network"] is False
    assert (record["current"], record["stale"]) == (True, "")
    assert 1 << 20 <= record["disk_bytes"] < 3 << 20
    assert record["made"].endswith("Z")
    assert record["used"].endswith("Z")


@pytest.mark.skipif(machine_architecture() != "amd64", reason="a kernel of amd64")
def test_snapshots_of_both_kernels_are_current(
    commands: Commands, store: ImageStore, assets: Assets, key: SnapshotKey
) -> None:
    small = put_kernel(store, name=SMALL_KERNEL, content=b"small")
    other = SnapshotKey.of(replace(assets, hypervisor=QemuHypervisor(), kernel=small), 1)
    keep(store, key)
    keep(store, other)

    before = states(commands, store)
    commands("slipway", "kernel", "remove", "small", "--store", store.root)

    assert before == {key.name: "", other.name: ""}
    assert states(commands, store) == {key.name: "", other.name: "its kernel was removed"}


def test_a_named_kernel_that_the_store_lacks_is_told(
    commands: Commands, store: ImageStore, hello: Path
) -> None:
    commands("slipway", "kernel", "remove", "small", "--store", store.root)

    ended = commands("vmm-run", "--kernel", "small", "--store", store.root, hello)

    assert (ended.code, ended.stdout) == (125, b"")
    assert f"no kernel 'small' for {machine_architecture()}" in ended.stderr
    assert f"slipway kernel build --arch {machine_architecture()}" in ended.stderr


def test_empty_store_is_told(commands: Commands, tmp_path: Path) -> None:
    ended = commands("slipway", "snapshot", "list", "--store", tmp_path / "none")

    assert (ended.code, ended.stdout) == (0, b"")
    assert "slipway image build python" in ended.stderr


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("version", "another version of Slipway"),
        ("image", "image was replaced"),
        ("kernel", "kernel was replaced"),
        ("agent", "agent was replaced"),
        ("language", "language file was changed"),
        ("host", "another CPU, kernel or VMM"),
    ],
)
def test_stale_snapshot_is_told_with_the_reason(
    commands: Commands, store: ImageStore, key: SnapshotKey, part: str, why: str
) -> None:
    current = dict(key.parts)
    if part == "image":  # another of the store's, or it would be swept
        current["image"] = put_image(store).digest
    else:
        current[part] = "other"
    keep(store, replace(key, inputs="ab" * 32, parts=tuple(current.items())))

    ended = commands("slipway", "snapshot", "list", "--store", store.root)

    assert f"stale: {'its ' if part in {'image', 'language'} else ''}" in ended.stdout.decode()
    assert why in states(commands, store)[key.name]


def test_lost_file_is_told(commands: Commands, store: ImageStore, key: SnapshotKey) -> None:
    keep(store, key)
    (stored,) = SnapshotStore(store).list()
    stored.state.path.unlink()

    assert "lost" in states(commands, store)[key.name]


# --- Removing --------------------------------------------------------------------------------


def test_snapshots_are_removed_by_key_or_all(
    commands: Commands, store: ImageStore, key: SnapshotKey
) -> None:
    keys = [keep(store, replace(key, cpus=cpus)).name for cpus in (1, 2, 3)]

    one = commands("slipway", "snapshot", "remove", keys[0], "--store", store.root)
    left = sorted(states(commands, store))
    rest = commands("slipway", "snapshot", "remove", "--all", "--store", store.root)

    assert (one.code, rest.code) == (0, 0)
    assert f"removed {keys[0]}: 1 MiB" in one.stderr
    assert left == keys[1:]
    assert states(commands, store) == {}
    assert store.image("bash") is not None


def test_unknown_snapshot_names_the_near_ones_and_removes_nothing(
    commands: Commands, store: ImageStore, key: SnapshotKey
) -> None:
    keep(store, key)

    ended = commands(
        "slipway", "snapshot", "remove", key.name, "bash-qemu-1m-1", "--store", store.root
    )

    assert ended.code == 2
    assert "snapshot 'bash-qemu-1m-1' not found" in ended.stderr
    assert f"Did you mean {key.name}?" in ended.stderr
    assert list(states(commands, store)) == [key.name]


@pytest.mark.parametrize("arguments", [(), ("--all", "bash-qemu-1m-1"), ("../../x",)])
def test_wrong_removals_are_refused(
    commands: Commands, store: ImageStore, arguments: tuple[str, ...]
) -> None:
    ended = commands("slipway", "snapshot", "remove", *arguments, "--store", store.root)

    assert ended.code == 2
    assert "hint: " in ended.stderr


def test_damaged_record_can_be_removed(
    commands: Commands, store: ImageStore, key: SnapshotKey
) -> None:
    keep(store, key)
    (store.root / "refs" / "snapshot" / key.name).write_text("damaged")

    listed = states(commands, store)
    ended = commands("slipway", "snapshot", "remove", "--all", "--store", store.root)

    assert listed == {}
    assert ended.code == 0, ended.stderr
    assert store.names("snapshot") == []


def test_snapshots_go_with_their_image(
    commands: Commands, store: ImageStore, key: SnapshotKey
) -> None:
    keep(store, key)

    ended = commands("slipway", "image", "remove", "bash", "--store", store.root)

    assert ended.code == 0
    assert states(commands, store) == {}


def test_prune_removes_the_stale_ones(
    commands: Commands, store: ImageStore, key: SnapshotKey
) -> None:
    current = keep(store, key)
    parts = tuple({**dict(key.parts), "host": "other"}.items())
    keep(store, replace(key, cpus=2, parts=parts))

    ended = commands("slipway", "image", "prune", "--store", store.root)

    assert ended.code == 0
    assert list(states(commands, store)) == [current.name]


def test_lists_of_the_store_have_size_and_last_use(
    commands: Commands, store: ImageStore, key: SnapshotKey
) -> None:
    keep(store, key)
    (stored,) = SnapshotStore(store).list()
    os.utime(stored.reference, (86400, 86400))
    where = ("--store", store.root)

    images = json.loads(commands("slipway", "image", "list", "--json", *where).stdout)
    shown = commands("slipway", "image", "list", *where)
    uses = json.loads(commands("slipway", "image", "du", "--json", *where).stdout)["uses"]
    table = commands("slipway", "image", "du", *where)

    (image,) = images
    record = {"key": key.name, "bytes": stored.disk_bytes, "used": "1970-01-02T00:00:00Z"}
    assert image["snapshots"] == [record]
    assert shown.stdout.decode().split()[8] == "SNAPSHOTS"
    assert [use["used"] for use in uses if use["kind"] == "snapshot"] == ["1970-01-02T00:00:00Z"]
    assert "1970-01-02T00:00:00Z" in table.stdout.decode()
    assert "1 snapshot takes 1 MiB of at most " in table.stderr


def test_prune_keeps_to_the_budget(commands: Commands, store: ImageStore, key: SnapshotKey) -> None:
    for cpus in (1, 2, 3):
        keep(store, replace(key, cpus=cpus))
    for stored in SnapshotStore(store).list():
        os.utime(stored.reference, (stored.key.cpus * 86400, stored.key.cpus * 86400))
    where = ("--store", store.root, "--snapshot-budget", "1500K")

    tried = commands("slipway", "image", "prune", "--dry-run", *where)
    listed = states(commands, store)
    pruned = commands("slipway", "image", "prune", *where)

    over = [f"snapshot over the budget {replace(key, cpus=cpus).name}" for cpus in (1, 2)]
    assert tried.stdout.decode().splitlines()[:2] == over
    assert len(listed) == 3
    assert pruned.code == 0
    assert list(states(commands, store)) == [replace(key, cpus=3).name]


# --- Making and using ------------------------------------------------------------------------


def test_wrong_calls_of_build_are_refused_before_any_work(
    commands: Commands, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "none")
    calls = {
        ("--no-snapshot", "--machine", "qemu"): "--machine and --no-snapshot exclude each other",
        ("--no-snapshot", "--port", "tcp"): "--port and --no-snapshot exclude each other",
        ("--no-snapshot", "--network"): "--network and --no-snapshot exclude each other",
        ("--no-snapshot", "--snapshot-budget", "1G"): "--snapshot-budget and --no-snapshot",
        ("--snapshot-budget", "lots"): "'lots' is not a size",
        ("--snapshot-budget", "-1"): "--snapshot-budget is negative",
        ("--machine", "vax"): "--machine is 'vax'",
        ("--arch", "mips"): "--arch is 'mips'",
    }
    for arguments, message in calls.items():
        ended = commands("slipway", "image", "build", "bash", *arguments, *store)

        assert ended.code == 2
        assert message in ended.stderr
        assert "hint: " in ended.stderr
    assert not (tmp_path / "none" / "refs").exists()


def test_cold_is_refused_for_a_server(commands: Commands, hello: Path, tmp_path: Path) -> None:
    ended = commands("vmm-run", "--cold", "--api-sock", tmp_path / "none.sock", hello)

    assert ended.code == 2
    assert "--cold is not available with --api-sock" in ended.stderr


def test_run_without_a_snapshot_boots_and_says_why(
    commands: Commands, store: ImageStore, hello: Path
) -> None:
    ended = commands("vmm-run", "--json", "--store", store.root, "--machine", "qemu", hello)

    record = json.loads(ended.stdout)
    assert record["run"]["stdout"]["text"] == "hello\n"
    assert record["start"] == "cold"
    assert "no matching snapshot" in record["start_reason"]
    assert min(record["timing"][step] for step in ("boot", "agent", "ready")) > 0


def test_run_that_booted_for_lack_of_a_snapshot_says_on_a_terminal_how_to_take_one(
    commands: Commands, store: ImageStore, hello: Path
) -> None:
    commands.environment["TERM"] = "xterm"
    ours, theirs = os.openpty()
    where = ("--store", store.root, "--machine", "qemu")

    with commands.start("vmm-run", *where, hello, stderr=theirs) as process:
        os.close(theirs)
        stdout, _ = process.communicate(timeout=PATIENCE)
    shown = os.read(ours, 65536).decode()
    os.close(ours)

    assert (process.returncode, stdout) == (0, b"hello\n")
    command = f"slipway image build --machine qemu --store {store.root} bash"
    assert f"for faster starts: {command}\r\n" in shown


def test_built_snapshot_is_used_unless_the_machine_is_to_be_cold(
    commands: Commands, store: ImageStore, hello: Path
) -> None:
    where = ("--store", store.root, "--machine", "qemu")
    built = commands("slipway", "image", "build", "bash", *where)
    listed = states(commands, store)
    again = commands("slipway", "image", "build", "bash", *where)
    cloned = commands("vmm-run", "--json", *where, hello)
    cold = commands("vmm-run", "--json", "--cold", *where, hello)
    shown = commands("vmm-run", "--verbose", *where, hello)
    single = slipway.run("echo hello", "bash", store=store.root, machine="qemu")

    assert built.code == 0, built.stderr
    (key,) = listed
    assert f"slipway: snapshot {key}: " in built.stderr
    assert "creating a snapshot" in built.stderr
    assert "slipway: 1 snapshot takes " in built.stderr
    assert again.code == 0, again.stderr
    assert "creating" not in again.stderr
    assert " MiB, current\n" in again.stderr
    assert listed == {key: ""}
    records = [json.loads(ended.stdout) for ended in (cloned, cold)]
    assert [record["run"]["stdout"]["text"] for record in records] == ["hello\n"] * 2
    assert [record["start"] for record in records] == ["snapshot", "cold"]
    assert records[0]["start_reason"] == ""
    assert records[0]["timing"]["restore"] > 0
    assert records[1]["timing"]["restore"] == 0
    assert (single.stdout, single.provenance.start) == ("hello\n", "snapshot")
    assert shown.stdout == b"hello\n"
    assert "slipway: start snapshot on qemu, port virtio\n" in shown.stderr
    assert commands.leftovers() == []


def test_no_snapshot_takes_none(commands: Commands, store: ImageStore) -> None:
    ended = commands("slipway", "image", "build", "--no-snapshot", "bash", "--store", store.root)

    assert ended.code == 0, ended.stderr
    assert "snapshot" not in ended.stderr
    assert states(commands, store) == {}


def test_snapshot_that_cannot_be_taken_is_a_warning_unless_it_is_required(
    commands: Commands, store: ImageStore, tmp_path: Path
) -> None:
    where = ("bash", "--store", store.root, "--machine", "qemu")
    commands("slipway", "image", "build", "--no-snapshot", "bash", "--store", store.root)
    commands.environment["PATH"] = str(tmp_path)

    built = commands("slipway", "image", "build", *where)
    required = commands("slipway", "image", "build", "--snapshot", *where)

    assert built.code == 0, built.stderr
    assert "warning: no snapshot of bash: QEMU is not installed" in built.stderr
    assert "hint: " in built.stderr
    assert required.code == 125
    assert "error: QEMU is not installed" in required.stderr
    assert store.image("bash") is not None


def test_budget_of_the_environment_is_a_warning_and_bounds_the_snapshots(
    commands: Commands, store: ImageStore, key: SnapshotKey
) -> None:
    keep(store, replace(key, cpus=2))
    commands.environment["SLIPWAY_SNAPSHOT_BUDGET"] = "16M"

    built = commands("slipway", "image", "build", "bash", "--store", store.root)
    commands.environment["SLIPWAY_SNAPSHOT_BUDGET"] = "much"
    wrong = commands("slipway", "image", "build", "bash", "--store", store.root)

    assert built.code == 0, built.stderr
    assert "warning: no snapshot of bash: the snapshot bash-" in built.stderr
    assert "the budget for snapshots is 16 MiB" in built.stderr
    assert "1 snapshot takes 1 MiB of at most 16 MiB" in built.stderr
    assert wrong.code == 2
    assert "SLIPWAY_SNAPSHOT_BUDGET: 'much' is not a size" in wrong.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_creation_that_is_ended_leaves_nothing_that_counts(
    commands: Commands, store: ImageStore, number: signal.Signals
) -> None:
    where = ("--store", store.root, "--machine", "qemu")
    begun = commands.start("slipway", "image", "build", "bash", *where)
    assert begun.stderr is not None
    for line in begun.stderr:
        if b"running the sample program" in line:
            break
    begun.send_signal(number)
    begun.communicate(timeout=PATIENCE)
    left = commands.leftovers()

    listed = states(commands, store)
    built = commands("slipway", "image", "build", "bash", *where)

    assert begun.returncode == (-number if number is signal.SIGKILL else 128 + number)
    assert (listed, left) == ({}, [])
    assert built.code == 0, built.stderr
    assert "waiting for another process" not in built.stderr
    assert list(states(commands, store).values()) == [""]
    assert names(store.temporary) == []
    assert commands.leftovers() == []


def test_snapshot_with_a_network_serves_runs_with_any_rules(
    commands: Commands, store: ImageStore
) -> None:
    where = ("--store", store.root, "--machine", "qemu")
    source = ("--language", "bash", "-c", "getent hosts a.example; getent hosts b.example")
    built = commands("slipway", "image", "build", "--network", "bash", *where)
    listed = states(commands, store)
    ended = commands("vmm-run", "--json", *where, "--allow", "a.example", *source)

    assert built.code == 0, built.stderr
    (key,) = listed
    assert "-network" in key  # the name of another kernel may follow
    record = json.loads(ended.stdout)
    assert (record["start"], record["start_reason"]) == ("snapshot", "")
    assert record["run"]["stdout"]["text"].split() == ["198.18.1.0", "a.example"]
    assert [each["destination"] for each in record["network"]["denied"]] == ["b.example"]
    assert commands.leftovers() == []


def test_damaged_image_is_built_again_before_its_snapshot(
    commands: Commands, store: ImageStore
) -> None:
    where = ("--store", store.root)
    # With a kernel of this version.
    commands("slipway", "image", "build", "--no-snapshot", "bash", *where)
    flip_a_byte(find_assets(find_language("bash"), Options(), store, print).initrd)

    built = commands("slipway", "image", "build", "bash", *where, "--machine", "qemu")

    assert built.code == 0, built.stderr
    assert "the stored image is damaged; building it again" in built.stderr
    assert list(states(commands, store).values()) == [""]


async def test_pool_builds_a_damaged_image_again_before_its_snapshot(
    commands: Commands, store: ImageStore
) -> None:
    # With a kernel of this version.
    commands("slipway", "image", "build", "--no-snapshot", "bash", "--store", store.root)
    flip_a_byte(find_assets(find_language("bash"), Options(), store, print).initrd)

    async with AsyncRuntime(store=store.root, machine="qemu", pool=1, warm=["bash"]) as runtime:
        await wait_until(lambda: runtime.idle == 1, "a clone waits in the pool", PATIENCE)
        result = await runtime.run("echo hello", "bash", timeout=PATIENCE)

    assert (result.stdout, result.provenance.start) == ("hello\n", "pool")


async def test_snapshot_of_a_damaged_image_reports_the_damage_and_no_build(
    store: ImageStore, assets: Assets
) -> None:
    assets = replace(assets, hypervisor=QemuHypervisor())
    flip_a_byte(assets.initrd)

    with pytest.raises(DamagedImage) as error:
        await create_snapshot(assets, Options(), store, print)

    assert error.value.message == "the stored image is damaged"
    assert SnapshotStore(store).list() == []


@pytest.mark.usefixtures("assets")
def test_full_disk_is_told_and_no_snapshot_is_left(
    commands: Commands, store: ImageStore, hello: Path
) -> None:
    where = ("--store", store.root, "--machine", "qemu")
    blobs = names(store.root / "blobs")
    mount = f'mount -t tmpfs -o size=20m,mode=755 none {store.temporary} && exec "$@"'
    namespaces = "-m" if os.geteuid() == 0 else "-Urm"
    commands.prefix = ("unshare", namespaces, "sh", "-c", mount, "sh")

    built = commands("slipway", "image", "build", "--snapshot", "bash", *where)
    commands.prefix = ()
    ended = commands("vmm-run", "--json", *where, hello)

    assert built.code == 125
    assert "needs about" in built.stderr
    assert "slipway image prune" in built.stderr
    assert names(store.root / "blobs") == blobs
    assert states(commands, store) == {}
    assert json.loads(ended.stdout)["start"] == "cold"
    assert commands.leftovers() == []


@pytest.mark.parametrize("part", ["state"])  # the memory: tests/behaviour/test_pool.py
def test_damaged_snapshot_is_removed_and_the_run_boots(
    commands: Commands, store: ImageStore, hello: Path, part: str
) -> None:
    where = ("--store", store.root, "--machine", "qemu")
    commands("slipway", "image", "build", "bash", *where)
    (stored,) = SnapshotStore(store).list()
    path = getattr(stored, part).path
    with path.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte ^ 1]))

    ended = commands("vmm-run", "--json", *where, hello)

    record = json.loads(ended.stdout)
    assert record["run"]["stdout"]["text"] == "hello\n"
    assert record["start"] == "cold"
    assert record["start_reason"] != ""
    assert SnapshotStore(store).list() == []
    assert commands.leftovers() == []


def test_plain_run_imports_no_more_than_it_needs(store: ImageStore, hello: Path) -> None:
    unwanted = ("fastapi", "uvicorn", "pydantic", "httpx", "mcp", "slipway._snapshots.templates",
                "slipway._cli.snapshot", "slipway._cli.image")  # fmt: skip
    code = (
        "import os, sys\n"
        "from slipway._cli import run\n"
        f"sys.exit(run.run_command({['--store', str(store.root), str(hello)]!r}, 'vmm-run')"
        f" or sorted(set({unwanted!r}) & set(sys.modules)))"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert ended.stdout == b"hello\n"
    assert ended.stderr.splitlines()[-1] == b"[]"
