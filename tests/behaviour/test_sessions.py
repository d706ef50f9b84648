"""Sessions in real machines: files that stay, forks, limits, ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway import AsyncRuntime, Output, UnknownOutcome
from slipway._local.session_state import Open
from slipway._model.input_file import InputFile
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway_initramfs.store.image_store import ImageStore

# Seconds, for a loaded host that emulates.
PATIENCE = 120.0

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from slipway._model.execution import AsyncExecution


def children() -> set[int]:
    """The processes of this one."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
async def runtime(machine: str, progress: Callable[[str], None]) -> AsyncIterator[AsyncRuntime]:
    find_assets(find_language("bash"), Options(), ImageStore(), progress)
    processes, files = children(), open_files()
    async with AsyncRuntime(machine=machine, cold=True, cpus=8, memory_budget=8 << 30) as made:
        yield made
    assert children() == processes
    assert open_files() <= files
    assert (made.load.machines, made.load.memory) == (0, 0)


async def until(execution: AsyncExecution, text: bytes) -> None:
    """Take events until the program has written ``text``."""
    seen = b""
    async for event in execution:
        if isinstance(event, Output):
            seen += event.data
        if text in seen:
            return
    raise AssertionError(f"no {text!r} came, but {seen!r}")


async def test_files_stay_and_nothing_else_does(runtime: AsyncRuntime) -> None:
    async with runtime.session("bash") as session:
        await session.run(
            "echo kept >here; echo kept >/tmp/there; mkdir d; (sleep 1000 &) ; export NAME=x",
            timeout=PATIENCE,
        )
        result = await session.run(
            "cat here /tmp/there; ls -d d; echo [$NAME] $1; pgrep sleep; exit 3",
            timeout=PATIENCE,
            arguments=("argument",),
            outputs=("here",),
        )

    assert result.stdout == "kept\nkept\nd\n[] argument\n"
    assert (result.code, result.files[0].data) == (3, b"kept\n")
    assert result.provenance.start == "session"


async def test_each_run_compiles_the_sources_that_it_brings(runtime: AsyncRuntime) -> None:
    # A file and a directory of the first one are in the second one's way, if that looks for them.
    given = (InputFile("f.c", b"int f(void) { return 3; }"), InputFile("main/data", b""))
    async with runtime.session("c") as session:
        codes = [
            (await session.run(source, files=files, timeout=PATIENCE, build_timeout=PATIENCE)).code
            for source, files in (
                ("int f(void); int main(void) { return f(); }", given),
                ("int f(void) { return 4; } int main(void) { return f(); }", ()),
            )
        ]

    assert codes == [3, 4]


async def test_limits_are_those_of_each_run_and_a_cancelled_one_leaves_the_session(
    runtime: AsyncRuntime,
) -> None:
    async with runtime.session("bash") as session:
        late = await session.run("while :; do :; done", timeout=0.5)
        execution = await session.start("echo x >note; echo ready; sleep 1000", timeout=PATIENCE)
        await until(execution, b"ready")
        await execution.cancel()
        cancelled = await execution.wait()
        after = await session.run("cat note", timeout=PATIENCE)

    assert [late.verdict, cancelled.verdict, after.verdict] == ["timed_out", "cancelled", "ok"]
    assert after.stdout == "x\n"


async def test_fork_sees_the_files_and_both_go_on_apart(runtime: AsyncRuntime) -> None:
    random = "cat /proc/sys/kernel/random/boot_id; head -c 8 /dev/urandom | od -An -tx1"
    async with runtime.session("bash") as session:
        await session.run("echo before >note", timeout=PATIENCE)

        async with await session.fork() as fork:
            seen = await fork.run("cat note; echo fork >note", timeout=PATIENCE)
            await session.run("echo original >note", timeout=PATIENCE)
            both = await asyncio.gather(
                session.run(f"cat note; {random}", timeout=PATIENCE),
                fork.run(f"cat note; {random}", timeout=PATIENCE),
            )
            async with await fork.fork() as grandchild:
                last = await grandchild.run("cat note", timeout=PATIENCE)

    lines = [result.stdout.splitlines() for result in both]
    assert seen.stdout == "before\n"
    assert [told[0] for told in lines] == ["original", "fork"]
    assert all(mine != its for mine, its in zip(*lines, strict=True))
    assert last.stdout == "fork\n"


async def test_killed_machine_loses_its_session_alone(runtime: AsyncRuntime) -> None:
    async with runtime.session("bash") as session:
        fork = await session.fork()
        execution = await session.start("echo ready; sleep 1000", timeout=PATIENCE)
        await until(execution, b"ready")
        assert isinstance(session._state, Open)
        psutil.Process(session._state.guest.machine.pid).kill()

        with pytest.raises(UnknownOutcome):
            await execution.wait()
        other = await fork.run("echo $((1 + 1))", timeout=PATIENCE)
        await fork.close()

    assert (session.state, other.stdout) == ("ended", "2\n")
