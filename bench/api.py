"""Cost of the server without machines: latency, starts per second, throughput and memory.

Machines and programs are fake: a machine is a socket pair and an agent in the server's event loop.
The server is a child process; the load comes from this process. The same runs by the library in
one process show the share of the runtime and the fake machine. Sockets are on a tmpfs, such as
/run: the file system of a disk may need milliseconds to free the inode of a socket.

Goals: less than 3 ms (median) from a start to the first byte on the output socket, 500 starts per
second on two cores, 100 MB/s through an output socket, constant memory over 10,000 runs.
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
# Fake machines use no memory. Admission must not be the bottleneck.
ROOM = ("--max-machines", "64", "--cpus", "64", "--memory-budget", "64G", "--queue", "1024")
CLIENTS = 8
READ_SIZE = 1 << 20


class Connection:
    """Persistent HTTP/1.1 connection with as few instructions as possible: the load is small."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._socket = _connect(self._path)
        self._received = b""

    def start(self, source: bytes = HELLO, query: str = "") -> str:
        """Start a run, and return the path of its output socket."""
        answer = self.request("POST", f"/v1/start?language=bash{query}", source)
        path: str = json.loads(answer)["socket"]
        return path

    def request(self, method: str, target: str, body: bytes = b"") -> bytes:
        """Send a request, and return the body of the response; exit on an error."""
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


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def read_output(path: str) -> tuple[float, int]:
    """Read to the end; return the time of the first bytes, and the number of all bytes."""
    buffer, first, size = bytearray(READ_SIZE), 0.0, 0
    with _connect(path) as connection:
        while count := connection.recv_into(buffer):
            first = first or time.perf_counter()
            size += count
    return first, size


# --- From a start to the first byte --------------------------------------------------------------


async def measure_library_latency(runtime: AsyncRuntime) -> float:
    """Return the seconds from a start to the first output, without a server."""
    began, first = time.perf_counter(), 0.0
    async for event in await runtime.start(HELLO, "bash"):
        if isinstance(event, Output):
            first = first or time.perf_counter()
    return first - began


def measure_start_latency(connection: Connection, query: str) -> float:
    """Return the seconds from a request to the first byte on the output socket."""
    began = time.perf_counter()
    first, _ = read_output(connection.start(query=query))
    return first - began


def measure_health_latency(connection: Connection) -> float:
    """Return the seconds of a request without a run."""
    began = time.perf_counter()
    connection.request("GET", "/v1/health")
    return time.perf_counter() - began


