"""Whole commands as typed: hello worlds of each language by each way of starting, beside floors.

==========  ======================================================================================
cold        ``vmm-run --cold``: a boot
snapshot    ``vmm-run``: a clone of the snapshot on the disk
fork        ``vmm-run`` by a server without a pool: a fork of its warm template (qemu)
pool        ``vmm-run`` by a server with a pool: an idle clone
server      the same without our command: ``curl`` to ``/v1/run``, also by an idle clone
bubblewrap  a floor: build and run of the same image in namespaces of the host, see ``floors.py``
bare QEMU   a floor: the same kernel to a trivial ``/init``; no language
==========  ======================================================================================

A sample is the wall-clock time of the whole process, with ``--json``, whose timing divides it into
steps: ``start`` is what precedes the run (Python, arguments, request), ``end`` what follows it. CPU
is the processor time of the command with its machine; for a server's ways that of the server and
all its processes until they are at rest, the pool's next clone included. That of bubblewrap is not
known, as it does not wait for its child. Languages follow each other, ways of a language take
turns. A boot that takes longer than ``--once`` is not repeated. Images and snapshots that the
default store lacks are made first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from floors import UnpackedImage, find_bubblewrap, prepare_bare
from jobs import read_processor_time, wait_rest
from slipway_initramfs.languages import catalogue
from starts_record import STEPS, WAYS, Sample, StartsRecord, compute_median

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway_initramfs.languages.language import Language

SCRIPTS = Path(sys.executable).parent
LANGUAGES = ("bash", "python", "javascript", "c", "c++", "go", "rust")
# How a result says that it started by a way, the usual word first.
STARTS = {
    "cold": ("cold",),
    "snapshot": ("snapshot",),
    "fork": ("warm", "snapshot"),
    "pool": ("pool",),
    "server": ("pool",),
}
# Runs at most until one starts as its way says: the first ones of a server open its template, and
# have a warm template made.
ATTEMPTS = 12
# Of one processor: a server whose processes use less is at rest.
REST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Way:
    """A command of a way of starting, and the server that executes its job, if any."""

    command: tuple[str, ...]
    server: Server | None = None

    def wait_rest(self) -> None:
        """Wait until the server's processes are at rest: clones made, interpreters waiting."""
        if self.server is None:
            return
        wait_rest(psutil.Process(self.server.process.pid), REST_SHARE)

    def read_cpu(self) -> float:
        """Return the processor seconds so far of ended children, and of the server."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        server = 0.0
        if self.server is not None:
            server = sum(read_processor_time(psutil.Process(self.server.process.pid)))
        return usage.ru_utime + usage.ru_stime + server


def measure(name: str, kind: str, way: Way) -> Sample:
    """Run the command of a way once; exit if it fails."""
    way.wait_rest()
    load, cpu = os.getloadavg()[0], way.read_cpu()
    began = time.perf_counter()
    with subprocess.Popen(way.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # A result is one line, printed when the run has ended.
        output = process.stdout.readline()
        printed = time.perf_counter() - began
        output += process.stdout.read()
        errors = process.stderr.read()
    wall = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(way.command)} failed:\n{errors.decode('utf-8', 'replace')}")
    way.wait_rest()
    start, steps = "", dict[str, float]()
    if kind in STARTS:
        result = json.loads(output)
        start, timing = result["start"], result["timing"]
        steps = {"start": printed - sum(timing.values()), **timing, "end": wall - printed}
        steps = {step: round(steps[step], 5) for step in STEPS if steps[step] > 0}
    cpu = way.read_cpu() - cpu
    return Sample(name, kind, round(wall, 5), round(cpu, 4), round(load, 2), start, steps)


def prepare_ways(
    name: str, machine: str, wanted: Sequence[str], stack: ExitStack
) -> dict[str, Way]:
    """Return the wanted ways of a language; servers and files are closed by ``stack``."""
    language = catalogue.find_language(name)
    # A path of a socket is short.
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-")))
    source = directory / f"hello{language.suffixes[0]}"
    source.write_text(language.sample)
    run = (str(SCRIPTS / "vmm-run"), "--json")
    local = (*run, "--no-server", "--machine", machine)
    ways = {"cold": Way((*local, "--cold", str(source))), "snapshot": Way((*local, str(source)))}
    for way, options in (("fork", ("--pool", "0")), ("pool", ("--pool", "1", "--warm", name))):
        if not {way, "server" if way == "pool" else way} & set(wanted):
            continue
        (directory / way).mkdir()
        started = Server(directory / way, "--machine", machine, *options)
        server = stack.enter_context(started)
        socket = str(server.path)
        ways[way] = Way((*run, "--api-sock", socket, str(source)), server)
        curl = ("curl", "-sf", "--data-binary", f"@{source}", "--unix-socket", socket)
        ways["server"] = Way((*curl, f"http://localhost/v1/run?language={quote(name)}"), server)
    if "bubblewrap" in wanted:
        ways |= prepare_bubblewrap(language, source, directory)
    if "bare QEMU" in wanted:
        ways["bare QEMU"] = Way(tuple(prepare_bare(directory)))
    return {way: ways[way] for way in WAYS if way in wanted and way in ways}


def quote(name: str) -> str:
    """Return a language's name for a query, in which a plus is a space."""
    return name.replace("+", "%2B")


