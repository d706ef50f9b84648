"""Machines that a booter starts: VMMs forked by a zygote, as good as those that start alone."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kvm.test_clones import ask, children, counter
from kvm.test_machine import console
from slipway import HostError, InputError
from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity, Needs
from slipway._run.booters import Booters
from slipway._util.shares import Share
from slipway.machine.kvm_booter import MAX_TEMPLATES, KvmBooter
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import PortKind
from slipway.vmm.arch.host import find_architecture
from support.bare_metal import PATIENCE
from support.guest_code import COM1, Code, build_kernel
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kvm.conftest import Boot
    from slipway.machine.kvm import KvmMachine
    from slipway.machine.model import MachineSpec


@pytest.fixture
async def booter(trust_kvm: None) -> AsyncIterator[KvmBooter]:
    booter = KvmBooter()
    yield booter
    await booter.close()


@pytest.fixture
def counting(spec: MachineSpec) -> MachineSpec:
    """A machine whose guest counts the bytes that come on its second serial port."""
    spec.kernel.write_bytes(build_kernel(counter()))
    return replace(spec, port=PortKind.SERIAL)


@asynccontextmanager
async def started(booter: KvmBooter, spec: MachineSpec) -> AsyncIterator[KvmMachine]:
    machine = await booter.start(spec, KvmHypervisor())
    try:
        yield machine
    finally:
        await machine.stop()


def find_zygote() -> psutil.Process:
    (zygote,) = psutil.Process().children()
    return zygote


def list_descriptors(pid: int) -> list[str]:
    """Return the kinds of the open descriptors of a process."""
    paths = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            paths.append(str(entry.readlink()))
    return sorted(path.partition(":[")[0].replace(str(pid), "PID") for path in paths)


def read_confinement(pid: int) -> dict[str, str]:
    status = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    names = ("NoNewPrivs", "Seccomp", "Seccomp_filters", "CapEff", "CapPrm", "CapBnd")
    limits = Path(f"/proc/{pid}/limits").read_text("utf-8")
    return {name: fields[name] for name in names} | {"limits": limits}


async def test_machines_boot_each_by_itself(booter: KvmBooter, counting: MachineSpec) -> None:
    async with started(booter, counting) as one, started(booter, counting) as other:
        counts = [await ask(one), await ask(one), await ask(other), await ask(one)]
        cpu = one.start_cpu_seconds

    assert counts == [1, 2, 1, 3]
    assert cpu > 0


async def test_many_at_once_have_one_zygote(booter: KvmBooter, counting: MachineSpec) -> None:
    hypervisor = KvmHypervisor()
    machines = await asyncio.gather(*(booter.start(counting, hypervisor) for _ in range(5)))
    try:
        assert len({machine.pid for machine in machines}) == 5
        assert len(psutil.Process().children()) == 1
        assert [await ask(machine) for machine in machines] == [1] * 5
    finally:
        for machine in machines:
            await machine.stop()


async def test_vmm_is_confined_as_one_that_starts_alone(
    boot: Boot, booter: KvmBooter, spec: MachineSpec
) -> None:
    alone = await boot(Code().halt())
    async with started(booter, spec), started(booter, spec) as forked:
        assert read_confinement(forked.pid) == read_confinement(alone.pid)
        assert list_descriptors(forked.pid) == list_descriptors(alone.pid)


@pytest.mark.parametrize("changes", [{"kernel": "text"}, {"memory_bytes": 1 << 20}])
async def test_guest_that_cannot_boot_is_told_and_leaves_nothing(
    booter: KvmBooter, counting: MachineSpec, tmp_path: Path, changes: dict[str, Any]
) -> None:
    async with started(booter, counting):
        pass
    before = children(), psutil.Process().num_fds()
    (tmp_path / "text").write_text("no kernel")
    if "kernel" in changes:
        changes = {"kernel": tmp_path / "text"}

    with pytest.raises(InputError):
        await booter.start(replace(counting, **changes), KvmHypervisor())

    assert (children(), psutil.Process().num_fds()) == before
    async with started(booter, counting) as machine:
        assert await ask(machine) == 1


async def test_killed_zygote_takes_its_vmms_along_and_another_takes_its_place(
    booter: KvmBooter, counting: MachineSpec
) -> None:
    async with started(booter, counting) as machine:
        zygote = find_zygote()
        zygote.kill()

        async with asyncio.timeout(PATIENCE):
            assert await machine.wait() == -signal.SIGKILL
    await wait_until(lambda: not zygote.is_running(), "the zygote has been reaped")

    async with started(booter, counting) as machine:
        assert await ask(machine) == 1


async def test_start_under_way_fails_with_the_zygote(
    booter: KvmBooter, counting: MachineSpec
) -> None:
    async with started(booter, counting):
        zygote = find_zygote()
        zygote.suspend()
        starting = asyncio.create_task(booter.start(counting, KvmHypervisor()))
        await asyncio.sleep(0.05)

        zygote.kill()

        async with asyncio.timeout(PATIENCE):
            with pytest.raises(HostError, match="has ended"):
                await starting


async def test_killed_vmm_is_lost_alone(booter: KvmBooter, counting: MachineSpec) -> None:
    async with started(booter, counting) as one, started(booter, counting) as other:
        os.kill(one.pid, signal.SIGKILL)

        async with asyncio.timeout(PATIENCE):
            assert await one.wait() == -signal.SIGKILL
        assert await ask(other) == 1


async def test_closed_booter_leaves_its_machines_and_goes_with_the_last(
    trust_kvm: None, counting: MachineSpec
) -> None:
    before = children(), psutil.Process().num_fds()
    booter = KvmBooter()
    async with started(booter, counting) as machine:
        await booter.close()

        assert await ask(machine) == 1
        with pytest.raises(HostError, match="closed"):
            await booter.start(counting, KvmHypervisor())

    assert (children(), psutil.Process().num_fds()) == before


async def test_starts_leave_nothing(booter: KvmBooter, counting: MachineSpec) -> None:
    async with started(booter, counting):
        pass
    before = children(), psutil.Process().num_fds(), find_zygote().num_fds()

    for delay in (0, 0, 0.001, 0.005, 0.01, 0.02, 0.05):
        async with started(booter, counting) as machine:
            await ask(machine)
        starting = asyncio.create_task(booter.start(counting, KvmHypervisor()))
        await asyncio.sleep(delay)
        starting.cancel()
        (outcome,) = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await outcome.stop()

    assert (children(), psutil.Process().num_fds(), find_zygote().num_fds()) == before


async def test_guest_of_a_forked_vmm_ends_as_it_wants(booter: KvmBooter, spec: MachineSpec) -> None:
    spec.kernel.write_bytes(build_kernel(Code().text(COM1, b"over\n").reset()))
    async with started(booter, spec) as machine:
        await console(machine, "over")

        assert await machine.wait() == 0
        assert await machine.read_exit_report() == ""


PARENT = """
import asyncio, sys
from pathlib import Path
from slipway.machine.kvm_booter import KvmBooter
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec
from slipway.vmm.kvm import usability
from slipway._util.shares import Share

