"""The queue between the agent's connection and a reader: order, bound and credit."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from slipway._run.deadline_pause import DeadlinePause
from slipway._run.output_queue import OutputQueue
from slipway._run.output_sink import OutputCapture, OutputTail
from slipway_protocol.messages import Phase, Stream
from slipway_protocol.schema import MAX_DATA
from support.clock import JumpingClock
from support.waiting import wait_until

if TYPE_CHECKING:
    from slipway._run.output_sink import OutputSink

OUT, ERR, RUN = Stream.STDOUT, Stream.STDERR, Phase.RUN


class Credit:
    """Counts what a sink releases."""

    def __init__(self, sink: OutputSink) -> None:
        self.released: Counter[Stream] = Counter()
        sink.connect(self)

    def release(self, stream: Stream, size: int) -> None:
        assert size > 0
        self.released[stream] += size


async def take(queue: OutputQueue[str]) -> object:
    """What waits; fails if the queue has to wait for it."""
    taken = asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    assert taken.done()
    return taken.result()


async def take_all(queue: OutputQueue[str]) -> None:
    """Take pieces until the queue is closed."""
    while await queue.take() is not None:
        pass


async def test_output_and_marks_keep_their_order() -> None:
    queue: OutputQueue[str] = OutputQueue(100)
    Credit(queue)

    queue.put("one")
    queue.put_output(RUN, OUT, b"a")
    queue.put_output(RUN, ERR, b"b")
    queue.put("two")
    queue.close()

    assert await take(queue) == "one"
    assert await take(queue) == (RUN, OUT, b"a")
    assert await take(queue) == (RUN, ERR, b"b")
    assert await take(queue) == "two"
    assert await take(queue) is None


async def test_pieces_of_one_stream_are_joined_up_to_a_message() -> None:
    queue: OutputQueue[str] = OutputQueue(10 * MAX_DATA)
    Credit(queue)

    for _ in range(3):
        queue.put_output(RUN, OUT, b"ab")
    queue.put_output(RUN, OUT, b"x" * MAX_DATA)
    queue.put_output(RUN, OUT, b"end")

    assert await take(queue) == (RUN, OUT, b"ababab" + b"x" * MAX_DATA)
    assert await take(queue) == (RUN, OUT, b"end")


async def test_newest_mark_takes_the_place_of_one_of_its_type() -> None:
    queue: OutputQueue[str | int] = OutputQueue()

    queue.put_latest("old")
    queue.put_latest("new")
    queue.put_latest(1)
    queue.put_latest(2)

    assert await queue.take() == "new"
    assert await queue.take() == 2


async def test_credit_is_released_at_once_below_the_bound() -> None:
    queue: OutputQueue[str] = OutputQueue(3)
    credit = Credit(queue)

    for piece in (b"12", b"34", b"56", b"78"):
        queue.put_output(RUN, OUT, piece)

    assert credit.released[OUT] == 4
    assert queue.size == 8


async def test_credit_beyond_the_bound_is_released_as_the_reader_comes_back() -> None:
    queue: OutputQueue[str] = OutputQueue(2)
    credit = Credit(queue)
    queue.put_output(RUN, OUT, b"12")
    queue.put_output(RUN, ERR, b"345")
    queue.put_output(RUN, OUT, b"6")

    await take(queue)
    first = dict(credit.released)
    await take(queue)
    second = dict(credit.released)
    await take(queue)

    assert first == {OUT: 2}
    assert second == {OUT: 2, ERR: 2}
    assert credit.released == {OUT: 3, ERR: 3}


async def test_reader_without_a_bound_pays_for_each_piece_after_it() -> None:
    queue: OutputQueue[str] = OutputQueue()
    credit = Credit(queue)
    queue.put_output(RUN, OUT, b"1")
    queue.put_output(RUN, ERR, b"2")

    await take(queue)
    in_hand = credit.released.total()
    await take(queue)

    assert in_hand == 0
    assert credit.released == {OUT: 1}


async def test_bound_that_is_lifted_releases_all() -> None:
    queue: OutputQueue[str] = OutputQueue(1)
    credit = Credit(queue)
    for _ in range(3):
        queue.put_output(RUN, OUT, b"123")

    queue.lift_bound()
    before = credit.released[OUT]
    queue.put_output(RUN, OUT, b"4")

    assert (before, credit.released[OUT]) == (9, 10)


@pytest.mark.parametrize("seed", range(10))
async def test_no_more_than_the_bound_and_a_piece_is_released_and_unread(seed: int) -> None:
    choice = random.Random(seed)
    bound = choice.choice((0, 10, 1000))
    queue: OutputQueue[str] = OutputQueue(bound)
    credit = Credit(queue)
    put = taken = 0

    for _ in range(2000):
        if queue.size and choice.random() < 0.5:
            item = await queue.take()
            assert isinstance(item, tuple)
            taken += len(item[2])
        else:
            data = bytes(choice.randrange(1, 300))
            queue.put_output(RUN, choice.choice((OUT, ERR)), data)
            put += len(data)
        assert credit.released.total() - taken <= bound + 300
        assert queue.size == put - taken
    while queue.size:
        await queue.take()
    queue.close()
    assert await queue.take() is None

    assert credit.released.total() == put


async def test_failure_comes_behind_all_that_waits() -> None:
    queue: OutputQueue[str] = OutputQueue(10)
    Credit(queue)
    queue.put_output(RUN, OUT, b"last words")
    queue.close(ZeroDivisionError("why"))

    assert await queue.take() == (RUN, OUT, b"last words")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await queue.take()


async def test_deadline_stands_still_while_credit_is_withheld() -> None:
    queue: OutputQueue[str] = OutputQueue()
    async with asyncio.timeout(60) as deadline:
        with DeadlinePause(queue, deadline) as paused:
            credit = Credit(paused)
            paused.put_output(RUN, OUT, b"12")
            paused.put_output(RUN, ERR, b"3")
            still = deadline.when()
            queue.lift_bound()
            running = deadline.when()
            paused.put_output(RUN, OUT, b"4")
            unpaused = deadline.when()
        queue.put_output(RUN, OUT, b"5")  # the job is over, and its reader is late

    assert still is None
    assert running is not None
    assert running == unpaused
    assert credit.released.total() == 5


async def test_reader_that_takes_each_piece_at_its_turn_stretches_no_deadline() -> None:
    queue: OutputQueue[str] = OutputQueue()
    reader = asyncio.create_task(take_all(queue))
    async with asyncio.timeout(60) as deadline:
        with DeadlinePause(queue, deadline) as paused:
            credit = Credit(paused)
            before, put = deadline.when(), Counter[Stream]()
            for _ in range(100):
                put[OUT] += 1
                paused.put_output(RUN, OUT, b"x")
                await wait_until(lambda: credit.released >= put, "the reader has taken the piece")

            assert deadline.when() == before
    queue.close()
    await reader


async def test_deadline_is_later_by_the_time_that_its_reader_took() -> None:
    JumpingClock()
    clock = asyncio.get_running_loop().time
    queue: OutputQueue[str] = OutputQueue()
    async with asyncio.timeout(60) as deadline:
        with DeadlinePause(queue, deadline) as paused:
            Credit(paused)
            before, began = deadline.when(), clock()
            paused.put_output(RUN, OUT, b"x")
            await asyncio.sleep(3600)

            queue.lift_bound()

            assert before is not None
            assert deadline.when() == pytest.approx(before + clock() - began, abs=1)


@pytest.mark.parametrize(("size", "kept"), [(1, b"d"), (3, b"bcd"), (9, b"abcd")])
def test_tail_keeps_the_end_and_pays_at_once(size: int, kept: bytes) -> None:
    tail = OutputTail(size)
    credit = Credit(tail)

    tail.put_output(RUN, OUT, b"ab")
    tail.put_output(RUN, ERR, b"cd")

    assert tail.data == kept
    assert credit.released == {OUT: 2, ERR: 2}


def test_capture_keeps_streams_apart() -> None:
    capture = OutputCapture()
    credit = Credit(capture)

    capture.put_output(RUN, OUT, b"ab")
    capture.put_output(RUN, ERR, b"cd")
    capture.put_output(RUN, OUT, b"ef")

    assert capture.data == {("run", "stdout"): b"abef", ("run", "stderr"): b"cd"}
    assert credit.released == {OUT: 4, ERR: 2}
