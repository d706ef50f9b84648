"""Run after run through the pool: none finds a trace of another, and nothing is left of any.

Emulated, a run takes half a second. So every run of the tests has a few, and ``make many-runs`` has
1000: SLIPWAY_TEST_RUNS.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway._util.units import MIB
from slipway_initramfs.store.image_store import ImageStore
from support.programs import PATIENCE
from support.stores import copy_store
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._model.result import Result

pytestmark = pytest.mark.alone

RUNS = int(os.environ.get("SLIPWAY_TEST_RUNS", "5"))
# Of so many runs, one is of Python.
PYTHON_EACH = 10
# Runs before the first look at what this process has: what is allocated once is there then.
FIRST_RUNS = 6
AT_ONCE = 3
# Bytes that this process may have more after all runs than after the first: a leak of one page a
# run is not told from the allocator's fragments, one of a run's output or of its machine is.
MORE_MEMORY = 24 * MIB + RUNS * 4096

# What a program sees that others could have left, then a letter to the next in all of it.
# Bash looks without other programs, each of which takes an emulated machine a tenth of a second.
BASH = dedent("""
    shopt -s globstar dotglob nullglob
    printf '%s\\n' {/work,/tmp,/var/tmp,/dev/shm,/run,/home,/dev/mqueue}/**
    printf '%s\\n' /sys/fs/cgroup/**/
    export -p
    for process in /proc/[0-9]*; do
        [ -O $process ] && mapfile -d '' words < $process/cmdline && echo "${words[@]}"
    done
    for table in sysvipc/{shm,sem,msg} net/{tcp,tcp6,udp,udp6,unix}; do
        mapfile lines < /proc/$table; echo $table ${#lines[@]}
    done
    umask; ulimit -a; alias; jobs
    mkdir {/tmp,/var/tmp,/dev/shm,.}/letters
    for place in /tmp /var/tmp /dev/shm .; do echo letter > $place/letters/letter; done
    ipcmk -M 4096 -S 1 -Q > /dev/null
    export LETTER=letter; umask 077
    (trap '' TERM HUP INT; exec -a letter setsid sleep 1000) > /dev/null 2>&1 &
    echo left
    """)
PYTHON = dedent("""
    import ctypes, os, socket, time
    libc = ctypes.CDLL(None)
    for place in ("/work", "/tmp", "/var/tmp", "/dev/shm", "/run", "/home", "/dev/mqueue"):
        for top, directories, files in sorted(os.walk(place)):
            print(top, sorted(directories), sorted(files))
    print(sorted(os.environ.items()))
    print(sum(os.stat(f"/proc/{name}").st_uid == os.getuid()
              for name in os.listdir("/proc") if name.isdigit()))
    for table in ("shm", "sem", "msg"):
        print(open(f"/proc/sysvipc/{table}").read())
    print(sorted(top for top, *_ in os.walk("/sys/fs/cgroup")))
    for table in ("tcp", "tcp6", "udp", "udp6", "unix"):
        print(table, len(open(f"/proc/net/{table}").readlines()))
    for place in ("/tmp", "/var/tmp", "/dev/shm", "."):
        os.makedirs(f"{place}/letters/deep")
    libc.shmget(4711, 4096, 0o1666), libc.semget(4711, 1, 0o1666), libc.msgget(4711, 0o1666)
    libc.mq_open(b"/letter", os.O_RDWR | os.O_CREAT, 0o666, None)
    listener = socket.create_server(("127.0.0.1", 4711))
    named = socket.socket(socket.AF_UNIX)
    named.bind("\\0letter")
    print("left", flush=True)
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            for number in (0, 1, 2):
                os.close(number)
            time.sleep(1000)
    """)
PROGRAMS = {"bash": BASH, "python": PYTHON}


@dataclass(frozen=True, slots=True)
class Held:
    """What this process has, and has left."""

    children: int
    files: Counter[str]
    resident: int
    stored: frozenset[str]
    temporary: frozenset[str]

    @classmethod
    def now(cls, store: Path, temporary: Path) -> Held:
        gc.collect()
        links = []
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                links.append(str(descriptor.readlink()).partition(":")[0])
            except FileNotFoundError:  # that of the listing
                continue
        process = psutil.Process()
        return cls(
            len(process.children(recursive=True)),
            Counter(links),
            process.memory_info().rss,
            frozenset(str(path) for path in store.rglob("*")),
            frozenset(str(path) for path in temporary.rglob("*")),
        )


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything temporary goes."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return path


@pytest.fixture
def store(tmp_path: Path, progress: Callable[[str], None]) -> Path:
    """A store that nobody else changes."""
    for name in PROGRAMS:
        assets = find_assets(find_language(name), Options(), ImageStore(), progress)
        copy_store(assets, tmp_path / "store")
    return tmp_path / "store"


async def run(runtime: AsyncRuntime, language: str) -> Result:
    result = await runtime.run(PROGRAMS[language], language, **PATIENCE)  # type: ignore[arg-type]
    assert result.verdict == "ok", (result.verdict, result.stderr)
    assert result.stderr == ""
    return result


async def run_all(
    runtime: AsyncRuntime, count: int, expected: dict[str, str], starts: Counter[str]
) -> None:
    """So many runs, some at once; each finds what the first of its language in its machine did."""
    numbers = iter(range(1, count + 1))

    async def run_some() -> None:
        for number in numbers:
            language = "bash" if number % PYTHON_EACH else "python"
            result = await run(runtime, language)
            assert result.stdout == expected[language]
            starts[result.provenance.start] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(run_some())


@pytest.mark.timeout(300 + 3 * RUNS)
async def test_runs_of_the_pool_find_nothing_and_leave_nothing(
    machine: str, store: Path, temporary: Path, progress: Callable[[str], None]
) -> None:
    async with AsyncRuntime(store=store, machine=machine, cold=True) as runtime:
        expected = {language: (await run(runtime, language)).stdout for language in PROGRAMS}
    held: list[Held] = []
    starts: Counter[str] = Counter()

    for count in (FIRST_RUNS, RUNS):
        starts.clear()
        pooled = AsyncRuntime(store=store, machine=machine, pool=2, warm=list(PROGRAMS))
        async with pooled as runtime:
            await wait_until(
                lambda: runtime.idle == 2 * len(PROGRAMS), "two clones of each language wait"
            )
            await run_all(runtime, count, expected, starts)
        load = pooled.load
        assert (load.machines, load.waiting, load.memory, load.cpus) == (0, 0, 0, 0)
        assert pooled._admission.reserved == 0
        await wait_until(lambda: len(asyncio.all_tasks()) == 1, "no task is left but the test")
        held.append(Held.now(store, temporary))

    before, after = held
    more = after.resident - before.resident
    progress(
        f"{RUNS} runs, started as {dict(starts)}: {sum(after.files.values())} open files, as many"
        f" as before; resident {after.resident // MIB} MiB, {more / MIB:+.1f}"
    )
    assert all("main." in seen and "letter" not in seen for seen in expected.values())
    assert starts["cold"] == 0
    assert starts["pool"] > 0
    assert after.children == before.children == 0
    assert after.files == before.files
    assert not after.files["/memfd"]
    assert (after.stored, after.temporary) == (before.stored, frozenset())
    assert more <= MORE_MEMORY