usability.examine = lambda state=None: (True, "in this test")

async def main():
    directory = Path(sys.argv[1])
    spec = MachineSpec(directory / "kernel", directory / "initrd", "", 64 << 20)
    booter = KvmBooter()
    machines = [await booter.start(spec, KvmHypervisor()) for _ in range(2)]
    print(*(machine.pid for machine in machines), flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", ["nothing", "zygote", "vmms"])
def test_zygote_and_vmms_die_with_a_parent_that_is_killed(spec: MachineSpec, stopped: str) -> None:
    spec.kernel.write_bytes(build_kernel(Code().spin()))
    command = [sys.executable, "-c", PARENT, str(spec.kernel.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        vmms = [psutil.Process(int(word)) for word in parent.stdout.readline().split()]
        zygote = vmms[0].parent()
        assert zygote is not None
        for process in {"nothing": [], "zygote": [zygote], "vmms": vmms}[stopped]:
            process.suspend()

        parent.kill()

        _, alive = psutil.wait_procs([zygote, *vmms], timeout=PATIENCE)
        assert alive == []


async def test_booters_of_a_runtime_share_one_zygote_and_close_it(
    trust_kvm: None, counting: MachineSpec
) -> None:
    before = children()
    booters = Booters()
    first = await booters.start(counting, KvmHypervisor(reason="one run's"))
    second = await booters.start(counting, KvmHypervisor(reason="another's"))
    async with first, second:
        zygote = find_zygote()
        assert {first.pid, second.pid} == {child.pid for child in zygote.children()}
        assert second.hypervisor.reason == "another's"

        await booters.close()

    assert children() == before


# --- Boot templates -----------------------------------------------------------------------------

INITRAMFS = b"an initramfs"


async def wait_for_template(booter: KvmBooter) -> int:
    return await wait_until(lambda: booter.template_bytes, "the booter has a template")


def list_templates(pid: int) -> list[str]:
    """Return the rights of each mapping of a boot template in a process."""
    lines = Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines()
    return [line.split()[1] for line in lines if "memfd:slipway-boot" in line]


def find_initramfs(spec: MachineSpec) -> int:
    """Return the address of the initramfs of a machine that boots from a template."""
    architecture = find_architecture()
    place = architecture.find_initramfs_place(spec.memory_bytes, mmap.PAGESIZE)
    assert place is not None
    return place


async def test_second_boot_has_kernel_and_initramfs_from_a_template(
    booter: KvmBooter, spec: MachineSpec
) -> None:
    code = Code().out_string(COM1, find_initramfs(spec), len(INITRAMFS))
    spec.kernel.write_bytes(build_kernel(code.text(COM1, b"\n").halt()))
    async with started(booter, spec):  # finds no initramfs there
        size = await wait_for_template(booter)
    async with started(booter, spec) as machine:
        await console(machine, INITRAMFS.decode())

        assert set(list_templates(machine.pid)) == {"r--p"}
        assert size < 16 << 20


async def test_guest_cannot_change_the_initramfs_of_its_template(
    booter: KvmBooter, spec: MachineSpec
) -> None:
    place = find_initramfs(spec)
    code = Code().store(place, int.from_bytes(b"overrun!", "little"))
    code.out_string(COM1, place, len(INITRAMFS)).text(COM1, b"\n").halt()
    spec.kernel.write_bytes(build_kernel(code))
    async with started(booter, spec):
        await wait_for_template(booter)

    for _ in range(2):
        async with started(booter, spec) as machine:
            await console(machine, INITRAMFS.decode())


async def test_guest_that_changes_its_kernel_changes_no_others(
    booter: KvmBooter, spec: MachineSpec
) -> None:
    # Each says what it finds in its own code, and then writes there.
    word = int.from_bytes(b"original", "little")
    code = Code()
    code.jump("over").label("data").raw(word.to_bytes(8, "little")).label("over")
    place = code.address("data")
    code.out_string(COM1, place, 8).text(COM1, b"\n").store(place, 0).halt()
    spec.kernel.write_bytes(build_kernel(code))
    async with started(booter, spec):
        await wait_for_template(booter)

    for _ in range(2):
        async with started(booter, spec) as machine:
            await console(machine, "original")


async def test_changed_files_are_booted_from_anew(booter: KvmBooter, spec: MachineSpec) -> None:
    for word in (b"old", b"new"):
        spec.kernel.write_bytes(build_kernel(Code().text(COM1, word + b"\n").halt()))
        async with started(booter, spec):
            pass
        await wait_until(lambda: not booter.is_making, "no template is being made")
        async with started(booter, spec) as machine:
            await console(machine, word.decode())


async def test_templates_are_bounded_and_give_way(
    trust_kvm: None, spec: MachineSpec, tmp_path: Path
) -> None:
    admission = Admission(Capacity(machines=1, memory=1 << 30, cpus=1, queue=1))
    booters = Booters(admission)
    before = psutil.Process().num_fds()
    spec.kernel.write_bytes(build_kernel(Code().halt()))
    reserved: list[int] = []
    for number in range(MAX_TEMPLATES + 2):
        initrd = tmp_path / f"initrd-{number}"
        initrd.write_bytes(INITRAMFS)
        machine = await booters.start(replace(spec, initrd=initrd), KvmHypervisor())
        await machine.stop()
        count = min(number + 1, MAX_TEMPLATES)
        least = count * (reserved[0] if reserved else 1)

        def is_made(count: int = count, least: int = least) -> bool:
            return count_templates() == count and admission.reserved >= least

        await wait_until(is_made, f"there are {count} templates")
        reserved.append(admission.reserved)

    assert reserved[-1] == MAX_TEMPLATES * reserved[0]
    ticket = admission.enter(Share(), Needs(admission.capacity.memory, 1))
    assert ticket.is_admitted
    assert (admission.reserved, count_templates()) == (0, 0)
    await booters.close()
    assert psutil.Process().num_fds() <= before


def count_templates() -> int:
    return sum("slipway-boot" in entry for entry in list_descriptors(os.getpid()))


async def test_machine_too_small_for_a_template_is_refused_as_ever(
    booter: KvmBooter, counting: MachineSpec
) -> None:
    async with started(booter, counting):
        await wait_for_template(booter)

    with pytest.raises(InputError, match="memory"):
        await booter.start(replace(counting, memory_bytes=1 << 20), KvmHypervisor())


async def test_machine_from_a_template_is_snapshotted_and_cloned(
    booter: KvmBooter, counting: MachineSpec
) -> None:
    async with started(booter, counting):
        await wait_for_template(booter)
    async with started(booter, counting) as machine:
        await ask(machine)
        snapshot = await machine.snapshot()
    template = await KvmHypervisor().open_template(snapshot)
    async with template, await template.clone() as clone:
        assert await ask(clone) == 2
