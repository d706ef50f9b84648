"""TCP of a guest of the qemu machine: our gateway, QEMU's own network (``-netdev user``), passt.

All guests are booted once and measured in turn, with a server in a process of its own; passt only
where it is installed. Each round: MB/s to and from the guest, random data, the digest compared;
microseconds of a round trip of one byte; milliseconds of connect, one byte, its echo, and close.
Goals for the gateway: 120 MB/s to the guest and 250 from it, 0.4 ms, and 10 MiB of memory (PSS).

The guest receives into memory that it has touched before: with a growing buffer, most of the time
would be its kernel's for new pages, under emulation.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, suppress
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._run.output_sink import OutputTail
from slipway._run.start_machine import start_machine
from slipway.machine import qemu
from slipway.machine.gateway import addresses
from slipway.machine.gateway_handle import GatewayHandle, GatewaySettings, create_link
from slipway_initramfs.store.image_store import ImageStore
from support.hypervisors import with_hypervisor

MIB = 1 << 20
# libslirp at the gateway's addresses: the guest is set up in the same way.
USER = "user,id=net,ipv6=off,net=198.18.0.0/24,host=198.18.0.1,dns=198.18.0.3,dhcpstart=198.18.0.15"
STREAM = "stream,id=net,server=off,addr.type=fd,addr.str={link}"
# The same addresses; passt leads connections to the router's address to the host's 127.0.0.1.
PASST = (
    *("passt", "--foreground", "--quiet", "--ipv4-only", "--mtu", str(addresses.MTU)),
    *("--address", "198.18.0.2", "--netmask", "30", "--gateway", "198.18.0.1"),
    *("--mac-addr", addresses.GATEWAY_MAC.hex(":"), "--tcp-ports", "none", "--udp-ports", "none"),
)
PROGRAM = """
import hashlib, json, socket, statistics, time
def connect(kind):
    made = socket.create_connection(("198.18.0.1", {port}), timeout=120)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.sendall(kind)
    return made
def echo(made):
    began = time.perf_counter()
    made.sendall(b"x")
    assert made.recv(1) == b"x"
    return time.perf_counter() - began
data, filled = bytearray(b"x") * {size}, 0
view = memoryview(data)
down = connect(b"d")
began = time.perf_counter()
while count := down.recv_into(view[filled:], min(1 << 20, {size} - filled)):
    filled += count
to_guest = len(data) / (time.perf_counter() - began)
assert hashlib.sha256(data).hexdigest() == "{digest}"
up = connect(b"u")
began = time.perf_counter()
up.sendall(data)
up.shutdown(socket.SHUT_WR)
assert up.recv(100).decode() == "{digest}"
from_guest = len(data) / (time.perf_counter() - began)
line = connect(b"e")
trips = [echo(line) for _ in range(300)]
connections = []
for _ in range(30):
    began = time.perf_counter()
    made = connect(b"e")
    echo(made)
    made.close()
    connections.append(time.perf_counter() - began)
print(json.dumps([to_guest / 1e6, from_guest / 1e6, statistics.median(trips) * 1e6,
    statistics.median(connections) * 1e3]))
"""
COLUMNS = ("to guest, MB/s", "from guest, MB/s", "round trip, us", "connection, ms")


def serve(listening: socket.socket, data: bytes) -> None:
    """Serve connections for good, each in a thread."""
    while True:
        made, _ = listening.accept()
        threading.Thread(target=serve_one, args=(made, data), daemon=True).start()


def serve_one(made: socket.socket, data: bytes) -> None:
    """Send ``data`` (d), answer with a digest (u) or echo (e), as the first byte says."""
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with made, suppress(ConnectionError):
        match made.recv(1):
            case b"d":
                made.sendall(data)
            case b"u":
                digest = hashlib.sha256()
                while piece := made.recv(MIB):
                    digest.update(piece)
                made.sendall(digest.hexdigest().encode())
            case b"e":
                while piece := made.recv(4096):
                    made.sendall(piece)


def start_server(data: bytes) -> tuple[int, int]:
    """Fork a process that serves ``data``; return its id and port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    if process := os.fork():
        with listening:
            return process, listening.getsockname()[1]
    try:
        serve(listening, data)
    finally:
        os._exit(1)


