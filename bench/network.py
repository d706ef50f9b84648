"""TCP of a guest of the qemu machine: our gateway against QEMU's own network, ``-netdev user``.

Both guests are booted once and measured in turn, with a server in a process of its own. Each round:
MB/s to and from the guest, random data, the digest compared; microseconds of a round trip of one
byte; milliseconds of connect, one byte, its echo, and close. Goals for the gateway: 120 MB/s to the
guest and 250 from it, 0.4 ms, and 10 MiB of memory (PSS).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import socket
import statistics
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
from slipway.machine.gateway_handle import GatewayHandle, GatewaySettings, create_link
from slipway_initramfs.store.image_store import ImageStore
from support.hypervisors import with_hypervisor

MIB = 1 << 20
# libslirp at the gateway's addresses: the guest is set up in the same way.
USER = "user,id=net,ipv6=off,net=198.18.0.0/24,host=198.18.0.1,dns=198.18.0.3,dhcpstart=198.18.0.15"
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
down = connect(b"d")
began, data = time.perf_counter(), bytearray()
while piece := down.recv(1 << 20):
    data += piece
to_guest = len(data) / (time.perf_counter() - began)
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


async def open_guest(stack: AsyncExitStack, gateway: GatewaySettings | None) -> tuple[Guest, int]:
    """Boot a guest with a gateway, or with QEMU's network; return its gateway's process as well."""
    assets = find_assets(find_language("python"), Options(), ImageStore(), print)
    ends = create_link()
    build = qemu.build_network_arguments
    try:
        if gateway is None:
            device = build(0)[2:]
            qemu.build_network_arguments = lambda link: ["-netdev", USER, *device]
        machine = await start_machine(
            with_hypervisor(assets, "qemu"), Options(), network=ends[1].fileno()
        )
    finally:
        qemu.build_network_arguments = build
    guest = await stack.enter_async_context(Guest(machine))
    process = 0
    if gateway is not None:
        handle = GatewayHandle.start(gateway, ends[0].fileno())
        await stack.enter_async_context(handle)
        await handle.wait_ready()
        process = handle.pid
    for end in ends:
        end.close()
    await guest.wait_ready()
    return guest, process


async def measure(guest: Guest, program: str) -> list[float]:
    """Return the figures of one round."""
    tail = OutputTail(1000)
    job = JobRequest(find_language("python"), program.encode(), Options(timeout=600))
    await guest.run(job, tail)
    figures = json.loads(tail.data)
    assert isinstance(figures, list)
    return figures


async def compare(rounds: int, port: int, data: bytes) -> None:
    """Measure both guests in turn, and print medians, and the least and greatest."""
    program = PROGRAM.format(port=port, digest=hashlib.sha256(data).hexdigest())
    async with AsyncExitStack() as stack:
        ours, gateway = await open_guest(stack, GatewaySettings(rules=f"host:{port}"))
        theirs, _ = await open_guest(stack, None)
        guests = {"gateway": ours, "netdev user": theirs}
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
        print(f"PSS of the gateway: {read_pss(gateway):.1f} MiB")


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
