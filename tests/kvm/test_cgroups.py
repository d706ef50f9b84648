"""Cgroups of machines, on a host that has them: the lab."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvm.test_clones import ask, counter
from slipway import HostError, SlipwayError
from slipway.jail.cgroup import GroupLimits
from slipway.jail.cgroup_place import LEAF, GroupPlace, find_tree
from slipway.machine.host_limits import find_place
from slipway.machine.kvm_booter import KvmBooter
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import PortKind
from support.bare_metal import PATIENCE
from support.guest_code import COM1, COM2, Code, build_kernel
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvm.conftest import Boot
    from slipway.machine.kvm import KvmMachine
    from slipway.machine.model import MachineSpec

MIB = 1 << 20
# What a guest writes to, beyond its kernel.
TOUCHED = 24 * MIB
ORDINARY_USER = 54321

# Starts a program in a cgroup of its own, tells where, and waits.
OWNER = """
import subprocess, sys, time
from slipway.jail.cgroup import GroupLimits
from slipway.jail.cgroup_place import open_place
place = open_place()
group = place.create(GroupLimits.for_machine(64 << 20, 1))
program = subprocess.Popen(["sleep", "1000"])
group.adopt(program.pid)
print(place.path, group.name, program.pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def place() -> GroupPlace:
    """The place for cgroups; without one these tests are skipped, and run in the lab."""
    found = find_place()
    if isinstance(found, HostError):
        pytest.skip(found.message)
    return found


@pytest.fixture
def delegated(place: GroupPlace) -> Iterator[Path]:
    """A cgroup that belongs to an ordinary user, as systemd delegates one."""
    top = find_tree(
        Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    ).mount
    group = top / f"delegated-{os.getpid()}"
    group.mkdir()
    for path in (group, *(group / f"cgroup.{name}" for name in ("procs", "subtree_control"))):
        os.chown(path, ORDINARY_USER, ORDINARY_USER)
    yield group
    (group / "cgroup.kill").write_text("1")
    for path in sorted(group.glob("**/"), reverse=True):
        while path.exists():
            with suppress(OSError):
                path.rmdir()


def touching() -> Code:
    """Waits for a byte on the second port, writes to much memory, says so, and waits."""
    code = Code().text(COM1, b"ready\n").wait_for_byte(COM2).read_port(COM2)
    code.touch_each(16 * MIB, TOUCHED).out(COM2, ord("x"))
    return code.label("end").wait_for_byte(COM2).read_port(COM2).jump("end")


def read_group(process: int) -> str:
    """Return the path of the cgroup of a process, below the mount."""
    (line,) = Path(f"/proc/{process}/cgroup").read_text().splitlines()
    return line.removeprefix("0::")


def read_limits(place: GroupPlace, process: int) -> dict[str, str]:
    group = place.path / Path(read_group(process)).name
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    return {name: (group / name).read_text().strip() for name in names if (group / name).exists()}


def list_groups(place: GroupPlace) -> set[str]:
    return {path.name for path in place.path.iterdir() if path.is_dir()}


def enter_as_user(group: Path) -> list[str]:
    """Return the command of an owner who is an ordinary user, in ``group``."""
    steps = f"""
import os
with open({str(group / "cgroup.procs")!r}, "w") as file:
    file.write("0")
os.setgroups([])
os.setresgid({ORDINARY_USER}, {ORDINARY_USER}, {ORDINARY_USER})
os.setresuid({ORDINARY_USER}, {ORDINARY_USER}, {ORDINARY_USER})
"""
    return [sys.executable, "-c", steps + OWNER]


async def touch(machine: KvmMachine) -> None:
    """Let the guest write to its memory, and wait until it has."""
    machine.transport.writer.write(b"x")
    async with asyncio.timeout(PATIENCE):
        await machine.transport.reader.readexactly(1)


# --- Machines -----------------------------------------------------------------------------------


async def test_each_machine_has_a_cgroup_with_limits_of_its_own(
    place: GroupPlace, boot: Boot
) -> None:
    first = await boot(counter(), port=PortKind.SERIAL)
    second = await boot(counter(), port=PortKind.SERIAL)

    groups = {read_group(process) for process in (os.getpid(), first.pid, second.pid)}

    assert len(groups) == 3
    limits = read_limits(place, first.pid)
    assert int(limits["memory.max"]) == (64 << 20) + KvmHypervisor.overhead
    assert limits.get("memory.swap.max", "0") == "0"
    assert limits["memory.oom.group"] == "1"
    assert 1 < int(limits["pids.max"]) <= 256
    assert limits["cpu.max"] == "200000 100000"


async def test_children_of_zygotes_are_born_in_their_cgroups(
    place: GroupPlace, trust_kvm: None, spec: MachineSpec, boot: Boot
) -> None:
    spec.kernel.write_bytes(build_kernel(counter()))
    booter = KvmBooter()
    original = await boot(counter(), port=PortKind.SERIAL)
    await ask(original)
    try:
        async with (
            await booter.start(spec, KvmHypervisor()) as booted,
            await KvmHypervisor().open_template(await original.snapshot()) as template,
            await template.clone() as one,
            await template.clone() as other,
        ):
            await ask(one)

            groups = {read_group(each.pid) for each in (booted, one, other)}

            assert len(groups) == 3
            assert all(Path(group).parent.name == place.path.name for group in groups)
            assert read_limits(place, one.pid)["memory.oom.group"] == "1"
    finally:
        await booter.close()


async def test_cgroup_goes_with_its_machine(place: GroupPlace, boot: Boot) -> None:
    machine = await boot(counter(), port=PortKind.SERIAL)
    name = Path(read_group(machine.pid)).name

    await machine.stop()

    assert name not in list_groups(place)


async def test_cgroup_of_a_machine_that_cannot_start_is_removed(
    place: GroupPlace, trust_kvm: None, spec: MachineSpec
) -> None:
    before = list_groups(place)
    spec.kernel.write_bytes(b"no kernel")

    with pytest.raises(SlipwayError):
        await KvmHypervisor().start(spec)

    assert list_groups(place) == before


async def test_use_of_the_host_is_that_of_the_machine(place: GroupPlace, boot: Boot) -> None:
    machine = await boot(touching(), port=PortKind.SERIAL)
    before = machine.read_use()

    await touch(machine)

    after = machine.read_use()
    assert before is not None
    assert after is not None
    assert before.memory_peak + TOUCHED * 0.9 <= after.memory_peak <= 128 * MIB
    assert 0 < before.cpu < after.cpu


async def test_machine_that_outgrows_its_cgroup_is_lost_alone_and_told(
    place: GroupPlace, boot: Boot
) -> None:
    other = await boot(counter(), port=PortKind.SERIAL)
    machine = await boot(touching(), port=PortKind.SERIAL)
    use = machine.read_use()
    assert use is not None
    assert machine.limits is not None
    assert machine.limits.group is not None
    machine.limits.group.set_memory(use.memory_peak + 4 * MIB)

    machine.transport.writer.write(b"x")

    assert await asyncio.wait_for(machine.wait(), PATIENCE) == -signal.SIGKILL
    loss = machine.describe_loss()
    assert loss is not None
    assert "more memory of the host" in loss[0]
    assert "not the limit of the program" in loss[1]
    assert other.describe_loss() is None
    assert await ask(other) == 1


async def test_machine_that_is_killed_was_not_lost_for_memory(
    place: GroupPlace, boot: Boot
) -> None:
    machine = await boot(counter(), port=PortKind.SERIAL)

    os.kill(machine.pid, signal.SIGKILL)

    await asyncio.wait_for(machine.wait(), PATIENCE)
    assert machine.describe_loss() is None


# --- Places -------------------------------------------------------------------------------------


async def test_groups_of_a_killed_owner_are_removed_with_what_runs_there(
    place: GroupPlace,
) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner, owner.stdout:
        path, name, program = owner.stdout.readline().split()
        assert GroupPlace(Path(path)).sweep() == 0, "its owner lives"
        assert name in list_groups(place)

        owner.kill()
        owner.wait()

        found = GroupPlace(Path(path))
        await wait_until(lambda: found.sweep() or name not in list_groups(place), "it is removed")
        await wait_until(lambda: not _is_running(int(program)), "what ran there has ended")
        found.close()


def _is_running(process: int) -> bool:
    """Tell if a process is alive: this process is not the parent, and cannot reap it."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_user_with_a_delegated_cgroup_moves_to_a_leaf(delegated: Path) -> None:
    command = enter_as_user(delegated)
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner, owner.stdout:
        path, name, program = owner.stdout.readline().split()

        assert Path(path) == delegated
        assert read_group(owner.pid).endswith(f"/{delegated.name}/{LEAF}")
        assert read_group(int(program)).endswith(f"/{delegated.name}/{name}")
        owner.kill()


def test_cgroup_with_processes_of_others_is_no_place(delegated: Path) -> None:
    other = subprocess.Popen(["sleep", "1000"])
    (delegated / "cgroup.procs").write_text(str(other.pid))

    command = enter_as_user(delegated)
    finished = subprocess.run(command, check=False, capture_output=True, text=True)

    other.kill()
    other.wait()
    assert "has 1 processes of others" in finished.stderr


def test_group_without_room_for_processes_refuses_more(place: GroupPlace) -> None:
    group = place.create(GroupLimits(64 * MIB, 1, 4))
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait"
    shell = subprocess.Popen(["sh", "-c", f"read line || true; {script}"], stdin=subprocess.PIPE)
    group.adopt(shell.pid)
    assert shell.stdin is not None

    shell.stdin.close()
    shell.wait()

    assert len((place.path / group.name / "cgroup.procs").read_text().split()) <= 4
    asyncio.run(group.remove())
    assert group.name not in list_groups(place)