def read_pss(process: int) -> float:
    """Return the proportional set size of a process, in MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def open_guest(
    stack: AsyncExitStack, ends: tuple[socket.socket, socket.socket], netdev: str = ""
) -> Guest:
    """Boot a guest whose interface is on ``ends[1]``, with our option of QEMU or another one.

    Both ends are closed here; a process behind ``ends[0]`` has been started before.
    """
    assets = find_assets(find_language("python"), Options(), ImageStore(), print)
    build = qemu.build_network_arguments
    try:
        if netdev:
            device = build(0)[2:]
            qemu.build_network_arguments = lambda link: [
                *["-netdev", netdev.format(link=link)],
                *device,
            ]
        machine = await start_machine(
            with_hypervisor(assets, "qemu"), Options(), network=ends[1].fileno()
        )
    finally:
        qemu.build_network_arguments = build
    guest = await stack.enter_async_context(Guest(machine))
    for end in ends:
        end.close()
    await guest.wait_ready()
    return guest


async def open_with_gateway(stack: AsyncExitStack, port: int) -> tuple[Guest, int]:
    """Boot a guest with a gateway; return the gateway's process as well."""
    ends = create_link()
    handle = GatewayHandle.start(GatewaySettings(rules=f"host:{port}"), ends[0].fileno())
    await stack.enter_async_context(handle)
    await handle.wait_ready()
    return await open_guest(stack, ends), handle.pid


async def open_with_passt(stack: AsyncExitStack) -> tuple[Guest, int]:
    """Boot a guest with passt; return the process as well."""
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
    process = subprocess.Popen(
        [*PASST, "--fd", str(ends[0].fileno())],
        pass_fds=[ends[0].fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return await open_guest(stack, ends, STREAM), process.pid


async def measure(guest: Guest, program: str) -> list[float]:
    """Return the figures of one round."""
    tail = OutputTail(1000)
    job = JobRequest(find_language("python"), program.encode(), Options(timeout=600))
    await guest.run(job, tail)
    figures = json.loads(tail.data)
    assert isinstance(figures, list)
    return figures


async def compare(rounds: int, port: int, data: bytes) -> None:
    """Measure the guests in turn, and print medians, and the least and greatest."""
    digest = hashlib.sha256(data).hexdigest()
    program = PROGRAM.format(port=port, digest=digest, size=len(data))
    async with AsyncExitStack() as stack:
        guests, processes = {}, {}
        guests["gateway"], processes["gateway"] = await open_with_gateway(stack, port)
        guests["netdev user"] = await open_guest(stack, create_link(), USER)
        if shutil.which("passt"):
            guests["passt"], processes["passt"] = await open_with_passt(stack)
        figures: dict[str, list[list[float]]] = {name: [] for name in guests}
        for _ in range(rounds):
            for name, guest in guests.items():
                figures[name].append(await measure(guest, program))
        for name, rows in figures.items():
            cells = [
                f"{statistics.median(column):.1f} ({min(column):.1f} to {max(column):.1f})"
                for column in zip(*rows, strict=True)
            ]
            print(f"{name:<12} " + "; ".join(map(" ".join, zip(COLUMNS, cells, strict=True))))
        for name, process in processes.items():
            print(f"PSS of the process: {name} {read_pss(process):.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=24, metavar="MIB")
    parsed = parser.parse_args()
    data = os.urandom(parsed.size * MIB)
    server, port = start_server(data)
    try:
        asyncio.run(compare(parsed.rounds, port, data))
    finally:
        os.kill(server, signal.SIGKILL)


if __name__ == "__main__":
    main()