def prepare_bubblewrap(language: Language, source: Path, directory: Path) -> dict[str, Way]:
    """Return the floor of a language, by its name; nothing where bubblewrap does not work."""
    program = find_bubblewrap()
    if program is None:
        return {}
    image = UnpackedImage.unpack(program, language, directory)
    return {"bubblewrap": Way(tuple(image.build_command(source)))}


def settle(name: str, kind: str, way: Way) -> None:
    """Run a way until it starts as its name says; this is not counted, and warms caches."""
    if kind not in STARTS:
        measure(name, kind, way)
        return
    start = ""
    for _ in range(ATTEMPTS):
        start = measure(name, kind, way).start
        if start == STARTS[kind][0]:
            return
    # Forks are warm clones, where this host can make them.
    check_start(name, kind, start)


def check_start(name: str, kind: str, start: str) -> None:
    """Exit if a run did not start by the way that is measured."""
    if kind in STARTS and start not in STARTS[kind]:
        sys.exit(f"{name}, {kind}: a run started {start!r}")


def measure_language(record: StartsRecord, name: str, parsed: argparse.Namespace) -> None:
    """Add the samples of one language: all its ways in turn, ``--rounds`` times."""
    with ExitStack() as stack:
        ways = prepare_ways(name, parsed.machine, parsed.ways, stack)
        for kind, way in ways.items():
            if kind != "cold":
                settle(name, kind, way)
        for number in range(parsed.rounds):
            for kind, way in ways.items():
                owner = "" if kind == "bare QEMU" else name
                former = record.select(owner, kind)
                if kind == "cold" and number and former[0].wall > parsed.once:
                    continue
                sample = measure(owner, kind, way)
                check_start(name, kind, sample.start)
                record.samples.append(sample)


def print_rows(rows: Sequence[tuple[str, str, list[Sample]]]) -> None:
    """Print wall-clock medians with their spread, medians of processor time, and the load."""
    for language, way, samples in rows:
        walls = [sample.wall for sample in samples]
        wall = compute_median(samples, lambda sample: sample.wall)
        cpu = compute_median(samples, lambda sample: sample.cpu)
        used = f"{cpu:.3f}" if way != "bubblewrap" else "-"
        spread, loads = f"({min(walls):.3f} to {max(walls):.3f})", [each.load for each in samples]
        print(
            f"{language:<12}{way:<12}{wall:>8.3f} {spread:<20}{used:>7}"
            f"{len(samples):>4}  load {min(loads):.1f} to {max(loads):.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--machine", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record, as it grows")
    parser.add_argument("--once", type=float, default=7.0, metavar="SECONDS")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("languages", nargs="*", default=LANGUAGES)
    parsed = parser.parse_args()
    # The servers of a measurement end with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # The snapshots of all languages, wherever the disk has little room.
    os.environ.setdefault("SLIPWAY_SNAPSHOT_BUDGET", "8G")
    build = (SCRIPTS / "slipway", "image", "build", "--snapshot", "--machine", parsed.machine)
    subprocess.run([*build, *parsed.languages], check=True)
    began = time.monotonic()
    record = StartsRecord.open(parsed.rounds)
    print(f"\n{record.date}, {record.commit}, {record.host}")
    print("whole commands: seconds, median (least to most), CPU seconds, samples", flush=True)
    for name in parsed.languages:
        measure_language(record, name, parsed)
        print_rows([row for row in record.rows() if row[0] == name])
        if parsed.json is not None:
            record.write(parsed.json)
    print_rows(list(record.rows())[-1:] if "bare QEMU" in parsed.ways else [])
    print(f"measured in {(time.monotonic() - began) / 60:.1f} min")


if __name__ == "__main__":
    main()
