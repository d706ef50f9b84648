"""What the server costs beside the machines: theirs are fake, and so are their programs.

The server is a child process, the load comes from this one. Rows stand side by side in one run:
the same runs by the library in one process show what the runtime and the fake machine take of it,
which is a socket pair and an agent in the server's own event loop. The sockets are on a tmpfs, as
those in /run are: a disk's file system may take milliseconds to free the inode of a socket.

Goals: under 3 ms at the median from a start to the first byte on the output socket, 500 starts a
second on two cores, 100 MB/s through an output socket, memory that does not grow over 10,000 runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from slipway._local.runtime import AsyncRuntime
from slipway._model.events import Output

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.fake_machine import fake_machines
from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slipway._model.execution import AsyncExecution

MEGABYTE = 1_000_000
GIB = 1 << 30
HELLO = b"print hello"
SHARED_MEMORY = Path("/dev/shm")
# Fake machines take no memory; what is admitted is not to be what is measured.
ROOM = ("--max-vms", "64", "--cpus", "64", "--memory-budget", "64G", "--queue", "1024")
CLIENTS = 8
READ_SIZE = 1 << 20


class Connection:
    """An HTTP/1.1 connection that stays open: as few instructions as can be, for an honest load."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._socket = _connected(self._path)
        self._received = b""

    def start(self, source: bytes = HELLO, query: str = "") -> str:
        """Start a run; the path of its output socket."""
        answer = self.ask("POST", f"/v1/start?language=bash{query}", source)
        path: str = json.loads(answer)["socket"]
        return path

    def ask(self, method: str, target: str, body: bytes = b"") -> bytes:
        """A request, and its answer's body; ends this program if that tells an error."""
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        self._socket.sendall(f"{head}Content-Type: text/plain\r\n\r\n".encode() + body)
        while b"\r\n\r\n" not in self._received:
            self._receive()
        answer, _, self._received = self._received.partition(b"\r\n\r\n")
        status, *fields = answer.decode().lower().split("\r\n")
        lengths = [field.split(":")[1] for field in fields if field.startswith("content-length:")]
        while len(self._received) < int(lengths[0]):
            self._receive()
        content = self._received[: int(lengths[0])]
        self._received = self._received[len(content) :]
        if status.split()[1][0] != "2":
            sys.exit(f"{method} {target}: {status}: {content.decode()}")
        return content

    def _receive(self) -> None:
        data = self._socket.recv(READ_SIZE)
        if not data:
            sys.exit("the server has closed the connection")
        self._received += data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def read_output(path: str) -> tuple[float, int]:
    """Connect and read to the end: when the first bytes were there, and how many came in all."""
    buffer, first, size = bytearray(READ_SIZE), 0.0, 0
    with _connected(path) as connection:
        while count := connection.recv_into(buffer):
            first = first or time.perf_counter()
            size += count
    return first, size


# --- From a start to the first byte --------------------------------------------------------------


async def library_latency(runtime: AsyncRuntime) -> float:
    """Seconds from a start to the first output, without a server."""
    began, first = time.perf_counter(), 0.0
    async for event in await runtime.start(HELLO, "bash"):
        if isinstance(event, Output):
            first = first or time.perf_counter()
    return first - began


def start_latency(connection: Connection, query: str) -> float:
    """Seconds from a request to the first byte on the output socket."""
    began = time.perf_counter()
    first, _ = read_output(connection.start(query=query))
    return first - began


def health_latency(connection: Connection) -> float:
    """Seconds of a request that starts nothing."""
    began = time.perf_counter()
    connection.ask("GET", "/v1/health")
    return time.perf_counter() - began


