"""A VMM's whole process around a kernel of a few instructions: what it boots, carries and obeys."""

from __future__ import annotations

import asyncio
import os
import re
import select
import struct
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway.machine.console import KEPT_BYTES
from slipway.machine.model import PortKind
from support.bare_metal import PATIENCE
from support.guest_code import (
    COM1,
    COM2,
    CONSOLE_ARGUMENT,
    DATA,
    IS_ARM,
    MEMORY_HOLE,
    NOWHERE,
    OTHERS_CODE,
    OTHERS_DATA,
    PORT_WRITTEN,
    RAM,
    UNUSED_PORT,
    VIRTIO,
    Code,
    build_others_code,
    store_code,
)
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm.conftest import Boot
    from slipway.machine.kvm import KvmMachine
    from slipway.machine.model import MachineSpec

LSR = 5
MIB = 1 << 20
SIZES = (4 * MIB, 65 * MIB, 513 * MIB, *(() if IS_ARM else (MEMORY_HOLE + MIB,)))
SYNC = COM1 + 7  # COM1's last register: to read it is an exit, and so brings out what is coalesced


async def console(machine: KvmMachine, text: str) -> None:
    """Until the console's last line is ``text``."""
    await wait_until(
        lambda: machine.console.get_last_lines(1) == [text], f"the console says {text!r}"
    )


async def exit_count(machine: KvmMachine) -> int:
    return int((await machine.count_exits())[0].split()[0])


async def more_exits(machine: KvmMachine) -> None:
    """Until the guest has gone on."""
    before = await exit_count(machine)

    async def goes_on() -> bool:
        return await exit_count(machine) != before

    await wait_until(goes_on, "the guest has gone on")


# --- Boot ---------------------------------------------------------------------------------------


async def test_kernel_runs_and_its_console_is_read(boot: Boot) -> None:
    machine = await boot(Code().text(COM1, b"first\nsecond").halt())

    await console(machine, "second")

    assert machine.console.get_last_lines() == ["first", "second"]
    assert psutil.pid_exists(machine.pid)
    assert machine.start_cpu_seconds > 0


async def test_kernel_is_given_its_command_line(boot: Boot) -> None:
    machine = await boot(Code().out_command_line(COM1).read_port(SYNC).reset())

    await machine.wait()
    await machine.console.wait_drained()

    # On aarch64 it lies amid other parts of the device tree.
    words = "".join(machine.console.get_last_lines())
    assert re.search(rf"{CONSOLE_ARGUMENT}.* these are for the guest", words)


async def test_kernel_is_given_its_initramfs(boot: Boot, spec: MachineSpec) -> None:
    code = Code().out_initramfs(COM1, len(b"an initramfs"), spec.memory_bytes)
    machine = await boot(code.read_port(SYNC).reset())

    await machine.wait()
    await machine.console.wait_drained()

    assert machine.console.get_last_lines() == ["an initramfs"]


@pytest.mark.parametrize("memory", SIZES)
async def test_kernel_has_all_the_memory_up_to_its_end(boot: Boot, memory: int) -> None:
    end = RAM + min(memory, MEMORY_HOLE) - 8
    code = Code().store(end, struct.unpack("<Q", b"the end!")[0]).out_string(COM1, end, 8)
    machine = await boot(code.read_port(SYNC).reset(), memory_bytes=memory)

    await machine.wait()
    await machine.console.wait_drained()

    assert machine.console.get_last_lines() == ["the end!"]


async def test_kernel_finds_all_its_processors(boot: Boot) -> None:
    code = store_code(Code(), OTHERS_CODE, build_others_code(COM1, ord("1")))
    for number in (1, 2, 3):
        code.wake(number).wait_for(number, OTHERS_DATA)
    machine = await boot(code.halt(), cpus=4)

    await console(machine, "123")


# --- The agent's line ---------------------------------------------------------------------------


def echo() -> Code:
    """Gives each byte back on the second serial port, and resets after a NUL."""
    code = Code().label("next").wait_for_byte(COM2).read_port(COM2).keep().out(COM2)
    return code.jump_unless_kept_zero("next").read_port(COM2 + LSR).reset()


async def test_agents_line_carries_bytes_both_ways(boot: Boot) -> None:
    machine = await boot(echo(), port=PortKind.SERIAL)
    data = bytes(range(1, 256)) * 2

    machine.transport.writer.write(data)
    async with asyncio.timeout(PATIENCE):
        assert await machine.transport.reader.readexactly(len(data)) == data
        machine.transport.writer.write(b"\0")
        assert await machine.transport.reader.read() == b"\0"

    assert await machine.wait() == 0


async def test_line_that_the_agent_did_not_take_may_be_closed(boot: Boot) -> None:
    machine = await boot(echo(), port=PortKind.AUTO)
    assert list(machine.streams) == [PortKind.VIRTIO, PortKind.SERIAL]

    await machine.take_port(PortKind.SERIAL)

    assert machine.port is PortKind.SERIAL
    assert not machine.streams
    machine.transport.writer.write(b"here")
    async with asyncio.timeout(PATIENCE):
        assert await machine.transport.reader.readexactly(4) == b"here"
        machine.transport.writer.close()
        assert await machine.wait() == 0
    assert await machine.read_exit_report() == ""