def print_latencies(server: Server, rounds: int) -> None:
    seconds: dict[str, list[float]] = {}
    with asyncio.Runner() as loop, Connection(server.path) as connection:
        runtime = _create_runtime()
        rows: dict[str, Callable[[], float]] = {
            "library: start to first output": lambda: loop.run(measure_library_latency(runtime)),
            "GET /v1/health": lambda: measure_health_latency(connection),
            "start to first byte, raw": lambda: measure_start_latency(connection, ""),
            "start to first event": lambda: measure_start_latency(connection, "&stream=events"),
        }
        for number in range(rounds + rounds // 10):
            for name, measure in rows.items():
                value = measure()
                if number >= rounds // 10:
                    seconds.setdefault(name, []).append(value * 1000)
        loop.run(runtime.aclose())
    print(f"\none at a time, {rounds} alternating rounds, ms (goal: median of 3)")
    print(f"{'':<34} {'p50':>8} {'p95':>8} {'max':>8}")
    for name, values in seconds.items():
        middle, high = statistics.median(values), statistics.quantiles(values, n=20)[-1]
        print(f"{name:<34} {middle:>8.2f} {high:>8.2f} {max(values):>8.2f}")


def _create_runtime() -> AsyncRuntime:
    return AsyncRuntime(**fake_machines(), max_machines=64, cpus=64, memory_budget=64 * GIB)


# --- Starts per second ---------------------------------------------------------------------------


def run_in_threads(work: Callable[[int], object], clients: int) -> float:
    """Return the seconds that ``clients`` threads need for ``work``, called with their number."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def start_many(server: Server, count: int) -> float:
    """Return runs per second by ``POST /v1/start``, with the output read to the end."""

    def client(_number: int) -> None:
        with Connection(server.path) as connection:
            for _ in range(count // CLIENTS):
                _, size = read_output(connection.start())
                assert size == len(b"hello\n")

    return count / run_in_threads(client, CLIENTS)


def run_many(server: Server, count: int) -> float:
    """Return runs per second by ``POST /v1/run``."""

    def client(_number: int) -> None:
        with Connection(server.path) as connection:
            for _ in range(count // CLIENTS):
                assert b"hello" in connection.request("POST", "/v1/run?language=bash", HELLO)

    return count / run_in_threads(client, CLIENTS)


async def run_many_by_library(count: int) -> float:
    """Return runs per second without a server, with as many clients."""
    async with _create_runtime() as runtime:

        async def client() -> None:
            for _ in range(count // CLIENTS):
                assert (await runtime.run(HELLO, "bash")).stdout == "hello\n"

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return count / (time.perf_counter() - began)


def print_rates(server: Server, count: int, rounds: int) -> None:
    rows: dict[str, Callable[[], float]] = {
        "library: run": lambda: asyncio.run(run_many_by_library(count)),
        "POST /v1/start, output read": lambda: start_many(server, count),
        "POST /v1/run": lambda: run_many(server, count),
    }
    print_rows(
        f"runs per second, {CLIENTS} clients, {count} runs per round (goal: 500)", rows, rounds
    )


def print_rows(title: str, rows: Mapping[str, Callable[[], float]], rounds: int) -> None:
    """Measure the rows in alternating rounds and print them; the first round does not count."""
    values: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, measure in rows.items():
            value = measure()
            if number:
                values[name].append(value)
    print(f"\n{title}; {rounds} alternating rounds\n{'':<34} {'min':>8} {'median':>8} {'max':>8}")
    for name, measured in values.items():
        low, high, middle = min(measured), max(measured), statistics.median(measured)
        print(f"{name:<34} {low:>8.0f} {middle:>8.0f} {high:>8.0f}")


# --- Throughput ----------------------------------------------------------------------------------


async def measure_library_throughput(size: int) -> float:
    """Return MB/s of output as events, without a server."""
    async with _create_runtime() as runtime:
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


def measure_socket_throughput(server: Server, size: int, stream: str) -> float:
    """Return MB/s of output through the output socket, from the start to the end."""
    with Connection(server.path) as connection:
        began = time.perf_counter()
        query = f"&stream={stream}&output_limit={size}"
        _, received = read_output(connection.start(b"flood %d" % size, query))
        seconds = time.perf_counter() - began
    assert received == size if stream == "raw" else received > size
    return size / MEGABYTE / seconds


def print_throughput(server: Server, size: int, rounds: int) -> None:
    rows: dict[str, Callable[[], float]] = {
        "library: events": lambda: asyncio.run(measure_library_throughput(size)),
        "output socket, raw": lambda: measure_socket_throughput(server, size, "raw"),
        "output socket, events": lambda: measure_socket_throughput(server, size, "events"),
    }
    title = f"MB/s of output, {size // MEGABYTE} MB per round, with the start (goal: 100)"
    print_rows(title, rows, rounds)


# --- Memory --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory, files and threads of the server's process after a number of runs."""

    runs: int
    resident: int
    descriptors: int
    threads: int


def print_memory(server: Server, steps: list[int]) -> None:
    """Print the usage of the server after each number of runs in ``steps``."""
    process = psutil.Process(server.process.pid)
    seen = []
    for before, after in pairwise([0, *steps]):
        start_many(server, after - before)
        resident = process.memory_info().rss
        seen.append(Usage(after, resident, process.num_fds(), process.num_threads()))
    print("\nthe server's process by number of runs (goal: no growth)")
    print(f"{'runs':>8} {'RSS MB':>8} {'open files':>11} {'threads':>8}")
    for usage in seen:
        megabytes = usage.resident / MEGABYTE
        print(f"{usage.runs:>8} {megabytes:>8.1f} {usage.descriptors:>11} {usage.threads:>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latencies", type=int, default=500, metavar="ROUNDS")
    parser.add_argument(
        "--runs", type=int, default=1000, help="runs per round, for runs per second"
    )
    parser.add_argument("--megabytes", type=int, default=300, help="MB per round, for throughput")
    parser.add_argument("--total", type=int, default=10_000, help="runs for the growth of memory")
    parser.add_argument(
        "--directory", type=Path, default=SHARED_MEMORY, help="directory of the sockets"
    )
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slipway-", dir=parsed.directory) as directory:
        with Server(Path(directory), *ROOM, fake=True) as server:
            steps = [parsed.total // 10, parsed.total // 2, parsed.total]
            print_memory(server, steps)
            print_latencies(server, parsed.latencies)
            print_rates(server, parsed.runs, parsed.rounds)
            print_throughput(server, parsed.megabytes * MEGABYTE, parsed.rounds)
        leftovers = server.leftovers()
        if leftovers:
            sys.exit(f"the server has left files or processes: {leftovers}")


if __name__ == "__main__":
    main()
