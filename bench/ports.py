"""Bytes over a port of the agent, through the whole chain: program, agent, port, host.

Output, standard input, an input file, as many bytes in files of 1 KB, and in such files that the
program makes and the host gets back ("back") or not ("made"), with the CPU time of each
part: the host's process, that of the machine, and the agent's in the guest, by the guest's clock.
The bytes are all of the 256 values in turn, or with --text source files. Times of a loaded host
are noise; the CPU times of host and machine are not.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import slipway
from slipway._model.input_file import InputFile
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language_of_file
from slipway._run.output_sink import OutputTail
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import KERNELS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SMALL = 1000
_MAKE_FILES = (
    "import os\nos.mkdir('data')\nfor at in range(0, {size}, {small}):\n"
    "    with open(f'data/{{at}}', 'wb') as file:\n        file.write(bytes({small}))\n"
)
PROGRAMS = {
    "nothing": "",
    "out": "import os\nleft = {size}\nblock = bytes(range(256)) * 16\n"
    "while left: left -= os.write(1, block[:left])\n",
    "stdin": "import os\nwhile os.read(0, 65536): pass\n",
    "file": "",
    "files": "",
    "made": _MAKE_FILES,
    "back": _MAKE_FILES,
}


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds: of the clock, and of CPU time in the host's process, the machine and the agent."""

    wall: float
    host: float
    machine: float
    agent: float

    def subtract(self, other: Spent) -> Spent:
        """Return the difference."""
        return Spent(
            self.wall - other.wall,
            self.host - other.host,
            self.machine - other.machine,
            self.agent - other.agent,
        )


def read_cpu(pid: int) -> float:
    """Return the CPU time of process ``pid`` in seconds."""
    fields = Path(f"/proc/{pid}/schedstat")
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / fields.name).read_text().split()[0])
    return total / 1e9


async def run(guest: Guest, way: str, data: bytes) -> Spent:
    """Run the program of ``way`` in ``guest``, and move ``data``; return the time of it."""
    size = len(data)
    language = find_language_of_file(Path("x.py"))
    program = PROGRAMS[way].format(size=size, small=SMALL)
    files: tuple[InputFile, ...] = ()
    if way == "file":
        files = (InputFile("data", data),)
    elif way == "files":
        files = tuple(
            InputFile(f"data/{at}", data[at : at + SMALL]) for at in range(0, size, SMALL)
        )

    async def feed() -> AsyncIterator[bytes]:
        yield data

    stdin = feed() if way == "stdin" else None
    paths = [f"data/{at}" for at in range(0, size, SMALL)] if way == "back" else []
    options = Options(files=files, outputs=tuple(paths))
    request = JobRequest(language, program.encode(), options, stdin=stdin)
    tail = OutputTail(256)
    before = await read_times(guest)
    report = await guest.run(request, tail)
    if not report.succeeded:
        raise SystemExit(f"{way} failed: {tail.data!r}")
    return (await read_times(guest)).subtract(before)


async def read_times(guest: Guest) -> Spent:
    """Return the times up to now; the agent reports its own in its answer to a greeting."""
    ready = await guest.resync()
    return Spent(
        time.monotonic(), time.process_time(), read_cpu(guest.machine.pid), ready.start_us / 1e6
    )


async def measure(options: Options, data: bytes, rounds: int, ways: list[str]) -> None:
    """Print the times of each way, without those of a program that does nothing."""
    language = find_language_of_file(Path("x.py"))
    assets = find_assets(language, options, ImageStore(), print)
    guest = await Guest.start(assets, options)
    try:
        ready = await guest.wait_ready()
        size = len(data)
        name = guest.machine.hypervisor.name
        print(f"{name}, Linux {ready.kernel}, {ready.capabilities[0]}, {size} bytes")
        await run(guest, "nothing", b"")
        for _ in range(rounds):
            base = await run(guest, "nothing", b"")
            for way in ways:
                extra = (await run(guest, way, data)).subtract(base)
                mb = size / 1e6
                print(
                    f"{way:6} {mb / extra.wall:8.3f} MB/s; CPU seconds a MB:"
                    f" host {extra.host / mb:6.2f}, machine {extra.machine / mb:6.2f},"
                    f" in it the agent {extra.agent / mb:6.2f}",
                    flush=True,
                )
    finally:
        await guest.stop()


def read_sources() -> bytes:
    """Return the source of Slipway's host, one module after the other."""
    files = sorted(Path(slipway.__file__).parent.rglob("*.py"))
    return b"".join(file.read_bytes() for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machine", default="qemu")
    parser.add_argument("--arch", default="auto")
    parser.add_argument("--port", default="serial")
    parser.add_argument("--kernel", choices=KERNELS, help="default: the one in use")
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--text", action="store_true", help="move source text")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--way", action="append", choices=[*PROGRAMS], default=None)
    parsed = parser.parse_args()
    options = Options(
        machine=parsed.machine, port=parsed.port, arch=parsed.arch, kernel=parsed.kernel
    )
    ways = parsed.way or ["out", "stdin", "file"]
    size = parsed.kilobytes * 1000
    pattern = read_sources() if parsed.text else bytes(range(256))
    data = (pattern * (size // len(pattern) + 1))[:size]
    asyncio.run(measure(options, data, parsed.rounds, ways))


if __name__ == "__main__":
    main()
