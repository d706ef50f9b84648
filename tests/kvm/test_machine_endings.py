"""However a machine ends, or the process that started it: it is told, and nothing stays."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway import HostError
from slipway.machine.kvm_hypervisor import KvmHypervisor
from support.bare_metal import PATIENCE, open_files
from support.guest_code import (
    COM1,
    CRASH,
    OTHERS_CODE,
    PLACE,
    PORT_READ,
    Code,
    build_kernel,
    build_others_crash,
    store_code,
)

if TYPE_CHECKING:
    from kvm.conftest import Boot
    from slipway.machine.model import MachineSpec

# Starts a machine and waits for its end, as a caller would.
PARENT = """
import asyncio, sys
from pathlib import Path
from slipway.machine.model import MachineSpec
from slipway.machine.kvm import KvmMachine
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.vmm.kvm import usability

async def main(directory):
    spec = MachineSpec(directory / "kernel", directory / "initrd", "", 64 << 20)
    machine = await KvmHypervisor().start(spec)
    try:
        print(machine.pid, flush=True)
        await machine.wait()
    finally:
        await machine.stop()

usability.examine = lambda state: (True, "")
asyncio.run(main(Path(sys.argv[1])))
"""


# --- The guest ends -----------------------------------------------------------------------------


async def test_guest_that_ends_in_the_proper_way_has_no_exit_report(boot: Boot) -> None:
    machine = await boot(Code().text(COM1, b"bye").reset())

    assert await machine.wait() == 0
    assert await machine.read_exit_report() == ""
    await machine.console.wait_drained()
    assert machine.console.get_last_lines() == ["bye"]


async def test_guest_that_crashes_is_told_with_registers_and_instruction(boot: Boot) -> None:
    machine = await boot(Code().text(COM1, b"oh no").crash())

    assert await machine.wait() == 1
    words = await machine.read_exit_report()
    await machine.console.wait_drained()
    lines = words.split("\n")
    assert lines[0].startswith(CRASH)
    assert lines[1] == "  vCPU 0:"
    assert any(f"{PLACE} 0" in line for line in lines)
    assert any(f"bytes at {PLACE}: " in line for line in lines)
    assert f"  1 {PORT_READ} {COM1 + 7:#x}" in lines
    assert words.replace("\n", "").isprintable()
    assert machine.console.get_last_lines() == ["oh no"]


async def test_instruction_that_kvm_cannot_do_is_told(boot: Boot) -> None:
    code = Code().access_by_unknown_instruction()
    machine = await boot(code)

    assert await machine.wait() == 1
    words = await machine.read_exit_report()
    assert words.startswith("KVM cannot run an instruction of the guest's")
    assert f"{PLACE} {code.address('unknown'):016x}" in words
    assert f"bytes at {PLACE}: {code.build()[-4:].hex(' ')}" in words


async def test_crash_of_one_processor_ends_them_all(boot: Boot) -> None:
    code = store_code(Code(), OTHERS_CODE, build_others_crash())
    machine = await boot(code.wake(1).halt(), cpus=2)

    assert await machine.wait() == 1
    lines = (await machine.read_exit_report()).split("\n")
    assert lines[0]
    assert {"  vCPU 0:", "  vCPU 1:"} <= set(lines)


async def test_machine_that_has_ended_obeys_no_more(boot: Boot) -> None:
    machine = await boot(Code().reset())
    await machine.wait()

    for verb in (machine.pause, machine.resume, machine.count_exits):
        with pytest.raises(HostError, match="the VMM"):
            await verb()


# --- The VMM ends -------------------------------------------------------------------------------


async def test_vmm_that_is_killed_is_noticed_everywhere(boot: Boot) -> None:
    machine = await boot(Code().halt())

    os.kill(machine.pid, signal.SIGKILL)

    async with asyncio.timeout(PATIENCE):
        assert await machine.wait() == -signal.SIGKILL
        assert await machine.transport.reader.read() == b""
        await machine.console.wait_drained()
        assert await machine.read_exit_report() == ""
        with pytest.raises(HostError):
            await machine.pause()


async def test_vmm_that_is_killed_while_it_is_asked_fails_the_question(boot: Boot) -> None:
    machine = await boot(Code().halt())
    os.kill(machine.pid, signal.SIGSTOP)
    question = asyncio.create_task(machine.pause())
    await asyncio.sleep(0)

    os.kill(machine.pid, signal.SIGKILL)

    async with asyncio.timeout(PATIENCE):
        with pytest.raises(HostError, match="ended before it answered"):
            await question


async def test_machine_that_is_stopped_while_it_is_asked_fails_the_question(boot: Boot) -> None:
    machine = await boot(Code().halt())
    os.kill(machine.pid, signal.SIGSTOP)
    question = asyncio.create_task(machine.pause())
    await asyncio.sleep(0)

    await machine.stop()

    async with asyncio.timeout(10):
        with pytest.raises(HostError):
            await question


async def test_stop_may_be_called_again_and_leaves_nothing(boot: Boot) -> None:
    machine = await boot(Code().halt())
    await machine.stop()
    await machine.stop()

    assert psutil.Process().children() == []


async def test_rounds_of_start_and_stop_leave_no_descriptor(boot: Boot) -> None:
    await (await boot(Code().halt())).stop()
    await asyncio.sleep(0)
    before = open_files()
    for number in range(20):
        machine = await boot(Code().halt() if number % 2 else Code().reset())
        if not number % 2:
            await machine.wait()
        await machine.stop()
        await asyncio.sleep(0)

    assert open_files() == before


# --- The start ends -----------------------------------------------------------------------------


@pytest.mark.usefixtures("trust_kvm")
async def test_start_that_is_cancelled_at_any_moment_leaves_nothing(spec: MachineSpec) -> None:
    spec.kernel.write_bytes(build_kernel(Code().halt()))
    before = open_files()
    delays = random.Random(4711)
    for turns in [0, 1, 2, 3, 4, 5, *(delays.uniform(0.001, 0.1) for _ in range(15))]:
        start = asyncio.create_task(KvmHypervisor().start(spec))
        if isinstance(turns, int):
            for _ in range(turns):
                await asyncio.sleep(0)
        else:
            await asyncio.wait([start], timeout=turns)

        start.cancel()

        with suppress(asyncio.CancelledError):
            await (await start).stop()
        assert psutil.Process().children() == []
        await asyncio.sleep(0)
        assert open_files() == before


# --- The parent ends ----------------------------------------------------------------------------


def ended_by(
    spec: MachineSpec, number: signal.Signals, *, stopped: bool = False
) -> tuple[int, bytes]:
    """How a process ends that gets a signal while its machine runs; checks that that is gone.

    A machine that is ``stopped`` does not notice by itself.
    """
    spec.kernel.write_bytes(build_kernel(Code().spin()))
    command = [sys.executable, "-c", PARENT, str(spec.kernel.parent)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        vmm = psutil.Process(int(parent.stdout.readline()))
        if stopped:
            vmm.suspend()
        os.killpg(parent.pid, number)
        complaint = parent.stderr.read()

    _, alive = psutil.wait_procs([vmm], timeout=PATIENCE)
    assert alive == []
    return parent.returncode, complaint


@pytest.mark.parametrize("stopped", [False, True])
def test_vmm_dies_with_a_parent_that_is_killed(spec: MachineSpec, stopped: bool) -> None:
    assert ended_by(spec, signal.SIGKILL, stopped=stopped) == (-signal.SIGKILL, b"")


def test_vmm_dies_with_a_parent_that_is_interrupted(spec: MachineSpec) -> None:
    code, complaint = ended_by(spec, signal.SIGINT)

    assert code in {-signal.SIGINT, 130}
    assert complaint.rstrip().endswith(b"KeyboardInterrupt")
    assert b"Warning" not in complaint
