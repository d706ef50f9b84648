"""Frames of guests on both machines, booted and cloned, with a peer of the test's own."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._run.start_machine import start_machine
from slipway.machine.gateway import addresses
from support.echo_peer import EchoPeer, open_peer
from support.hypervisors import with_hypervisor
from support.listening import run_with
from support.programs import patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from slipway._run.assets import Assets
    from slipway.machine.model import Template
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_protocol.messages import Phase, Stream

# The largest is a whole MTU behind the headers of IP and UDP.
LARGEST = addresses.MTU - 28
SIZES = [0, 1, 18, 1472, 1473, 4096, 30_000, LARGEST - 1, LARGEST]
ECHO = f"""
import os, socket
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.settimeout(60)
echo.connect(("198.18.0.1", 7))
for size in {SIZES}:
    sent = os.urandom(size)
    echo.send(sent)
    assert echo.recv(70_000) == sent, size
for _ in range(30):
    sent = [os.urandom(1000) for _ in range(20)]
    for data in sent:
        echo.send(data)
    assert [echo.recv(70_000) for _ in sent] == sent
with open("/sys/module/virtio_net/parameters/napi_tx") as parameter:
    assert parameter.read() == "N\\n", "the guest is interrupted for each frame that it sends"
print("all came back")
"""
# Each thread has a socket, and as many datagrams under way as its buffer holds.
THREADS = """
import os, socket, threading
failed = []
def exchange():
    try:
        echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        echo.settimeout(60)
        echo.connect(("198.18.0.1", 7))
        for size in [1, 1472, 65_000] * 50:
            sent = [os.urandom(size) for _ in range(2)]
            for data in sent:
                echo.send(data)
            assert [echo.recv(70_000) for _ in sent] == sent
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=exchange) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failed or "all came back")
"""
# Names the queueing discipline of each interface: RTM_GETLINK, whose answers are struct nlmsghdr,
# struct ifinfomsg, and attributes, of which IFLA_QDISC is the sixth kind (rtnetlink(7)). A kernel
# without CONFIG_NET_SCHED does not answer RTM_GETQDISC.
DISCIPLINES = """
import socket, struct
routes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
routes.send(struct.pack("=IHHII16x", 32, 18, 0x301, 1, 0))
answer = routes.recv(1 << 16)
while answer:
    length, kind = struct.unpack_from("=IH", answer)
    if kind == 16:
        (index,) = struct.unpack_from("=i", answer, 20)
        at = 32
        while at < length:
            size, name = struct.unpack_from("=HH", answer, at)
            if name == 6:
                print(socket.if_indextoname(index), answer[at + 4 : at + size - 1].decode())
            at += size + 3 & ~3
    answer = answer[length + 3 & ~3 :]
"""
# Seconds: an emulated guest of an emulated machine exchanges 54 MB.
TIME = {"timeout": 600.0, "cpu_time": 600.0}
FRAMES = [42 + size for size in SIZES] + 600 * [1042]
INTERFACES = "import socket; print([name for _, name in socket.if_nameindex()])"


@pytest.fixture
def assets(image_store: ImageStore, progress: Callable[[str], None], machine: str) -> Assets:
    language = find_language("python")
    return with_hypervisor(find_assets(language, Options(), image_store, progress), machine)


@asynccontextmanager
async def boot_guest(
    assets: Assets, peer: EchoPeer | None, *, template: bool = False, cpus: int = 1
) -> AsyncIterator[Guest]:
    """A guest whose agent is ready, with a network if there is a ``peer``."""
    link = None if peer is None else peer.machine_end.fileno()
    machine = await start_machine(assets, Options(cpus=cpus), template=template, network=link)
    async with Guest(machine) as guest:
        if peer is not None:
            peer.machine_end.close()
        await guest.wait_ready()
        yield guest


@asynccontextmanager
async def clone_guest(template: Template, peer: EchoPeer | None) -> AsyncIterator[Guest]:
    """A clone whose agent is ready."""
    link = None if peer is None else peer.machine_end.fileno()
    async with Guest(await template.clone(network=link)) as guest:
        if peer is not None:
            peer.machine_end.close()
        await guest.adopt_clone()
        yield guest


async def run(guest: Guest, source: str) -> str:
    """What the program writes, of which some is about its end."""
    output = bytearray()

    async def sink(_phase: Phase, stream: Stream, data: bytes) -> None:
        output.extend(data)

    async def stdin() -> AsyncIterator[bytes]:
        yield b""

    options = Options(**patient((), (), TIME))
    job = JobRequest(find_language("python"), source.encode(), options, stdin())
    await run_with(guest, job, sink)
    return output.decode().strip()


async def test_frames_of_all_sizes_come_back(assets: Assets) -> None:
    async with open_peer() as peer, boot_guest(assets, peer) as guest:
        said = await run(guest, ECHO)

    assert said == "all came back"
    assert peer.lengths == FRAMES
    assert peer.senders == {addresses.GUEST_MAC}


async def test_processors_and_threads_share_the_interface(assets: Assets) -> None:
    async with open_peer() as peer, boot_guest(assets, peer, cpus=2) as guest:
        said = await run(guest, THREADS)

    assert said == "all came back"


async def test_no_datagram_is_dropped_because_the_guest_is_slow(assets: Assets) -> None:
    """The kernel's own choice for the interface drops what has waited for 5 ms."""
    async with open_peer() as peer, boot_guest(assets, peer) as guest:
        said = await run(guest, DISCIPLINES)

    assert "eth0 pfifo_fast" in said.splitlines()


async def test_guest_without_a_network_has_no_device(assets: Assets) -> None:
    async with boot_guest(assets, None) as guest:
        said = await run(guest, INTERFACES)

    assert said == "['lo']"


async def test_guest_survives_its_peer(assets: Assets) -> None:
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(open_peer())
        guest = await stack.enter_async_context(boot_guest(assets, peer))
        peer.end.close()
        sending = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        sending += "for _ in range(2000):\n    s.sendto(bytes(1000), ('198.18.0.1', 7))\nprint(1)"

        assert await run(guest, sending) == "1"
        assert await run(guest, "print(2)") == "2"


async def test_clones_have_links_of_their_own(assets: Assets) -> None:
    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(open_peer()) for _ in range(3)]
        async with boot_guest(assets, first, template=True) as guest:
            assert await run(guest, ECHO) == "all came back"
            snapshot = await guest.machine.snapshot()
        assert snapshot.network
        template = await stack.enter_async_context(await assets.hypervisor.open_template(snapshot))
        first.lengths.clear()
        clones = [
            await stack.enter_async_context(clone_guest(template, peer)) for peer in (second, third)
        ]

        said = [await run(clone, ECHO) for clone in clones]

        assert said == ["all came back", "all came back"]
        assert second.lengths == third.lengths == FRAMES
        assert first.lengths == []


async def test_clone_without_a_link_runs_on(assets: Assets) -> None:
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(open_peer())
        async with boot_guest(assets, peer, template=True) as guest:
            await run(guest, "print(1)")
            snapshot = await guest.machine.snapshot()
        template = await stack.enter_async_context(await assets.hypervisor.open_template(snapshot))
        clone = await stack.enter_async_context(clone_guest(template, None))

        assert await run(clone, INTERFACES) == "['lo', 'eth0']"


async def test_guest_goes_on_after_its_snapshot(assets: Assets) -> None:
    async with open_peer() as peer, boot_guest(assets, peer) as guest:
        (await guest.machine.snapshot()).close()
        await guest.machine.resume()

        assert await run(guest, ECHO) == "all came back"
