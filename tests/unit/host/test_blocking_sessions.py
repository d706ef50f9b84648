"""Blocking sessions, on fake machines."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from slipway import HostError, InputError, Output, Runtime, UnknownOutcome
from support.fake_machine import FakeLauncher
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def runtime(launcher: FakeLauncher) -> Iterator[Runtime]:
    with Runtime(
        images=launcher, launcher=launcher, max_machines=3, cpus=16, memory_budget=2**32
    ) as runtime:
        yield runtime
    assert not launcher.machines


@contextmanager
def handling_interrupts(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_files_stay_and_a_fork_sees_them(runtime: Runtime) -> None:
    with runtime.session("bash") as session:
        session.run("write note x")
        with session.fork() as fork:
            fork.run("write note y")
            seen = session.run("cat note").stdout, fork.run("cat note").stdout
        states = session.state, fork.state

    assert seen == ("x", "y")
    assert states == ("open", "ended")
    assert (session.state, session.language, len(session.id)) == ("ended", "bash", 32)
    assert runtime.load.machines == 0


def test_output_is_told_in_the_thread_of_the_caller(runtime: Runtime) -> None:
    heard = []

    def on_output(phase: str, stream: str, data: bytes) -> None:
        heard.append((threading.current_thread(), phase, stream, data))

    with runtime.session("bash") as session:
        session.run("print x", on_output=on_output)

    assert heard == [(threading.current_thread(), "run", "stdout", b"x\n")]


def test_handle_of_a_run_takes_stdin_and_cancels(runtime: Runtime) -> None:
    with runtime.session("bash") as session:
        with session.start("read 1\nforever", stdin=None) as execution:
            execution.stdin.write(b"a")
            output = next(event for event in execution if isinstance(event, Output))
        pieces = session.run("echo", stdin=iter([b"b", b"c"]))

    assert output.data == b"a"
    assert execution.wait().verdict == "cancelled"
    assert pieces.stdout == "bc"


def test_failures_are_raised_to_the_caller(runtime: Runtime) -> None:
    with runtime.session("bash") as session:
        with pytest.raises(InputError, match="memory is an option of the session, not of its runs"):
            session.run("print x", memory=5)
        with pytest.raises(UnknownOutcome):
            session.run("die")
        with pytest.raises(HostError, match="the session is lost"):
            session.run("print x")
        with pytest.raises(HostError, match="the session is lost"):
            session.fork()

    with pytest.raises(HostError, match="the session is lost"):
        session.open()
    session.close()


def test_runs_of_several_threads_come_one_after_the_other(
    runtime: Runtime, launcher: FakeLauncher
) -> None:
    with runtime.session("bash") as session, ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda n: session.run(f"print {n}"), range(8)))

    assert [result.stdout for result in results] == [f"{n}\n" for n in range(8)]
    assert launcher.launched == 1


def test_closed_runtime_has_closed_its_sessions(launcher: FakeLauncher) -> None:
    runtime = Runtime(images=launcher, launcher=launcher)
    session = runtime.session("bash")
    session.open()

    runtime.close()

    assert session.state == "ended"
    assert not launcher.machines
    with pytest.raises(InputError, match="has been closed"):
        session.run("print x")
    session.close()


def test_session_keeps_its_runtime_and_a_forgotten_one_is_closed(launcher: FakeLauncher) -> None:
    runtime = Runtime(images=launcher, launcher=launcher)
    session = runtime.session("bash")
    session.open()
    gone = weakref.ref(runtime)

    del runtime
    gc.collect()
    kept = gone() is not None
    result = session.run("print x")
    threads = [thread for thread in threading.enumerate() if thread.name == "slipway"]
    del session
    gc.collect()
    for thread in threads:
        thread.join(60)

    assert kept
    assert result.stdout == "x\n"
    assert gone() is None
    assert not launcher.machines


def test_interrupt_while_it_opens_leaves_nothing(runtime: Runtime, launcher: FakeLauncher) -> None:
    async def boot() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        await asyncio.get_running_loop().create_future()

    launcher.boot = boot
    session = runtime.session("bash")

    with pytest.raises(KeyboardInterrupt):
        session.open()

    assert session.state == "ended"
    assert runtime.load.machines == 0


def test_interrupt_while_it_is_forked_leaves_the_original(
    runtime: Runtime, launcher: FakeLauncher
) -> None:
    interrupted = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    async def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        await wait_until(interrupted.is_set, "the thread that forks is interrupted")

    with handling_interrupts(note), runtime.session("bash") as session:
        launcher.cloning = interrupt
        with pytest.raises(KeyboardInterrupt):
            session.fork()

        assert session.run("print x").stdout == "x\n"
        assert runtime.load.machines == 1