@pytest.mark.parametrize("port", [PortKind.SERIAL, PortKind.VIRTIO])
async def test_closed_line_of_the_agents_ends_the_machine(boot: Boot, port: PortKind) -> None:
    machine = await boot(Code().halt(), port=port)

    machine.transport.writer.close()

    async with asyncio.timeout(PATIENCE):
        assert await machine.wait() == 0
    assert await machine.read_exit_report() == ""


# --- Pause and resume ---------------------------------------------------------------------------


async def test_guest_stands_still_while_paused(boot: Boot) -> None:
    machine = await boot(Code().label("again").out(UNUSED_PORT, 0).jump("again"), cpus=2)
    for _ in range(3):
        await more_exits(machine)

        await machine.pause()

        stood = await machine.count_exits()
        assert await machine.count_exits() == stood
        await machine.resume()
    await more_exits(machine)


@pytest.mark.parametrize("end", [Code.halt, Code.spin])
async def test_guest_without_exits_is_paused_and_resumed(
    boot: Boot, end: Callable[[Code], Code]
) -> None:
    machine = await boot(end(Code().text(COM1, b"here")))
    await console(machine, "here")

    for _ in range(20):
        await machine.pause()
        await machine.resume()


async def test_what_the_guest_wrote_last_comes_when_it_is_paused(boot: Boot) -> None:
    machine = await boot(Code().out(COM1, ord("x")).halt())
    async with asyncio.timeout(PATIENCE):
        while not machine.console.get_last_lines():
            await machine.pause()
            await machine.resume()

    assert machine.console.get_last_lines() == ["x"]


# --- Guests that do too much --------------------------------------------------------------------


def resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


async def test_flood_of_the_console_is_bounded_and_delays_no_stop(boot: Boot) -> None:
    code = Code()
    for at in range(0, 256, 8):  # something to write
        code.store(DATA + at, int.from_bytes(b"xxxxxxxx", "little"))
    machine = await boot(code.label("again").out_string(COM1, DATA, 256).jump("again"))
    await more_exits(machine)
    before = resident(machine.pid)
    for _ in range(50):
        await more_exits(machine)

    assert resident(machine.pid) < before + 16 * MIB
    assert 0 < sum(map(len, machine.console.get_last_lines(10**6))) <= KEPT_BYTES
    async with asyncio.timeout(PATIENCE / 6):
        await machine.stop()


async def test_console_that_nobody_reads_does_not_hold_the_guest_up(boot: Boot) -> None:
    """This process reads nothing while it waits, and a socket takes less than that."""
    code = Code().repeat(100, "again").out_string(COM1, DATA, 4096).until_zero("again")
    machine = await boot(code.reset())

    process = os.pidfd_open(machine.pid)
    ended, _, _ = select.select([process], [], [], PATIENCE)
    os.close(process)

    assert ended

    assert await machine.wait() == 0


@pytest.mark.parametrize(
    "code",
    [
        Code().label("again").out(UNUSED_PORT, 0).jump("again"),
        Code().label("again").load(VIRTIO + 0x800, 4).jump("again"),
        Code().label("again").load(NOWHERE).jump("again"),
        Code().out_string(UNUSED_PORT, DATA, 1 << 40),
        Code().halt(),
        Code().mask().spin(),
        Code().label("again").wait_for_interrupt().jump("again"),
    ],
    ids=["port", "register", "address", "string", "halts", "spins", "sleeps"],
)
async def test_guest_that_goes_on_for_ever_is_stopped_at_once(boot: Boot, code: Code) -> None:
    machine = await boot(code)
    await machine.count_exits()

    async with asyncio.timeout(PATIENCE / 6):
        await machine.stop()

    assert not psutil.pid_exists(machine.pid)
    assert await machine.wait() < 0


async def test_exit_report_of_a_guest_that_goes_on_tells_its_exits(boot: Boot) -> None:
    machine = await boot(Code().out(UNUSED_PORT, 0).halt())

    assert (
        await machine.read_exit_report()
        == f"it goes on: 1 exits, 1 for no device; most often 1 {PORT_WRITTEN} {UNUSED_PORT:#x}"
    )


async def test_exits_are_told_by_their_places(boot: Boot) -> None:
    code = Code().repeat(3, "again").out(UNUSED_PORT, 0).until_zero("again").load(NOWHERE)
    machine = await boot(code.halt())

    async def has_left() -> bool:
        return await exit_count(machine) >= 4

    await wait_until(has_left, "the guest has left KVM four times")

    assert await machine.count_exits() == [
        "4 exits, 4 for no device",
        f"3 {PORT_WRITTEN} {UNUSED_PORT:#x}",
        f"1 read {NOWHERE:#x}",
    ]
