"""Memory of idle machines of a server: clones that wait in its pool, and sessions between two runs.

PSS (proc_pid_smaps(5)) divides each shared page among the processes that have it: its sum over all
processes is what they take together. Unshared is what a process's end would free. Templates are
counted as far as a process has their pages mapped; the rest of a server's sealed copy of a snapshot
is in its own row. The counts do not depend on the load of the host.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

import slipway
from api import Connection
from jobs import wait_rest
from process_tree import private_bytes
from slipway_initramfs.languages import catalogue

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.serving import Server

MIB = 1 << 20
# Of one processor; a server whose machines only tick is at rest.
REST_SHARE = 0.2
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the processes of a server, in bytes; ``clones`` are those of its machines."""

    server: int
    others: int
    clones: list[int]
    unshared: list[int]
    sealed: int

    @property
    def together(self) -> int:
        """PSS of all processes."""
        return self.server + self.others + sum(self.clones)


def read_pss(pid: int) -> int:
    """Return the proportional set size of a process, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def read_sealed(pid: int) -> int:
    """Return the bytes of files in memory (memfd) that a process has open, each file once."""
    found: dict[int, int] = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if str(descriptor.readlink()).startswith("/memfd:"):
            status = descriptor.stat()
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def measure(server: Server, count: int) -> Memory:
    """Measure the server at rest: the ``count`` youngest QEMUs are its machines."""
    process = psutil.Process(server.process.pid)
    wait_rest(process, REST_SHARE)
    below = sorted(process.children(recursive=True), key=lambda each: each.create_time())
    machines = [each for each in below if "qemu" in each.name()][-count:]
    others = [each for each in below if each not in machines]
    return Memory(
        read_pss(process.pid),
        sum(read_pss(each.pid) for each in others),
        [read_pss(each.pid) for each in machines],
        [private_bytes(each.pid) for each in machines],
        read_sealed(process.pid),
    )


def wait_filled(server: Server, count: int) -> None:
    """Wait until the pool has ``count`` idle clones."""
    deadline = time.monotonic() + PATIENCE
    with Connection(server.path) as connection:
        while True:
            found = re.search(
                rb"^slipway_pool_idle (\d+)", connection.request("GET", "/metrics"), re.M
            )
            idle = int(found[1]) if found else 0
            if idle >= count:
                return
            if time.monotonic() > deadline:
                sys.exit(f"the pool has {idle} of {count} clones after {PATIENCE:g} s")
            time.sleep(0.5)


def print_row(name: str, memory: Memory) -> None:
    """Print the memory in MiB: together, of a machine, and of the rest."""
    sizes = (
        memory.together,
        statistics.median(memory.clones),
        statistics.median(memory.unshared),
        sum(memory.unshared),
        memory.server,
        memory.others,
        memory.sealed,
    )
    print(f"{name:<34}" + "".join(f"{size / MIB:>10.1f}" for size in sizes), flush=True)


def measure_pool(name: str, count: int, options: tuple[str, ...]) -> None:
    """Print the row of idle clones."""
    with (
        tempfile.TemporaryDirectory(prefix="slipway-") as directory,
        Server(Path(directory), *options, "--pool", str(count), "--warm", name) as server,
    ):
        wait_filled(server, count)
        print_row(f"{count} idle clones, {name}", measure(server, count))


def measure_sessions(name: str, count: int, options: tuple[str, ...]) -> None:
    """Print the rows of sessions: open, and after a run in each."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-"))
        server = stack.enter_context(Server(Path(directory), *options))
        client = stack.enter_context(slipway.Client(server.path))
        sessions = [stack.enter_context(client.session(name)) for _ in range(count)]
        print_row(f"{count} open sessions, {name}", measure(server, count))
        sample = catalogue.find_language(name).sample
        for session in sessions:
            session.run(sample, timeout=PATIENCE).check()
        print_row(f"{count} sessions after a run, {name}", measure(server, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("languages", nargs="*", default=["python"])
    parsed = parser.parse_args()
    room = ("--max-machines", str(parsed.count + 4), "--cpus", str(parsed.count + 4))
    options = ("--machine", "qemu", *room)
    print("MiB: PSS of all processes; of a machine PSS and unshared, medians; unshared of all")
    print("machines; PSS of the server and of its other processes; its sealed files")
    for name in parsed.languages:
        measure_pool(name, parsed.count, options)
        measure_sessions(name, parsed.count, options)


if __name__ == "__main__":
    main()