def latencies(server: Server, rounds: int) -> None:
    seconds: dict[str, list[float]] = {}
    with asyncio.Runner() as loop, Connection(server.path) as connection:
        runtime = _runtime()
        rows: dict[str, Callable[[], float]] = {
            "library: start to first output": lambda: loop.run(library_latency(runtime)),
            "GET /v1/health": lambda: health_latency(connection),
            "start to first byte, raw": lambda: start_latency(connection, ""),
            "start to first event": lambda: start_latency(connection, "&stream=events"),
        }
        for number in range(rounds + rounds // 10):
            for name, measure in rows.items():
                value = measure()
                if number >= rounds // 10:
                    seconds.setdefault(name, []).append(value * 1000)
        loop.run(runtime.aclose())
    print(f"\none after the other, {rounds} rounds in turn, ms (goal: 3 at the median)")
    print(f"{'':<34} {'p50':>8} {'p95':>8} {'max':>8}")
    for name, values in seconds.items():
        middle, high = statistics.median(values), statistics.quantiles(values, n=20)[-1]
        print(f"{name:<34} {middle:>8.2f} {high:>8.2f} {max(values):>8.2f}")


def _runtime() -> AsyncRuntime:
    return AsyncRuntime(**fake_machines(), max_vms=64, cpus=64, memory_budget=64 * GIB)


# --- Starts a second -----------------------------------------------------------------------------


def together(work: Callable[[int], object], clients: int) -> float:
    """Seconds that ``clients`` threads take for ``work``, which is told which of them it is."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def start_many(server: Server, count: int) -> float:
    """Runs a second, each started, its output read to the end."""

    def client(_number: int) -> None:
        with Connection(server.path) as connection:
            for _ in range(count // CLIENTS):
                _, size = read_output(connection.start())
                assert size == len(b"hello\n")

    return count / together(client, CLIENTS)


def run_many(server: Server, count: int) -> float:
    """Runs a second by ``POST /v1/run``."""

    def client(_number: int) -> None:
        with Connection(server.path) as connection:
            for _ in range(count // CLIENTS):
                assert b"hello" in connection.ask("POST", "/v1/run?language=bash", HELLO)

    return count / together(client, CLIENTS)


async def library_many(count: int) -> float:
    """Runs a second without a server, as many at once."""
    async with _runtime() as runtime:

        async def client() -> None:
            for _ in range(count // CLIENTS):
                assert (await runtime.run(HELLO, "bash")).stdout == "hello\n"

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return count / (time.perf_counter() - began)


def rates(server: Server, count: int, rounds: int) -> None:
    rows: dict[str, Callable[[], float]] = {
        "library: run": lambda: asyncio.run(library_many(count)),
        "POST /v1/start, output read": lambda: start_many(server, count),
        "POST /v1/run": lambda: run_many(server, count),
    }
    show(f"runs a second, {CLIENTS} clients, {count} runs a round (goal: 500)", rows, rounds)


def show(title: str, rows: Mapping[str, Callable[[], float]], rounds: int) -> None:
    """Measure the rows in turn and print them; the first round warms up and is not counted."""
    values: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, measure in rows.items():
            value = measure()
            if number:
                values[name].append(value)
    print(f"\n{title}; {rounds} rounds in turn\n{'':<34} {'min':>8} {'median':>8} {'max':>8}")
    for name, measured in values.items():
        low, high, middle = min(measured), max(measured), statistics.median(measured)
        print(f"{name:<34} {low:>8.0f} {middle:>8.0f} {high:>8.0f}")


# --- Throughput ----------------------------------------------------------------------------------


async def library_flow(size: int) -> float:
    """MB/s of output as events, without a server."""
    async with _runtime() as runtime:
        source = b"flood %d" % size
        began = time.perf_counter()
        received = await _drain(await runtime.start(source, "bash", output_limit=size))
        seconds = time.perf_counter() - began
    assert received == size
    return size / MEGABYTE / seconds


async def _drain(execution: AsyncExecution) -> int:
    received = 0
    async for event in execution:
        if isinstance(event, Output):
            received += len(event.data)
    return received


def server_flow(server: Server, size: int, stream: str) -> float:
    """MB/s of the program's output through the output socket, from the start to its end."""
    with Connection(server.path) as connection:
        began = time.perf_counter()
        query = f"&stream={stream}&output_limit={size}"
        _, received = read_output(connection.start(b"flood %d" % size, query))
        seconds = time.perf_counter() - began
    assert received == size if stream == "raw" else received > size
    return size / MEGABYTE / seconds


def throughput(server: Server, size: int, rounds: int) -> None:
    rows: dict[str, Callable[[], float]] = {
        "library: events": lambda: asyncio.run(library_flow(size)),
        "output socket, raw": lambda: server_flow(server, size, "raw"),
        "output socket, events": lambda: server_flow(server, size, "events"),
    }
    title = f"MB/s of output, {size // MEGABYTE} MB a round, the start included (goal: 100)"
    show(title, rows, rounds)


# --- Memory --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """What the server's process holds."""

    runs: int
    resident: int
    descriptors: int
    threads: int


def memory(server: Server, steps: list[int]) -> None:
    """What the server holds after each of ``steps`` runs."""
    process = psutil.Process(server.process.pid)
    seen = []
    for before, after in pairwise([0, *steps]):
        start_many(server, after - before)
        resident = process.memory_info().rss
        seen.append(Held(after, resident, process.num_fds(), process.num_threads()))
    print("\nthe server's process after so many runs (goal: no growth)")
    print(f"{'runs':>8} {'RSS MB':>8} {'open files':>11} {'threads':>8}")
    for held in seen:
        megabytes = held.resident / MEGABYTE
        print(f"{held.runs:>8} {megabytes:>8.1f} {held.descriptors:>11} {held.threads:>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latencies", type=int, default=500, metavar="ROUNDS")
    parser.add_argument("--runs", type=int, default=1000, help="of each round of a rate")
    parser.add_argument("--megabytes", type=int, default=300, help="of each round of throughput")
    parser.add_argument("--total", type=int, default=10_000, help="runs for the memory")
    parser.add_argument("--directory", type=Path, default=SHARED_MEMORY, help="for the sockets")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slipway-", dir=parsed.directory) as directory:
        with Server(Path(directory), *ROOM, fake=True) as server:
            steps = [parsed.total // 10, parsed.total // 2, parsed.total]
            memory(server, steps)
            latencies(server, parsed.latencies)
            rates(server, parsed.runs, parsed.rounds)
            throughput(server, parsed.megabytes * MEGABYTE, parsed.rounds)
        left = server.leftovers()
        if left:
            sys.exit(f"the server left something behind: {left}")


if __name__ == "__main__":
    main()
