"""Blocking runtimes and handles, on fake machines."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import slipway
from slipway import Ended, Output, PhaseEnded, PhaseStarted, Runtime, Started
from support.fake_machine import FakeLauncher
from support.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[2]


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def runtime(launcher: FakeLauncher) -> Iterator[Runtime]:
    before = set(threading.enumerate())
    with Runtime(images=launcher, launcher=launcher) as runtime:
        yield runtime
    assert not launcher.machines
    assert [t for t in set(threading.enumerate()) - before if t.name == "slipway"] == []


def test_run_gives_the_result(runtime: Runtime) -> None:
    result = runtime.run("arguments\nexit 3", "bash", arguments=("a",))

    assert (result.verdict, result.code) == ("failed", 3)
    assert result.stdout.splitlines()[-1] == "a"


def test_output_is_told_in_the_thread_of_the_caller(runtime: Runtime) -> None:
    heard = []

    def on_output(phase: str, stream: str, data: bytes) -> None:
        heard.append((threading.current_thread(), phase, stream, data))

    result = runtime.run("print x", "bash", on_output=on_output)

    assert heard == [(threading.current_thread(), "run", "stdout", b"x\n")]
    assert result.stdout == ""


def test_handle_is_an_iterator_of_events(runtime: Runtime) -> None:
    with runtime.start("print x", "bash") as execution:
        events = list(execution)

    kinds = [type(event) for event in events]
    assert kinds == [Started, PhaseStarted, Output, PhaseEnded, Ended]
    assert list(execution) == []
    assert execution.wait().ok
    assert (execution.state, execution.position, execution.language) == ("ended", None, "bash")


def test_stdin_of_a_handle_is_written_as_the_program_reads(runtime: Runtime) -> None:
    execution = runtime.start("read 3\nread 3", "bash", stdin=None)
    outputs = (event for event in execution if isinstance(event, Output))

    execution.stdin.write(b"abc")
    first = next(outputs)
    execution.stdin.write(b"def")
    second = next(outputs)
    execution.stdin.close()

    assert (first.data, second.data) == (b"abc", b"def")
    assert execution.wait().ok
    with pytest.raises(slipway.InputError, match="stdin has been closed"):
        execution.stdin.write(b"x")


def test_stdin_may_be_an_iterable_that_waits(runtime: Runtime) -> None:
    first_heard = threading.Event()

    def stdin() -> Iterator[bytes]:
        yield b"first "
        assert first_heard.wait(60)
        yield b"second"

    heard = b""
    with runtime.start("echo", "bash", stdin=stdin()) as execution:
        for event in execution:
            if isinstance(event, Output):
                heard += event.data
                first_heard.set()

    assert heard == b"first second"


@pytest.mark.parametrize("stdin", [1, Path("x"), object], ids=repr)
def test_stdin_that_is_no_bytes_starts_nothing(
    runtime: Runtime, launcher: FakeLauncher, stdin: object
) -> None:
    with pytest.raises(slipway.InputError, match="stdin is "):
        runtime.run("echo", "bash", stdin=stdin)  # type: ignore[arg-type]

    assert launcher.launched == 0


def test_waiting_may_time_out_and_be_tried_again(runtime: Runtime) -> None:
    execution = runtime.start("print x\necho", "bash", stdin=None)

    with pytest.raises(TimeoutError):
        execution.wait(0.01)
    execution.stdin.close()

    assert execution.wait().stdout == "x\n"


def test_signal_reaches_the_program(runtime: Runtime) -> None:
    with runtime.start("forever", "bash") as execution:
        with pytest.raises(slipway.InputError, match="invalid signal 0"):
            execution.signal(0)
        while not isinstance(next(execution), PhaseStarted):
            pass
        execution.signal(signal.SIGTERM)

        assert execution.wait().signal == signal.SIGTERM


def test_leaving_a_handle_cancels_its_run(runtime: Runtime, launcher: FakeLauncher) -> None:
    with runtime.start("forever", "bash") as execution:
        while not isinstance(next(execution), PhaseStarted):
            pass

    assert not launcher.machines
    assert execution.wait().verdict == "cancelled"


def test_several_threads_share_a_runtime(runtime: Runtime) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = threads.map(lambda n: runtime.run(f"print {n}", "bash"), range(40))

        assert [result.stdout for result in results] == [f"{n}\n" for n in range(40)]


def test_events_of_one_run_are_for_one_thread(runtime: Runtime) -> None:
    execution = runtime.start("echo", "bash", stdin=None)
    while not isinstance(next(execution), PhaseStarted):
        pass
    other = threading.Thread(target=execution.wait)
    other.start()
    block_until(lambda: execution._execution._is_read, "the other thread takes the events")

    with pytest.raises(slipway.InputError, match="two tasks"):
        next(execution)

    execution.stdin.close()
    other.join()


def test_interrupt_ends_the_machine_before_it_is_raised(
    runtime: Runtime, launcher: FakeLauncher
) -> None:
    def interrupt(_phase: str, _stream: str, _data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        runtime.run("print x\nforever", "bash", on_output=interrupt)

    assert launcher.launched == 1
    assert not launcher.machines


def test_interrupt_of_a_wait_leaves_the_run(runtime: Runtime) -> None:
    execution = runtime.start("print x\necho", "bash", stdin=None)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        block_until(lambda: execution._execution._captured, "the run has written something")
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        execution.wait()
    execution.stdin.close()

    assert execution.wait().stdout == "x\n"


def test_closing_cancels_what_runs_and_may_be_done_again(launcher: FakeLauncher) -> None:
    runtime = Runtime(images=launcher, launcher=launcher)
    execution = runtime.start("forever", "bash")
    waiting = ThreadPoolExecutor(1).submit(runtime.run, "forever", "bash")
    block_until(lambda: launcher.launched == 2, "two machines were launched")

    runtime.close()
    runtime.close()

    assert not launcher.machines
    assert execution.state == "ended"
    for call in (lambda: runtime.run("x", "bash"), execution.wait, runtime.languages):
        with pytest.raises(slipway.InputError, match="has been closed"):
            call()
    # Whichever of the two the thread was told first.
    if (error := waiting.exception(60)) is None:
        assert waiting.result().verdict == "cancelled"
    else:
        assert isinstance(error, slipway.InputError)
        assert "has been closed" in error.message


async def test_calls_that_would_block_an_event_loop_are_refused(runtime: Runtime) -> None:
    with pytest.raises(slipway.InputError, match="would block the event loop") as caught:
        runtime.run("print x", "bash")

    assert "AsyncRuntime" in caught.value.hint


def test_garbage_leaves_no_machine_and_no_thread(launcher: FakeLauncher) -> None:
    before = set(threading.enumerate())
    runtime = Runtime(images=launcher, launcher=launcher)
    (thread,) = set(threading.enumerate()) - before
    execution = runtime.start("forever", "bash")
    gone = weakref.ref(runtime)

    del runtime, execution
    gc.collect()
    thread.join(60)

    assert gone() is None
    assert not thread.is_alive()
    assert not launcher.machines


@pytest.mark.parametrize("last", ["", "raise SystemExit(3)", "1 / 0"], ids=repr)
def test_process_that_forgets_to_close_ends_all_the_same(last: str) -> None:
    program = (
        "import slipway\n"
        "from support.fake_machine import fake_machines\n"
        "runtime = slipway.Runtime(**fake_machines())\n"
        "execution = runtime.start('forever', 'bash')\n"
        "while not isinstance(next(execution), slipway.PhaseStarted): pass\n"
        f"{last}\n"
    )

    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        cwd=TESTS,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == {"": 0, "1 / 0": 1}.get(last, 3), ended.stderr
    # On a slow host asyncio tells, in its debug mode, how long a step took.
    told = [
        line for line in ended.stderr.splitlines() if not line.startswith((b" ", b"Executing "))
    ]
    assert told == (
        [b"Traceback (most recent call last):", b"ZeroDivisionError: division by zero"]
        if last == "1 / 0"
        else []
    )


def test_load_and_languages_are_told(runtime: Runtime) -> None:
    assert (runtime.load.machines, runtime.load.waiting) == (0, 0)
    assert "python" in {language.name for language in runtime.languages()}


def test_drained_runtime_takes_no_more(runtime: Runtime) -> None:
    execution = runtime.start("forever", "bash")

    runtime.drain(0.01)

    assert execution.wait().verdict == "cancelled"
    with pytest.raises(slipway.Busy):
        runtime.start("print x", "bash")
