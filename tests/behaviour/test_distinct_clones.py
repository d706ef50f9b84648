"""Clones of one template: each has its own randomness, names, addresses, and the right time.

An emulated clone of Python takes half a second, of two processors. So every run of the tests has a
few, and ``SLIPWAY_TEST_CLONES=100`` has as many as are promised.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity
from slipway._model.options import Options
from slipway._run.agent_connection import AgentConnection
from slipway._run.find_assets import find_assets
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._snapshots.create import create_snapshot
from slipway._snapshots.templates import TemplateCache
from slipway._util.units import MIB
from slipway_initramfs.store.image_store import ImageStore
from slipway_protocol.messages import Stream
from support.listening import run_with
from support.programs import patient
from support.writable_stores import writable_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from slipway._run.guest import Guest
    from slipway_protocol.messages import Phase, Ready

CLONES = int(os.environ.get("SLIPWAY_TEST_CLONES", "8"))
AT_ONCE = 2
EXCHANGES = 3
# Seconds that the clock of a clone may be off. What its last greeting and the question for the time
# took comes to that: on a loaded host anything, but not for most of the clones.
CLOCK = 0.010

TELL = dedent("""
    import ctypes, json, mmap, os, random, socket, subprocess, sys, time, uuid

    def read(path):
        return open(path).read().strip()

    def addresses(maps):
        found = {}
        for line in maps.splitlines():
            area, *_, name = line.split(None, 5)
            found.setdefault(os.path.basename(name), area.partition("-")[0])
        return {name: found[name] for name in ("[stack]", "[vdso]", "libc.so.6")}

    def read_processor():
        # rdrand rax; ret. A processor without the instruction has none that could repeat.
        if "rdrand" not in read("/proc/cpuinfo"):
            return os.urandom(8).hex()
        code = mmap.mmap(-1, 4096, prot=7)
        code.write(bytes.fromhex("480fc7f0c3"))
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        return ctypes.CFUNCTYPE(ctypes.c_uint64)(address)()

    own = addresses(read("/proc/self/maps"))
    other = addresses(subprocess.run(["cat", "/proc/self/maps"], stdout=-1, text=True).stdout)
    print(json.dumps({
        "urandom": os.urandom(16).hex(),
        "getrandom": os.getrandom(16).hex(),
        "kernel uuid": read("/proc/sys/kernel/random/uuid"),
        "boot id": read("/proc/sys/kernel/random/boot_id"),
        "host name": socket.gethostname(),
        "processor": read_processor(),
        "uuid4": str(uuid.uuid4()),
        "hash": hash("x"),
        "random": random.random(),
        "stack": own["[stack]"],
        "libc": own["libc.so.6"],
        "vdso": own["[vdso]"],
        "id": id(own),
        "stack of another": other["[stack]"],
        "libc of another": other["libc.so.6"],
    }), flush=True)
    for line in sys.stdin:
        print(time.time(), flush=True)
    """)


# The qemu machine lays all programs out alike: docs/decisions/qemu-options.md.
SAME_ADDRESSES = {"id", "libc", "vdso", "libc of another", "stack", "stack of another"}


@dataclass(frozen=True, slots=True)
class Told:
    """What a clone said of itself.

    ``clock_error``: by how much its clock was wrong at the most; ``greeting``: what the last one
    took. Both in seconds.
    """

    values: dict[str, Any]
    clock_error: float
    greeting: float


@pytest.fixture
def greetings(monkeypatch: pytest.MonkeyPatch) -> dict[AgentConnection, float]:
    """How long the last greeting of each session took, in seconds."""
    seconds: dict[AgentConnection, float] = {}
    resync = AgentConnection.resync

    async def measure_resync(self: AgentConnection) -> Ready:
        began = time.monotonic()
        ready = await resync(self)
        seconds[self] = time.monotonic() - began
        return ready

    monkeypatch.setattr(AgentConnection, "resync", measure_resync)
    return seconds


async def interview(guest: Guest, greetings: dict[AgentConnection, float]) -> Told:
    """Have a program tell what it sees, and then the time, whenever it is asked."""
    lines: asyncio.Queue[tuple[float, str]] = asyncio.Queue()
    told: list[str] = []
    errors: list[float] = []
    said = bytearray()

    async def sink(_phase: Phase, stream: Stream, data: bytes) -> None:
        received = time.time()
        assert stream is Stream.STDOUT, data
        said.extend(data)
        while b"\n" in said:
            line, _, rest = bytes(said).partition(b"\n")
            said[:] = rest
            lines.put_nowait((received, line.decode()))

    async def questions() -> AsyncIterator[bytes]:
        told.append((await lines.get())[1])
        for _ in range(EXCHANGES):
            asked = time.time()
            yield b"\n"
            received, answer = await lines.get()
            guests = float(answer)
            errors.append(max(asked - guests, guests - received, 0.0))

    options = Options(**patient((), (), {}))
    job = JobRequest(find_language("python"), TELL.encode(), options, questions())
    report = await run_with(guest, job, sink)
    assert report.succeeded
    return Told(json.loads(told[0]), max(errors), greetings[guest._connection])


@pytest.mark.timeout(360 + 5 * CLONES)
@pytest.mark.parametrize("start", ["snapshot", "warm"])
async def test_clones_differ_in_all_that_is_random_and_have_the_time(
    machine: str,
    start: str,
    tmp_path: Path,
    progress: Callable[[str], None],
    greetings: dict[AgentConnection, float],
) -> None:
    store, options = (
        ImageStore(writable_store("python", tmp_path / "store")),
        Options(machine=machine),
    )
    assets = await asyncio.to_thread(find_assets, find_language("python"), options, store, progress)
    templates = TemplateCache(store, Admission(Capacity(AT_ONCE, 4096 * MIB, AT_ONCE, 0)))
    key = templates.key_of(assets, options)
    if not templates.has(key):
        await create_snapshot(assets, options, store, progress)
    if start == "warm":
        if machine != "qemu":
            pytest.skip("only processes of QEMU are forked")
        await templates.prepare_warm_clones(key, assets)
    numbers = iter(range(CLONES))
    told: list[Told] = []
    starts: set[str] = set()

    async def interview_some() -> None:
        for number in numbers:
            guest = await templates.clone(key, assets, options)
            starts.add(guest.start_info.start)
            try:
                # Every second one has its interpreter started ahead, as those of a pool have.
                if number % 2:
                    await guest.prestart(assets.language)
                told.append(await interview(guest, greetings))
            finally:
                await guest.stop()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(interview_some())
    finally:
        await templates.close()

    assert len(told) == CLONES
    assert start in starts
    assert starts == {"warm"} or start == "snapshot"
    different = {name: len({each.values[name] for each in told}) for name in told[0].values}
    same = SAME_ADDRESSES if machine == "qemu" else set()
    assert different == {name: 1 if name in same else CLONES for name in told[0].values}
    errors = sorted(each.clock_error for each in told)
    middle, worst = errors[CLONES // 2], errors[-1]
    progress(f"clocks of {CLONES} clones: off by {1e3 * middle:.1f} ms, at most {1e3 * worst:.1f}")
    assert middle <= CLOCK
    assert [each for each in told if each.clock_error > CLOCK + each.greeting] == []
