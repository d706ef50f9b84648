"""Sessions in process: runs that share files, and all the ends; on machines that are none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._local.session import QUEUE
from slipway._model.events import Output, PhaseStarted, Queued
from slipway._model.input_file import InputFile
from slipway._model.options import MAX_SOURCE
from slipway._run.launcher import DamagedImage
from slipway._util.errors import Busy, HostError, InputError, UnknownOutcome
from slipway._util.units import MIB
from support.clock import Clock
from support.fake_machine import MEMORY, OVERHEAD, FakeLauncher
from support.sessions import MACHINE, nothing_left, text, tidy_runtime, until
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._local.session import LocalSession
    from slipway._model.execution import AsyncExecution
    from slipway._model.options import Options
    from slipway._run.assets import AssetRequest, Assets, Progress
    from slipway._run.guest import Guest


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
async def runtime(launcher: FakeLauncher) -> AsyncIterator[AsyncRuntime]:
    async with tidy_runtime(launcher) as made:
        yield made


@pytest.fixture
async def session(runtime: AsyncRuntime) -> AsyncIterator[LocalSession]:
    async with runtime.session("bash") as opened:
        yield opened


# --- Runs -----------------------------------------------------------------------------------


async def test_files_of_other_sessions_are_not_seen(
    runtime: AsyncRuntime, session: LocalSession
) -> None:
    await session.run("write note mine")

    async with runtime.session("bash") as other:
        result = await other.run("cat note")

    assert not result.ok


async def test_one_machine_takes_all_runs(session: LocalSession, launcher: FakeLauncher) -> None:
    results = [await session.run("print x") for _ in range(3)]

    assert launcher.launched == 1
    assert [result.provenance.start for result in results] == ["cold", "session", "session"]
    assert all(min(t.prepare, t.run) >= 0 for t in (result.timing for result in results))


async def test_a_run_is_as_it_is_elsewhere(session: LocalSession) -> None:
    result = await session.run(
        "arguments\nenv NAME\necho\ncat beside\nwrite made content\nexit 3",
        stdin=b"input\n",
        arguments=("one",),
        environment={"NAME": "value"},
        files=(InputFile("beside", b"beside\n"),),
        outputs=("made", "missing"),
    )

    assert result.stdout.endswith("one\nvalue\ninput\nbeside\n")
    assert (result.code, result.files[0].data, result.files[1].missing != "") == (
        3, b"content", True,
    )  # fmt: skip


async def test_output_is_told_while_it_comes(session: LocalSession) -> None:
    heard = []

    async def hear(phase: str, stream: str, data: bytes) -> None:
        heard.append((phase, stream, data))

    result = await session.run("print x", on_output=hear)

    assert heard == [("run", "stdout", b"x\n")]
    assert result.stdout == ""


async def test_limits_are_those_of_each_run(session: LocalSession) -> None:
    late = await session.run("forever", timeout=0.05)
    long = await session.run("flood 1000", output_limit=10)
    good = await session.run("flood 1000")

    assert (late.verdict, len(long.stdout), len(good.stdout)) == ("timed_out", 10, 1000)


async def test_limit_that_does_not_fit_the_machine_of_the_session_is_refused(
    session: LocalSession,
) -> None:
    with pytest.raises(InputError, match=r"memory_limit is 4096 MiB, .* memory is \d+ MiB"):
        await session.run("print x", memory_limit=4096 * MIB)

    assert (await session.run("print x")).ok


async def test_machine_is_as_the_session_was_asked_for(runtime: AsyncRuntime) -> None:
    async with runtime.session("bash", memory=64 * MIB, cpus=2) as session:
        load = runtime.load
        result = await session.run("print x")

    assert (load.machines, load.memory, load.cpus) == (1, 64 * MIB + OVERHEAD, 2)
    assert (result.provenance.memory, result.provenance.cpus) == (64 * MIB, 2)


async def test_runs_keep_their_order(session: LocalSession) -> None:
    executions = [await session.start(f"read 1\nprint {n}", stdin=None) for n in range(4)]
    positions = [execution.position for execution in executions]
    for execution in reversed(executions):
        await execution.stdin.write(b"\n")

    ended: list[str] = []

    async def wait(execution: AsyncExecution) -> None:
        ended.append((await execution.wait()).stdout.strip())

    await asyncio.gather(*(wait(execution) for execution in executions))

    assert positions == [None, 0, 1, 2]
    assert ended == ["0", "1", "2", "3"]


async def test_more_runs_than_may_wait_are_refused(session: LocalSession) -> None:
    waiting = [await session.start("forever") for _ in range(QUEUE + 1)]

    with pytest.raises(Busy, match="queue is full"):
        await session.start("print x")

    await asyncio.gather(*(execution.cancel() for execution in waiting))
    assert (await session.run("print x")).ok


async def test_build_and_signals_work_as_elsewhere(runtime: AsyncRuntime) -> None:
    async with runtime.session("rust") as session:
        await session.run("build-print b\nwrite kept x")
        execution = await session.start("build-print b\nforever")
        await until(execution, PhaseStarted)
        await until(execution, PhaseStarted)
        await execution.signal(15)

        result = await execution.wait()
        kept = await text(session, "kept")

    assert (result.verdict, kept) == ("signaled", "x")


# --- Cancelling -----------------------------------------------------------------------------


async def test_run_that_is_cancelled_at_its_very_beginning_leaves_the_session(
    session: LocalSession, launcher: FakeLauncher
) -> None:
    for steps in range(12):
        execution = await session.start("forever", files=(InputFile("f", b"x" * MIB),))
        for _ in range(steps):
            await asyncio.sleep(0)
        await execution.cancel()
        assert (await execution.wait()).verdict == "cancelled"

    assert (await session.run("print x")).stdout == "x\n"
    assert launcher.launched == 1


async def test_run_that_is_cancelled_in_the_queue_never_runs(session: LocalSession) -> None:
    first = await session.start("read 1", stdin=None)
    second = await session.start("write note made")

    await second.cancel()
    await first.cancel()

    assert (await second.wait()).verdict == "cancelled"
    assert not (await session.run("cat note")).ok


async def test_caller_that_is_cancelled_cancels_its_run_alone(session: LocalSession) -> None:
    ready = asyncio.Event()

    async def hear(_phase: str, _stream: str, _data: bytes) -> None:
        ready.set()

    task = asyncio.create_task(session.run("write note x\nprint x\nforever", on_output=hear))
    await wait_until(ready.is_set, "the program has written")

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await text(session, "note") == "x"


async def test_run_whose_cancel_is_not_answered_loses_the_session(
    session: LocalSession, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway._local.execution.CANCEL_SECONDS", 0.1)
    monkeypatch.setattr("support.fake_agent.FakeJob.end_program", lambda *_: None)
    execution = await session.start("forever")
    await until(execution, PhaseStarted)

    await execution.cancel()

    assert (await execution.wait()).verdict == "cancelled"
    assert session.state == "lost"
    assert not launcher.machines


# --- Lost machines --------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["die", "lie"])
async def test_machine_that_is_lost_under_a_run_loses_the_session(
    runtime: AsyncRuntime, session: LocalSession, launcher: FakeLauncher, program: str
) -> None:
    first = await session.start(f"print x\nread 1\n{program}", stdin=None)
    queued = [await session.start("print x") for _ in range(2)]
    await first.stdin.write(b"\n")

    with pytest.raises(UnknownOutcome) as error:
        await first.wait()
    for execution in queued:
        with pytest.raises(HostError, match="the session is lost"):
            await execution.wait()
    with pytest.raises(HostError, match="the session is lost") as later:
        await session.run("print x")

    assert error.value.stdout.startswith(b"x\n")
    assert later.value.hint == "Open another."
    assert session.state == "lost"
    nothing_left(runtime, launcher)
    await session.close()
    assert session.state == "ended"


async def test_machine_that_ends_between_runs_is_noticed(
    runtime: AsyncRuntime, session: LocalSession, launcher: FakeLauncher
) -> None:
    await session.run("print x")

    launcher.machines.copy().pop().agent.die()
    await wait_until(lambda: session.state == "lost", "the session is lost")

    with pytest.raises(HostError, match="its machine ended by itself"):
        await session.run("print x")
    with pytest.raises(HostError, match="its machine ended by itself"):
        await session.fork()
    await wait_until(lambda: not runtime.load.machines, "no machine takes a place")


async def test_stdin_that_fails_ends_its_run(session: LocalSession) -> None:
    async def fail_after_a_piece() -> AsyncIterator[bytes]:
        yield b"x"
        raise RuntimeError("it broke")

    with pytest.raises(InputError, match="it broke"):
        await session.run("echo", stdin=fail_after_a_piece())

    assert session.state == "open"
    assert (await session.run("print x")).stdout == "x\n"


# --- Opening --------------------------------------------------------------------------------


async def test_session_opens_when_it_is_told_to(runtime: AsyncRuntime) -> None:
    session = runtime.session("bash")
    before = session.state

    with pytest.raises(InputError, match="the session is not open"):
        await session.run("print x")
    await session.open()
    await session.open()

    assert (before, session.state) == ("opening", "open")
    assert (len(session.id), session.language) == (32, "bash")


async def test_opening_waits_for_room(runtime: AsyncRuntime, launcher: FakeLauncher) -> None:
    runs = [await runtime.start("read 1", "bash", stdin=None) for _ in range(3)]
    session = runtime.session("bash")

    opening = asyncio.create_task(session.open())
    await wait_until(lambda: runtime.load.waiting == 1, "one run waits for a place")
    waited = session.state
    await runs[0].cancel()
    await opening

    assert (waited, session.state, launcher.most) == ("opening", "open", 3)


async def test_session_takes_its_place_from_other_runs(runtime: AsyncRuntime) -> None:
    sessions = [runtime.session("bash") for _ in range(3)]
    for session in sessions:
        await session.open()

    execution = await runtime.start("print x", "bash")
    await until(execution, Queued)
    await sessions[0].close()

    assert (await execution.wait()).stdout == "x\n"


async def test_opening_is_refused_where_too_many_wait(launcher: FakeLauncher) -> None:
    async with AsyncRuntime(images=launcher, launcher=launcher, max_machines=1, queue=0) as runtime:
        async with runtime.session("bash"):
            second = runtime.session("bash")
            with pytest.raises(Busy):
                await second.open()

        with pytest.raises(InputError, match="could not be opened: the queue is full"):
            await second.open()
    nothing_left(runtime, launcher)


async def test_image_is_made_first(launcher: FakeLauncher) -> None:
    launcher.unbuilt = {"bash"}
    async with AsyncRuntime(images=launcher, launcher=launcher) as runtime:
        session = runtime.session("bash")
        opening = asyncio.create_task(session.open())
        await wait_until(lambda: runtime.load.waiting == 1, "one run waits for a place")
        launcher.made.set()

        await opening

        assert (await session.run("print x")).ok
    nothing_left(runtime, launcher)


@pytest.mark.parametrize("when", ["queued", "making", "booting"])
@pytest.mark.parametrize("how", ["cancel", "close", "aclose"])
async def test_opening_that_is_broken_off_leaves_nothing(when: str, how: str) -> None:
    booting = asyncio.Event()

    async def boot() -> None:
        booting.set()
        await asyncio.get_running_loop().create_future()

    launcher = FakeLauncher(boot=boot if when == "booting" else None)
    async with AsyncRuntime(images=launcher, launcher=launcher, max_machines=1) as runtime:
        if when == "queued":
            await (first := runtime.session("bash")).open()
        if when == "making":
            launcher.unbuilt = {"bash"}
        session = runtime.session("bash")
        opening = asyncio.create_task(session.open())
        if when == "booting":
            await wait_until(booting.is_set, "the machine boots")
        else:
            await wait_until(lambda: runtime.load.waiting == 1, "one run waits for a place")

        if how == "cancel":
            opening.cancel()
        else:
            await (session.close() if how == "close" else runtime.aclose())
        (outcome,) = await asyncio.gather(opening, return_exceptions=True)

        assert isinstance(outcome, asyncio.CancelledError if how == "cancel" else InputError)
        assert session.state == "ended"
        if when == "queued":
            await first.close()
        nothing_left(runtime, launcher)
        launcher.made.set()


async def test_machine_that_cannot_be_had_is_told_and_leaves_nothing(
    launcher: FakeLauncher,
) -> None:
    async with AsyncRuntime(images=launcher, launcher=launcher) as runtime:
        session = runtime.session("bash", memory=1)
        with pytest.raises(InputError, match="needs 16 MiB of memory"):
            await session.open()

        assert session.state == "ended"
        nothing_left(runtime, launcher)


async def test_damaged_image_is_made_again() -> None:
    class Damaged(FakeLauncher):
        async def launch(self, assets: Assets, options: Options) -> Guest:
            if not self.repairs:
                raise DamagedImage
            return await super().launch(assets, options)

        def find(
            self, request: AssetRequest, progress: Progress, *, repair: bool = False
        ) -> Assets:
            self.repairs += repair
            return super().find(request, progress, repair=repair)

        repairs = 0

    async with (
        AsyncRuntime(images=(damaged := Damaged()), launcher=damaged) as runtime,
        runtime.session("bash") as session,
    ):
        result = await session.run("print x")

    assert (result.stdout, damaged.repairs) == ("x\n", 1)
    nothing_left(runtime, damaged)


async def test_what_can_never_have_room_is_refused(launcher: FakeLauncher) -> None:
    async with AsyncRuntime(images=launcher, launcher=launcher, memory_budget=MACHINE) as runtime:
        with pytest.raises(InputError, match="memory"):
            await runtime.session("bash", memory=MEMORY + 1).open()
        nothing_left(runtime, launcher)


# --- Bad options ----------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["memory", "cpus", "machine", "kernel", "boot_log"])
async def test_options_of_the_machine_are_no_options_of_a_run(
    session: LocalSession, option: str
) -> None:
    options: dict[str, Any] = {option: 1}

    with pytest.raises(
        InputError, match=f"{option} is an option of the session, not of its runs"
    ) as e:
        await session.start("print x", **options)

    assert e.value.hint == f"Pass {option} to session()."


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 5},
        {"files": ()},
        {"nonsense": 1},
        {"memory": "much"},
        {"memory": True},
        {"memory": 0},
        {"cpus": 1.5},
        {"cpus": 1000},
        {"machine": ["qemu"]},
        {"machine": None},
        {"kernel": 5},
        {"idle_seconds": 0},
        {"idle_seconds": -1},
        {"idle_seconds": float("nan")},
        {"idle_seconds": float("inf")},
        {"idle_seconds": "long"},
        {"idle_seconds": None},
        {"idle_seconds": True},
        {"key": "x" * 1000},
        {"key": None},
    ],
    ids=str,
)
async def test_bad_options_of_a_session_start_nothing(
    runtime: AsyncRuntime, launcher: FakeLauncher, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        runtime.session("bash", **options)

    assert launcher.launched == 0


async def test_unknown_language_starts_nothing(runtime: AsyncRuntime) -> None:
    with pytest.raises(InputError, match="klingon"):
        runtime.session("klingon")


@pytest.mark.parametrize(
    ("source", "options"),
    [
        pytest.param("x" * (MAX_SOURCE + 1), {}, id="long"),
        (None, {}),
        (7, {}),
        ("print x", {"timeout": "long"}),
        ("print x", {"timeout": -1}),
        ("print x", {"arguments": "text"}),
        ("print x", {"files": 5}),
        ("print x", {"outputs": ("../x",)}),
        ("print x", {"environment": {"=": "x"}}),
        ("print x", {"stdin": 7}),
        ("print x", {"nonsense": 1}),
        ("print x", {"keep": True}),
    ],
    ids=str,
)
async def test_bad_runs_leave_the_session_as_it_is(
    session: LocalSession, source: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        await session.start(source, **options)

    assert (await session.run("print x")).stdout == "x\n"


# --- Its end --------------------------------------------------------------------------------


async def test_closing_during_a_run_ends_it(
    runtime: AsyncRuntime, session: LocalSession, launcher: FakeLauncher
) -> None:
    running = await session.start("print x\nforever")
    queued = await session.start("print x")
    await until(running, Output)

    await asyncio.gather(session.close(), session.close())

    assert [(await e.wait()).verdict for e in (running, queued)] == ["cancelled", "cancelled"]
    nothing_left(runtime, launcher)
    with pytest.raises(InputError, match="the session has been closed"):
        await session.run("print x")
    with pytest.raises(InputError, match="the session has been closed"):
        await session.open()
    with pytest.raises(InputError, match="the session has been closed"):
        await session.fork()


async def test_session_that_was_never_opened_can_be_closed(runtime: AsyncRuntime) -> None:
    session = runtime.session("bash")

    await session.close()

    assert session.state == "ended"
    with pytest.raises(InputError, match="has been closed"):
        await session.open()


async def test_closing_that_is_cancelled_closes_all_the_same(
    runtime: AsyncRuntime, session: LocalSession, launcher: FakeLauncher
) -> None:
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0)

    closing.cancel()
    await asyncio.wait([closing])

    assert closing.cancelled()
    nothing_left(runtime, launcher)


async def test_run_that_lasts_is_no_idleness(runtime: AsyncRuntime) -> None:
    clock = Clock()
    async with runtime.session("bash", idle_seconds=60) as session:
        execution = await session.start("read 1\nprint x", stdin=None, timeout=600)
        await until(execution, PhaseStarted)

        clock.advance(120)
        await execution.stdin.write(b"\n")
        result = await execution.wait()

    assert result.stdout == "\nx\n"


async def test_runtime_that_is_closed_closes_its_sessions(
    runtime: AsyncRuntime, launcher: FakeLauncher
) -> None:
    sessions = [runtime.session("bash") for _ in range(3)]
    for session in sessions:
        await session.open()
    execution = await sessions[0].start("forever")
    await until(execution, PhaseStarted)

    await runtime.aclose()

    assert {session.state for session in sessions} == {"ended"}
    assert (await execution.wait()).verdict == "cancelled"
    nothing_left(runtime, launcher)
    with pytest.raises(Busy, match="the runtime has been closed"):
        await sessions[0].run("print x")
    with pytest.raises(Busy, match="the runtime has been closed"):
        await runtime.session("bash").open()


async def test_draining_waits_for_the_runs_of_sessions(
    runtime: AsyncRuntime, launcher: FakeLauncher
) -> None:
    idle, busy = runtime.session("bash"), runtime.session("bash")
    await idle.open()
    await busy.open()
    execution = await busy.start("read 1\nprint done", stdin=None)
    await until(execution, PhaseStarted)

    draining = asyncio.create_task(runtime.drain(60))
    await wait_until(lambda: idle.state == "ended", "the idle session has ended")
    with pytest.raises(Busy):
        await busy.run("print x")
    await execution.stdin.write(b"\n")
    await draining

    assert (await execution.wait()).stdout == "\ndone\n"
    nothing_left(runtime, launcher)


async def test_draining_does_not_wait_for_ever(runtime: AsyncRuntime) -> None:
    session = runtime.session("bash")
    await session.open()
    execution = await session.start("forever")
    await until(execution, PhaseStarted)

    await runtime.drain(0.05)

    assert (await execution.wait()).verdict == "cancelled"
