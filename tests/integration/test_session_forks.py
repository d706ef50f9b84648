"""Forks of sessions, on machines that are none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._model.events import Output, PhaseStarted
from slipway._util.errors import HostError, InputError
from support.clock import Clock, JumpingClock
from support.fake_machine import MEMORY, FakeLauncher, FakeTemplate
from support.sessions import MACHINE, nothing_left, text, tidy_runtime, until
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._local.session import LocalSession


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


async def test_fork_begins_as_its_original_is_and_both_go_on_apart(
    session: LocalSession, launcher: FakeLauncher
) -> None:
    await session.run("write note before")

    async with await session.fork() as fork:
        first = await fork.run("cat note\nwrite note fork")
        await session.run("write note original")
        seen = await text(session, "note"), await text(fork, "note")

    assert first.stdout == "before"
    assert seen == ("original", "fork")
    assert (first.provenance.start, fork.language, fork.id != session.id) == (
        "session", "bash", True,
    )  # fmt: skip
    assert (launcher.launched, session.state, fork.state) == (1, "open", "ended")


async def test_fork_is_told_that_it_is_a_clone_and_the_original_what_time_it_is(
    session: LocalSession, launcher: FakeLauncher
) -> None:
    (original,) = launcher.machines
    before = list(original.agent.hellos)

    async with await session.fork():
        (clone,) = launcher.machines - {original}
        told = original.agent.hellos, clone.agent.hellos

    # More often where that took so long that the time was not right any more.
    assert [told[0][: len(before) + 1], told[1][:2]] == [[*before, False], [True, False]]
    assert not any(told[0] + told[1][1:])
    assert not original.stands_still


async def test_fork_of_a_fork_outlives_both(runtime: AsyncRuntime, session: LocalSession) -> None:
    await session.run("write note one")
    child = await session.fork()
    await child.run("write more two")
    grandchild = await child.fork()

    await session.close()
    await child.close()
    seen = await text(grandchild, "note"), await text(grandchild, "more")
    load = runtime.load
    await grandchild.close()

    assert seen == ("one", "two")
    assert load.machines == 1


async def test_fork_waits_for_the_run_that_is_going(session: LocalSession) -> None:
    execution = await session.start("write note x\nprint ready\nread 1\nwrite more y", stdin=None)
    await until(execution, Output)

    forking = asyncio.create_task(session.fork())
    for _ in range(20):
        await asyncio.sleep(0)
    waiting = not forking.done()
    await execution.stdin.write(b"\n")

    async with await forking as fork:
        assert waiting
        assert await text(fork, "more") == "y"


async def test_fork_has_a_place_of_its_own_with_room_for_its_memory_twice(
    runtime: AsyncRuntime, session: LocalSession
) -> None:
    async with await session.fork():
        load = runtime.load

    assert (load.machines, load.cpus, load.memory) == (2, 2, 2 * MACHINE + MEMORY)


async def test_fork_waits_for_room(runtime: AsyncRuntime, session: LocalSession) -> None:
    others = [await runtime.start("forever", "bash") for _ in range(2)]

    forking = asyncio.create_task(session.fork())
    await wait_until(lambda: runtime.load.waiting == 1, "one run waits for a place")
    meanwhile = await session.run("write note x")
    await others[0].cancel()

    async with await forking as fork:
        assert meanwhile.ok
        assert await text(fork, "note") == "x"


@pytest.mark.parametrize(
    "bounds",
    [{"max_machines": 1}, {"cpus": 1}, {"memory_budget": 2 * MACHINE + MEMORY - 1}],
    ids=str,
)
async def test_fork_that_can_never_have_room_is_refused(
    launcher: FakeLauncher, bounds: dict[str, Any]
) -> None:
    async with AsyncRuntime(images=launcher, launcher=launcher, **bounds) as runtime:
        session = runtime.session("bash")
        await session.open()

        with pytest.raises(InputError, match="never room"):
            await session.fork()

        assert (await session.run("print x")).ok


@pytest.mark.parametrize("at", ["snapshotting", "cloning"])
async def test_fork_that_fails_leaves_the_original(
    runtime: AsyncRuntime, session: LocalSession, launcher: FakeLauncher, at: str
) -> None:
    async def fail() -> None:
        raise HostError("no room on the disk")

    await session.run("write note x")
    setattr(launcher, at, fail)

    with pytest.raises(HostError, match="no room on the disk"):
        await session.fork()

    assert (session.state, await text(session, "note")) == ("open", "x")
    assert runtime.load.machines == len(launcher.machines) == 1
    setattr(launcher, at, None)
    async with await session.fork() as fork:
        assert await text(fork, "note") == "x"


async def test_original_that_ends_under_its_fork_is_lost(
    runtime: AsyncRuntime, session: LocalSession, launcher: FakeLauncher
) -> None:
    async def die() -> None:
        launcher.machines.copy().pop().agent.die()

    launcher.snapshotting = die

    with pytest.raises(HostError):
        await session.fork()

    assert session.state == "lost"
    await wait_until(lambda: not launcher.machines, "no machine is left")
    nothing_left(runtime, launcher)


@pytest.mark.parametrize("at", ["snapshotting", "cloning"])
async def test_fork_that_is_cancelled_leaves_the_original_and_nothing_else(
    runtime: AsyncRuntime, session: LocalSession, launcher: FakeLauncher, at: str
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await wait_until(go_on.is_set, "the test lets the fork go on")

    await session.run("write note x")
    setattr(launcher, at, wait)
    forking = asyncio.create_task(session.fork())
    await wait_until(reached.is_set, f"the fork is {at}")

    clock = JumpingClock()
    forking.cancel()
    await clock.idle()
    broken_off = forking.done()
    go_on.set()
    await asyncio.wait([forking])

    assert forking.cancelled()
    assert not broken_off  # which could have cost the original
    assert await text(session, "note") == "x"
    assert runtime.load.machines == len(launcher.machines) == 1


@pytest.mark.parametrize("at", ["snapshotting", "cloning"])
async def test_fork_that_does_not_come_to_its_end_is_broken_off(
    runtime: AsyncRuntime,
    session: LocalSession,
    launcher: FakeLauncher,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = asyncio.Event()

    async def wait() -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr("slipway._local.session_fork.FORK_SECONDS", 0.05)
    setattr(launcher, at, wait)
    forking = asyncio.create_task(session.fork())
    await wait_until(reached.is_set, f"the fork is {at}")

    forking.cancel()
    await asyncio.wait([forking])

    assert forking.cancelled()
    assert (await session.run("print x")).ok
    assert runtime.load.machines == len(launcher.machines) == 1


@pytest.mark.parametrize("at", ["snapshotting", "cloning", "queued", "waiting"])
@pytest.mark.parametrize("how", ["close", "aclose"])
async def test_closing_during_a_fork_leaves_nothing(
    runtime: AsyncRuntime, session: LocalSession, launcher: FakeLauncher, at: str, how: str
) -> None:
    reached = asyncio.Event()

    async def wait() -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    others = []
    if at == "queued":
        others = [await runtime.start("forever", "bash") for _ in range(2)]
    elif at == "waiting":
        await until(await session.start("forever"), PhaseStarted)
    else:
        setattr(launcher, at, wait)
    forking = asyncio.create_task(session.fork())
    if at in {"snapshotting", "cloning"}:
        await wait_until(reached.is_set, f"the fork is {at}")
    else:
        await wait_until(
            lambda: runtime.load.machines + runtime.load.waiting == 2 + len(others),
            "all others wait for a place",
        )

    await (session.close() if how == "close" else runtime.aclose())
    (outcome,) = await asyncio.gather(forking, return_exceptions=True)
    await asyncio.gather(*(other.cancel() for other in others))

    assert isinstance(outcome, InputError)
    assert "has been closed" in outcome.message
    nothing_left(runtime, launcher)


async def test_closing_when_the_clone_of_a_fork_is_there_already_leaves_nothing(
    runtime: AsyncRuntime,
    session: LocalSession,
    launcher: FakeLauncher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached, close = asyncio.Event(), FakeTemplate.close

    async def close_slowly(template: FakeTemplate) -> None:
        reached.set()
        await asyncio.sleep(0.1)
        await close(template)

    monkeypatch.setattr(FakeTemplate, "close", close_slowly)
    forking = asyncio.create_task(session.fork())
    await wait_until(reached.is_set, "the template is being closed")

    await session.close()
    (outcome,) = await asyncio.gather(forking, return_exceptions=True)

    assert isinstance(outcome, InputError)
    nothing_left(runtime, launcher)


async def test_session_is_not_idle_while_it_is_forked(
    runtime: AsyncRuntime, launcher: FakeLauncher
) -> None:
    clock = Clock()

    async def wait() -> None:
        clock.advance(30)
        await asyncio.sleep(0)  # what is due by then is run before the fork goes on
        await asyncio.sleep(0)

    launcher.cloning = wait
    async with (
        runtime.session("bash", idle_seconds=20) as session,
        await session.fork() as fork,
    ):
        both = await asyncio.gather(session.run("print x"), fork.run("print x"))

    assert [result.stdout for result in both] == ["x\n", "x\n"]
