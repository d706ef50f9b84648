"""The public API, in real machines."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

import slipway
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("bash"), pytest.mark.vm]


def machines() -> set[int]:
    """The process ids of the machines that this process has started."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if child.name().startswith("qemu")}


@pytest.fixture(autouse=True)
def _no_machine_stays() -> Iterator[None]:
    before = machines()
    yield
    assert machines() == before


async def test_run_in_an_event_loop_points_to_the_other_one() -> None:
    with pytest.raises(slipway.InputError, match="event loop"):
        slipway.run("true", language="bash")


def test_stdin_that_is_no_bytes_starts_nothing() -> None:
    with pytest.raises(slipway.InputError, match="stdin is 5"):
        slipway.run("true", language="bash", stdin=5)


def test_run_waits_for_the_whole_result() -> None:
    result = slipway.run(
        'read -r line; echo "$line $1 $NAME $(cat data)"; echo made >made; exit 3',
        language="bash",
        stdin=b"from stdin\n",
        arguments=("argument",),
        environment=(("NAME", "value"),),
        files=(slipway.InputFile("data", b"content"),),
        outputs=("made",),
    )

    assert result.stdout == "from stdin argument value content\n"
    assert (result.verdict, result.code, result.ok) == ("failed", 3, False)
    assert result.files == (slipway.OutputFile("made", 0o644, b"made\n"),)
    assert result.run is not None
    assert 0 < result.run.usage.wall <= result.timing.run
    with pytest.raises(slipway.ProgramError, match="exit code 3"):
        result.check()


async def test_run_async_streams_in_both_directions() -> None:
    heard = asyncio.Queue[bytes]()

    async def stdin() -> AsyncIterator[bytes]:
        for number in range(3):
            assert await heard.get() == b"line %d\n" % number
            yield b"next\n"

    async def on_output(phase: str, stream: str, data: bytes) -> None:
        assert (phase, stream) == ("run", "stdout")
        heard.put_nowait(data)

    result = await slipway.run_async(
        'for number in 0 1 2; do echo "line $number"; read -r; done',
        language="bash",
        stdin=stdin(),
        on_output=on_output,
    )

    assert result.ok
    assert result.stdout == ""  # it has been streamed
    assert result.run is not None
    assert result.run.stdout.size == len("line 0\n") * 3


async def test_cancelled_run_leaves_no_machine() -> None:
    running = asyncio.Event()

    async def on_output(_phase: str, _stream: str, _data: bytes) -> None:
        running.set()

    task = asyncio.create_task(
        slipway.run_async("echo running; sleep 1000", language="bash", on_output=on_output)
    )
    await wait_until(running.is_set, "the program runs")
    before = machines()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(before) == 1


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.4])
async def test_run_cancelled_on_its_way_leaves_no_machine(delay: float) -> None:
    task = asyncio.create_task(slipway.run_async("sleep 1000", language="bash"))
    await asyncio.sleep(delay)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_error_of_the_caller_ends_the_machine() -> None:
    async def on_output(_phase: str, _stream: str, _data: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await slipway.run_async("echo x; sleep 1000", language="bash", on_output=on_output)


async def test_machine_that_is_lost_is_an_unknown_outcome() -> None:
    async def on_output(_phase: str, _stream: str, _data: bytes) -> None:
        for machine in machines():
            psutil.Process(machine).kill()

    with pytest.raises(slipway.UnknownOutcome, match="ended by itself"):
        await slipway.run_async("echo x; sleep 1000", language="bash", on_output=on_output)


async def test_several_at_once() -> None:
    results = await asyncio.gather(
        *[slipway.run_async(f"echo {number}", language="bash") for number in range(3)]
    )

    assert [result.stdout for result in results] == ["0\n", "1\n", "2\n"]


def test_interrupt_while_an_image_is_made_ends_it_at_once(tmp_path: Path) -> None:
    threads = []

    def interrupt(_line: str) -> None:
        threads.append(threading.current_thread())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slipway.run("echo", "bash", store=tmp_path, progress=interrupt)

    assert threads == [threading.main_thread()]  # where the signal comes
    assert list((tmp_path / "tmp").iterdir()) == []
