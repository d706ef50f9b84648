"""A gateway between Linux's TCP in a network namespace and a server in another; needs root.

Each round measures, with a gateway of its own:

- MB/s to and from the guest, random data, every byte compared, and the microseconds of CPU time
  that the gateway takes for a MiB, which say more than the rate on a host that others use;
- microseconds of a round trip of one byte, the median;
- microseconds of connect, one byte, its echo, and close, the median;
- seconds for 200 connections at once, each with a byte and its echo;
- PSS of the gateway after all that, in MiB;
- milliseconds from the start of the process to its first answer to ARP, on a link of its own.

Client and server are processes of their own. Where QEMU's ``-netdev user`` and passt stand beside
this, both in a guest, is a matter of bench/network.py.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.machine.gateway import addresses
from slipway.machine.gateway_handle import GatewayHandle, GatewaySettings, create_link
from support.gateway_rig import PUBLIC, GatewayRig, create_server, open_rig, start_with_ports
from support.namespaces import explain_missing

if TYPE_CHECKING:
    from collections.abc import Callable

PORT = 7000
SETTINGS = GatewaySettings(rules=f"{PUBLIC}/32")
BLOCK = os.urandom(8 << 20)
SEND, RECEIVE, ECHO = b"s", b"r", b"e"


def serve(listening: socket.socket) -> None:
    """Serve each connection in a thread."""
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=serve_one, args=(connection,), daemon=True).start()


def serve_one(connection: socket.socket) -> None:
    """Serve as the first byte says."""
    with connection, suppress(OSError):
        kind = connection.recv(1)
        if kind == SEND:
            for _ in range(int.from_bytes(connection.recv(4), "big")):
                connection.sendall(BLOCK)
        elif kind == RECEIVE:
            blocks = int.from_bytes(connection.recv(4), "big")
            connection.sendall(b"y" if receive_blocks(connection, blocks) else b"n")
        else:
            while data := connection.recv(1):
                connection.sendall(data)


def receive_blocks(connection: socket.socket, blocks: int) -> bool:
    """Return True if ``blocks`` times the known block arrives."""
    buffer = bytearray(len(BLOCK))
    for _ in range(blocks):
        filled = 0
        while filled < len(buffer):
            count = connection.recv_into(memoryview(buffer)[filled:])
            if not count:
                return False
            filled += count
        if buffer != BLOCK:
            return False
    return True


async def measure_elsewhere(rig: GatewayRig, work: Callable[[], float]) -> float:
    """Return the result of ``work``, done by a process in the guest's namespace."""
    reader, writer = os.pipe()
    with rig.guest.enter():
        child = os.fork()
        if not child:
            try:
                os.write(writer, repr(work()).encode())
                os._exit(0)
            finally:
                os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as result:
        text = await asyncio.to_thread(result.read)
    os.waitpid(child, 0)
    if not text:
        sys.exit("a transfer failed")
    return float(text)


def connect() -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.connect((PUBLIC, PORT))
    return client


def transfer(kind: bytes, blocks: int) -> float:
    """Return MB/s of one connection."""
    with connect() as client:
        began = time.perf_counter()
        client.sendall(kind + blocks.to_bytes(4, "big"))
        if kind == SEND:
            right = receive_blocks(client, blocks)
        else:
            for _ in range(blocks):
                client.sendall(BLOCK)
            right = client.recv(1) == b"y"
        passed = time.perf_counter() - began
    if not right:
        sys.exit("a byte is wrong")
    return blocks * len(BLOCK) / passed / 1e6


def measure_round_trips(count: int) -> float:
    times = []
    with connect() as client:
        client.sendall(ECHO)
        for _ in range(count):
            began = time.perf_counter()
            client.sendall(b"x")
            client.recv(1)
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def measure_connections(count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        with connect() as client:
            client.sendall(ECHO + b"x")
            client.recv(1)
        times.append(time.perf_counter() - began)
        time.sleep(0.011)  # the bound on new connections
    return statistics.median(times) * 1e6


def measure_many(count: int) -> float:
    time.sleep(2.5)  # the bound on new connections
    began = time.perf_counter()
    clients = [socket.socket() for _ in range(count)]
    for client in clients:
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.connect((PUBLIC, PORT))
    for client in clients:
        client.setblocking(True)
        client.sendall(ECHO + b"x")
    for client in clients:
        client.recv(1)
    return time.perf_counter() - began


async def measure_start() -> float:
    """Return milliseconds from the start of a process to its first answer."""
    ours, theirs = create_link()
    question = (
        b"\xff" * 6 + addresses.GUEST_MAC + bytes.fromhex("0806000108000604" "0001")
        + addresses.GUEST_MAC + addresses.GUEST + bytes(6) + addresses.GATEWAY
    )  # fmt: skip
    with ours, theirs:
        theirs.setblocking(False)
        theirs.send(question)
        began = time.perf_counter()
        handle = GatewayHandle.start(SETTINGS, ours.fileno())
        await asyncio.get_running_loop().sock_recv(theirs, 100)
        passed = time.perf_counter() - began
        await handle.close()
    return passed * 1e3


def read_cpu_seconds(process: int) -> float:
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def read_pss(process: int) -> float:
    """Return MiB."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def measure_round(blocks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        async with open_rig(Path(directory)) as rig:
            with rig.world.enter():
                listening = create_server(PUBLIC, PORT)
                listening.listen(300)
                server = os.fork()
                if not server:
                    serve(listening)
            listening.close()
            try:
                return await measure_with(rig, blocks)
            finally:
                os.kill(server, 9)
                os.waitpid(server, 0)


async def measure_with(rig: GatewayRig, blocks: int) -> dict[str, float]:
    handle, _ = await start_with_ports(rig, SETTINGS)
    figures = {"PSS at rest": read_pss(handle.pid)}
    for name, work in {
        "to guest": lambda: transfer(SEND, blocks),
        "from guest": lambda: transfer(RECEIVE, blocks),
        "round trip": lambda: measure_round_trips(3000),
        "connection": lambda: measure_connections(50),
        "200 at once": lambda: measure_many(200),
    }.items():
        before = read_cpu_seconds(handle.pid)
        figures[name] = await measure_elsewhere(rig, work)
        used = read_cpu_seconds(handle.pid) - before
        if name.endswith("guest"):
            figures[f"CPU {name}"] = used * 1e6 / (blocks * len(BLOCK) >> 20)
    figures["PSS"] = read_pss(handle.pid)
    figures["start"] = statistics.median([await measure_start() for _ in range(9)])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=256, help="of each transfer")
    arguments = parser.parse_args()
    if missing := explain_missing():
        sys.exit(f"this needs network namespaces: {missing}")
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append(asyncio.run(measure_round(arguments.mib >> 3)))
        print({name: round(value, 2) for name, value in rounds[-1].items()}, flush=True)
    print("median:")
    units = {"guest": "MB/s", "trip": "us", "connection": "us", "once": "s", "start": "ms"}
    for name in rounds[0]:
        unit = "us/MiB" if name.startswith("CPU") else units.get(name.split()[-1], "MiB")
        print(f"  {name:14} {statistics.median(each[name] for each in rounds):8.2f} {unit}")


if __name__ == "__main__":
    main()
