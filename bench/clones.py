"""Machines that do not boot: cold, cloned and taken from a pool, side by side in one run.

::

    python bench/clones.py latency   launch of a machine to the first byte of a hello world's output
    python bench/clones.py memory    what clones that wait have of their own, and 40 at once
    python bench/clones.py compilers what is added to the compiler's own time in the guest
    python bench/clones.py languages each language's hello world, by a clone and from the pool
    python bench/clones.py warm      warm clones and others in turn: CPU time, answer, memory

Without an argument all five. They run in this process, without a server, on the machine that
``auto`` takes, the last on qemu; snapshots that are missing in the default store are made.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from process_tree import private_bytes
from side_by_side import table
from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._run.launcher import ColdLauncher
from slipway._snapshots.create import create_snapshot
from slipway._snapshots.pool import Pool
from slipway._snapshots.templates import TemplateCache
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from slipway._model.network import Network
    from slipway._run.assets import Assets
    from slipway._run.guest import Guest
    from slipway._run.output_sink import FlowControl
    from slipway._snapshots.key import SnapshotKey
    from slipway_protocol.messages import Phase, Stream

HELLO = {
    "python": b'print("hello")\n',
    "rust": b'fn main() {\n    println!("hello");\n}\n',
    "go": b'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Println("hello")\n}\n',
}
LANGUAGES = ("bash", "python", "javascript", "c", "c++", "go", "rust")
SETTLED = 3.0
"""Seconds that an interpreter has to come to where it waits; node takes two."""
PARTS = ("latency", "memory", "compilers", "languages", "warm")
GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BenchSetup:
    """One language, ready to be cloned."""

    assets: Assets
    options: Options
    key: SnapshotKey
    store: ImageStore
    templates: TemplateCache
    admission: Admission


@asynccontextmanager
async def ground(
    name: str, machine: str, network: Network | None = None
) -> AsyncIterator[BenchSetup]:
    """Find what ``name`` boots from, and its snapshot; make what is missing."""
    store, options = ImageStore(), Options(machine=machine, network=network)
    assets = await asyncio.to_thread(find_assets, find_language(name, store), options, store, print)
    admission = Admission(Capacity(machines=64, memory=20 * GIB, cpus=64, queue=64))
    templates = TemplateCache(store, admission)
    key = templates.key_of(assets, options)
    if not templates.has(key):
        await create_snapshot(assets, options, store, print)
    try:
        yield BenchSetup(assets, options, key, store, templates, admission)
    finally:
        await templates.close()


async def first_byte(on: BenchSetup, launch: Callable[[], Awaitable[Guest]]) -> float:
    """Seconds from asking for a machine to the first byte that its hello world writes."""
    began = time.perf_counter()
    guest = await launch()
    try:
        return await first_output(guest, on) - began
    finally:
        await guest.stop()


class Arrivals:
    """Sink that notes when output came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._flow: FlowControl

    def connect(self, flow: FlowControl) -> None:
        self._flow = flow

    def put_output(self, _phase: Phase, stream: Stream, data: bytes) -> None:
        self.times.append(time.perf_counter())
        self._flow.release(stream, len(data))


async def first_output(guest: Guest, on: BenchSetup) -> float:
    """When the first byte came that a hello world in ``guest`` wrote."""
    arrivals = Arrivals()
    language = on.assets.language
    source = HELLO.get(language.name, language.sample.encode())
    report = await guest.run(JobRequest(language, source, on.options), arrivals)
    if not report.succeeded or not arrivals.times:
        raise SystemExit(f"the hello world of {language.name} failed")
    return arrivals.times[0]


async def clone(on: BenchSetup) -> Guest:
    """A clone, made now."""
    return await on.templates.clone(on.key, on.assets, on.options)


async def wait_filled(pool: Pool, count: int) -> None:
    """Until so many clones wait."""
    while pool.idle < count:
        await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLED)  # their interpreters start


async def latency(rounds: int, machine: str) -> None:
    """Python's hello world by all three ways."""
    async with ground("python", machine) as on:
        cold = ColdLauncher(on.store)
        seconds: dict[str, list[float]] = {"cold boot": [], "clone": [], "pool": []}
        for number in range(rounds + 1):
            times = [
                await first_byte(on, lambda: cold.launch(on.assets, on.options)),
                await first_byte(on, lambda: clone(on)),
                (await from_pool(on))[0],
            ]
            for row, value in zip(seconds.values(), times, strict=True):
                if number:  # the first round warms caches
                    row.append(value)
    table(f"launch to a Python hello's first byte, {rounds} rounds", seconds)
    medians = [statistics.median(row) for row in seconds.values()]
    print(f"a clone is {medians[0] / medians[1]:.0f} times, the pool {medians[0] / medians[2]:.0f}")
    print("times as fast as a cold boot")


async def from_pool(on: BenchSetup) -> tuple[float, float]:
    """The same from a pool with one clone in it; and what that had of its own, in bytes."""
    pool = Pool(on.store, on.templates, on.admission, 1)
    try:
        pool.prewarm(on.key, on.assets, on.options)
        await wait_filled(pool, 1)
        (idle,) = pool.entries[on.key].ready
        own = private_bytes(idle.guest.machine.pid)

        async def take() -> Guest:
            guest = await pool.take(on.key, on.assets, on.options)
            assert guest is not None
            return guest

        return await first_byte(on, take), own
    finally:
        await pool.close()


