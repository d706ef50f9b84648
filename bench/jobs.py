"""Jobs a second of a real server: hello worlds by clients that each wait for their last one.

Rows are ways of starting: from the pool, from clones without a pool, and by a boot. For each the
rate, the time from a start to the first byte of output and to its end, and the processor time of a
job: the server's own, and that of all processes below it (machines, zygotes). Clones that the pool
makes meanwhile are part of it. The rows take turns; each has a server of its own, which has made
its snapshot and its first clones before the measured jobs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from api import Connection, read_output, run_in_threads

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.serving import Server

PROGRAMS = {
    "bash": b"echo hello\n",
    "python": b'print("hello")\n',
    "javascript": b'console.log("hello")\n',
    "c": b'#include <stdio.h>\nint main(void) { puts("hello"); }\n',
}
WAYS = {"pool": ("--pool", "2"), "clones": ("--pool", "0"), "cold": ("--cold",)}
# How runs of each way say that they started, once snapshot and clones are there.
STARTS = {"pool": ("pool",), "clones": ("warm", "snapshot"), "cold": ("cold",)}
# Runs in a row that started as the way says, before jobs are measured.
SETTLED = 3
PATIENCE = 300.0
REST_SECONDS = 0.5


@dataclass(slots=True)
class JobCosts:
    """Measures of one way; seconds of each job, and of each round the rate and processor time."""

    rates: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    machines: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)


def read_processor_time(top: psutil.Process) -> tuple[float, float]:
    """Return the processor seconds of a process, and of all below it, also of those that ended."""
    own = top.cpu_times()
    below = own.children_user + own.children_system
    for process in top.children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # its parent has its time now
            continue
        below += times.user + times.system + times.children_user + times.children_system
    return own.user + own.system, below


def wait_rest(process: psutil.Process, share: float) -> None:
    """Wait until a server and all below it use less than ``share`` of one processor for a while."""
    deadline, before = time.monotonic() + PATIENCE, sum(read_processor_time(process))
    while True:
        time.sleep(REST_SECONDS)
        now = sum(read_processor_time(process))
        if now - before < share * REST_SECONDS:
            return
        if time.monotonic() > deadline:
            sys.exit(f"the server is not at rest after {PATIENCE:g} s")
        before = now


def settle(server: Server, language: str, way: str) -> None:
    """Run jobs until they start as ``way`` says."""
    deadline, settled = time.monotonic() + PATIENCE, 0
    with Connection(server.path) as connection:
        while settled < SETTLED:
            answer = connection.request("POST", f"/v1/run?language={language}", PROGRAMS[language])
            start = json.loads(answer)["start"]
            settled = settled + 1 if start in STARTS[way] else 0
            if time.monotonic() > deadline:
                sys.exit(f"{language}, {way}: after {PATIENCE:g} s runs start {start!r}")
            time.sleep(0.5)  # for the clone of the next


def measure(server: Server, language: str, clients: int, jobs: int, costs: JobCosts) -> None:
    """Have ``clients`` run ``jobs`` together."""
    process = psutil.Process(server.process.pid)

    def client(_number: int) -> None:
        with Connection(server.path) as connection:
            for _ in range(jobs // clients):
                began = time.perf_counter()
                target = f"/v1/start?language={language}"
                path = json.loads(connection.request("POST", target, PROGRAMS[language]))["socket"]
                first, size = read_output(path)
                assert size == len(b"hello\n")
                costs.first.append(first - began)
                costs.whole.append(time.perf_counter() - began)

    own, below = read_processor_time(process)
    seconds = run_in_threads(client, clients)
    own_after, below_after = read_processor_time(process)
    costs.rates.append(jobs / seconds)
    costs.server.append((own_after - own) / jobs)
    costs.machines.append((below_after - below) / jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=40, help="of all clients, per row and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--machine", default="auto")
    parser.add_argument("languages", nargs="*", default=["python"], help=", ".join(PROGRAMS))
    parsed = parser.parse_args()
    print(f"{parsed.clients} clients, {parsed.rounds} rounds of {parsed.jobs} jobs; medians")
    print(f"{'':<20} {'jobs/s':>7} {'first byte ms':>14} {'p95':>6} {'end ms':>7}", end="")
    print(f" {'CPU ms a job: machines':>23} {'server':>7}")
    for language in parsed.languages:
        rows = {way: JobCosts() for way in WAYS}
        for _ in range(parsed.rounds):
            for way, row in rows.items():
                jobs = parsed.jobs if way != "cold" else max(parsed.clients, parsed.jobs // 8)
                with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
                    options = ("--machine", parsed.machine, *WAYS[way])
                    with Server(Path(directory), *options) as server:
                        settle(server, language, way)
                        measure(server, language, parsed.clients, jobs, row)
        for way, row in rows.items():
            print_row(f"{language}, {way}", row)


def print_row(name: str, costs: JobCosts) -> None:
    """Print the medians of the costs of one way."""
    first, whole = (statistics.median(values) * 1000 for values in (costs.first, costs.whole))
    slow = statistics.quantiles(costs.first, n=20)[-1] * 1000
    machines, server = (statistics.median(each) * 1000 for each in (costs.machines, costs.server))
    print(f"{name:<20} {statistics.median(costs.rates):>7.2f} {first:>14.0f} {slow:>6.0f}", end="")
    print(f" {whole:>7.0f} {machines:>23.0f} {server:>7.0f}")


if __name__ == "__main__":
    main()
