"""Frames of a guest of a few instructions, whose VMM is confined, and of clones of it."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from slipway.machine.gateway_handle import create_link
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import PortKind
from slipway.vmm.devices.virtio_mmio import Register, Status
from slipway.vmm.devices.virtio_net import NetFeature, Queue
from slipway.vmm.devices.virtqueue import DescriptorFlag
from support.bare_metal import PATIENCE
from support.guest_code import COM1, COM2, DATA, VIRTIO, Code

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from kvm.conftest import Boot

# The agent is on a serial port, so that this is the only virtio device.
DEVICE = VIRTIO
PAGE = 4096
FRAME = 60
PACKET = 12 + FRAME
BUFFER = DATA + 6 * PAGE
# Descriptors, driver's and device's ring of each queue.
RINGS = {
    queue: tuple(DATA + PAGE * (3 * queue + part) for part in range(3))
    for queue in (Queue.RECEIVE, Queue.TRANSMIT)
}


def set_register(code: Code, register: int, value: int) -> Code:
    return code.store(DEVICE + register, value, 4)


def count_up(code: Code, address: int) -> Code:
    """Add one to the index of a ring."""
    return code.count(address + 2, 2)


def echo(code: Code | None = None) -> Code:
    """Sends each frame of 60 bytes back from the buffer in which it came, the only one."""
    code = code or Code()
    features = ((0, int(NetFeature.MRG_RXBUF | NetFeature.GUEST_CSUM)), (1, 1))
    status = int(Status.ACKNOWLEDGE | Status.DRIVER)
    set_register(code, Register.STATUS, status)
    for half, value in features:
        set_register(code, Register.DRIVER_FEATURES_SEL, half)
        set_register(code, Register.DRIVER_FEATURES, value)
    status |= int(Status.FEATURES_OK)
    set_register(code, Register.STATUS, status)
    for queue, areas in RINGS.items():
        set_register(code, Register.QUEUE_SEL, queue)
        set_register(code, Register.QUEUE_NUM, 8)
        registers = (Register.QUEUE_DESC, Register.QUEUE_DRIVER, Register.QUEUE_DEVICE)
        for register, area in zip(registers, areas, strict=True):
            set_register(code, register, area)
        set_register(code, Register.QUEUE_READY, 1)
        length = PACKET | (DescriptorFlag.WRITE << 32 if queue == Queue.RECEIVE else 0)
        code.store(areas[0], BUFFER).store(areas[0] + 8, int(length))
    set_register(code, Register.STATUS, status | int(Status.DRIVER_OK))
    _, given, filled = RINGS[Queue.RECEIVE]
    _, sent, _ = RINGS[Queue.TRANSMIT]
    code.label("next")
    count_up(code, given)
    set_register(code, Register.QUEUE_NOTIFY, Queue.RECEIVE)
    # Until a frame has come more than were sent. A read of a port is an exit: it spares a host that
    # interprets its guests.
    code.label("wait").read_port(COM1 + 7).jump_if_equal(filled + 2, sent + 2, "wait", 2)
    count_up(code, sent)
    set_register(code, Register.QUEUE_NOTIFY, Queue.TRANSMIT)
    return code.jump("next")


@pytest.fixture
def link() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The gateway's and the machine's end of a link."""
    ours, theirs = create_link()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def exchange(end: socket.socket) -> None:
    """Send frames, of which each comes back."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        for _ in range(20):
            frame = os.urandom(FRAME)
            await loop.sock_sendall(end, frame)
            assert await loop.sock_recv(end, 1 << 17) == frame


async def test_frames_go_both_ways_through_a_confined_vmm(
    boot: Boot, link: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = link
    await boot(echo(), port=PortKind.SERIAL, network=theirs.fileno())

    await exchange(ours)


@pytest.mark.parametrize(("port", "unknown"), [(PortKind.SERIAL, 0), (PortKind.TCP, 1)])
async def test_second_uart_is_only_there_for_the_agent(
    boot: Boot, link: tuple[socket.socket, socket.socket], port: PortKind, unknown: int
) -> None:
    ours, theirs = link
    machine = await boot(echo(Code().read_port(COM2 + 5)), port=port, network=theirs.fileno())
    await exchange(ours)

    (total, *_) = await machine.count_exits()

    assert total.endswith(f", {unknown} for no device")


async def test_end_of_the_vmm_is_the_end_of_its_link(
    boot: Boot, link: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = link
    machine = await boot(echo(), port=PortKind.SERIAL, network=theirs.fileno())
    theirs.close()
    await exchange(ours)

    await machine.stop()

    assert ours.recv(100) == b""


@pytest.mark.parametrize("port", [PortKind.SERIAL, PortKind.TCP])
async def test_clones_continue_each_on_its_own_link(
    boot: Boot, link: tuple[socket.socket, socket.socket], port: PortKind
) -> None:
    ours, theirs = link
    machine = await boot(echo(), port=port, network=theirs.fileno())
    await exchange(ours)
    snapshot = await machine.snapshot()
    await machine.resume()
    assert snapshot.port is port
    async with AsyncExitStack() as stack:
        template = await KvmHypervisor().open_template(snapshot)
        stack.push_async_callback(template.close)
        for _ in range(2):
            end, other = create_link()
            stack.enter_context(end)
            end.setblocking(False)
            with other:
                clone = await template.clone(network=other.fileno())
            stack.push_async_callback(clone.stop)
            await exchange(end)
        unplugged = await template.clone()
        stack.push_async_callback(unplugged.stop)

        await exchange(ours)
        assert await unplugged.count_exits()