async def memory(count: int, machine: str) -> None:
    """Unshared memory of clones: fresh from their template, and waiting in a pool."""
    async with ground("python", machine) as on:
        fresh = [await clone(on) for _ in range(4)]
        ready_ones = [private_bytes(guest.machine.pid) for guest in fresh]
        await asyncio.gather(*(guest.stop() for guest in fresh))
        pool = Pool(on.store, on.templates, on.admission, 4)
        pool.prewarm(on.key, on.assets, on.options)
        await wait_filled(pool, 4)
        waiting = [private_bytes(idle.guest.machine.pid) for idle in pool.entries[on.key].ready]
        await pool.close()
        print("\nunshared memory of one clone's process, MiB (Private_Clean + Private_Dirty)")
        print(f"agent ready                 {statistics.median(ready_ones) / MIB:8.1f}")
        print(f"and an interpreter waiting  {statistics.median(waiting) / MIB:8.1f}")
        began = time.perf_counter()
        guests = await asyncio.gather(*(clone(on) for _ in range(count)))
        ready = time.perf_counter() - began
        came = await asyncio.gather(*(first_output(guest, on) for guest in guests))
        print(
            f"\n{count} clones at once: all agents answered after {ready:.1f} s, all hello worlds"
        )
        print(f"after {max(came) - began:.1f} s")
        own = sum(private_bytes(guest.machine.pid) for guest in guests)
        print(f"then unshared: {own / MIB:.0f} MiB in all")
        await asyncio.gather(*(guest.stop() for guest in guests))


async def languages(rounds: int, machine: str) -> None:
    """Each language by both ways in turn, and what a clone that waits has of its own."""
    print(
        "\nmedian seconds to a hello world's first byte: from a clone, from the pool; MiB unshared"
    )
    for name in LANGUAGES:
        clones, pooled, own = [], [], []
        async with ground(name, machine) as on:
            for _ in range(rounds):
                clones.append(await first_byte(on, lambda: clone(on)))
                seconds, memory = await from_pool(on)
                pooled.append(seconds)
                own.append(memory / MIB)
        row = [statistics.median(values) for values in (clones, pooled, own)]
        print(f"{name:<12} {row[0]:8.2f} {row[1]:8.3f} {row[2]:8.0f}", flush=True)


async def warm(rounds: int, machine: str) -> None:
    """Each language's hello world in warm clones and others, in turn: medians of a job."""
    print("\nhello world in a clone: CPU seconds of its QEMU, seconds to the agent's answer,")
    print("MiB unshared at the end; from a snapshot, then warm")
    for name in ("python", "c", "go", "javascript"):
        rows: dict[str, list[tuple[float, ...]]] = {"snapshot": [], "warm": []}
        async with ground(name, machine) as on, ground(name, machine) as other:
            await on.templates.prepare_warm_clones(on.key, on.assets)
            for _ in range(rounds):
                # A cache makes warm clones from its second clone on; this one is closed before.
                other.templates.close_template(other.key)
                for where in (other, on):
                    began = time.perf_counter()
                    guest = await clone(where)
                    answered = time.perf_counter() - began
                    await first_output(guest, where)
                    process = psutil.Process(guest.machine.pid)
                    seconds = sum(process.cpu_times()[:2])
                    own = private_bytes(process.pid) / MIB
                    rows[guest.start_info.start].append((seconds, answered, own))
                    await guest.stop()
        medians = [
            statistics.median(column) for row in rows.values() for column in zip(*row, strict=True)
        ]
        print(f"{name:<12}", *(f"{value:8.3f}" for value in medians), flush=True)


async def compilers(rounds: int, machine: str) -> None:
    """From the launch of a clone to the first byte, beside what the guest's own clock counted."""
    print("\nhello world from a clone: seconds to the first byte, of it in the guest's")
    print("build and run by its own clock, and what is added to that")
    for name in ("rust", "go"):
        rows = []
        async with ground(name, machine) as on:
            for _ in range(rounds):
                rows.append(await measure_compiled(on))
        total = statistics.median(row[0] for row in rows)
        guest = statistics.median(row[1] for row in rows)
        added = statistics.median((all_of_it - its) / its for all_of_it, its in rows)
        print(f"{name:<8} {total:8.2f} {guest:8.2f} {added:8.1%}")


async def measure_compiled(on: BenchSetup) -> tuple[float, float]:
    """Seconds to the first byte, and those of the phases as the guest's agent counted them."""
    arrivals = Arrivals()
    began = time.perf_counter()
    guest = await clone(on)
    try:
        language = on.assets.language
        report = await guest.run(JobRequest(language, HELLO[language.name], on.options), arrivals)
    finally:
        await guest.stop()
    walls = [told.done.usage.wall_us / 1e6 for told in report.phases.values()]
    return arrivals.times[0] - began, sum(walls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clones", type=int, default=40)
    parser.add_argument("--machine", default="auto")
    parsed = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        if parsed.part in {None, "latency"}:
            asyncio.run(latency(parsed.rounds, parsed.machine))
        if parsed.part in {None, "memory"}:
            asyncio.run(memory(parsed.clones, parsed.machine))
        if parsed.part in {None, "compilers"}:
            asyncio.run(compilers(3, parsed.machine))
        if parsed.part in {None, "languages"}:
            asyncio.run(languages(3, parsed.machine))
        if parsed.part in {None, "warm"}:
            asyncio.run(warm(3, "qemu"))


if __name__ == "__main__":
    main()
