"""Who may run, who waits, and whose turn it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._admission import Admission, Capacity, Needs, Ticket
from slipway._util.errors import Busy, InputError

SMALL = Needs(1, 1)


def admission(
    *, machines: int = 2, memory: int = 100, cpus: int = 100, queue: int = 100
) -> Admission:
    return Admission(Capacity(machines, memory, cpus, queue))


def test_admits_at_once_while_there_is_room() -> None:
    room = admission(machines=2)

    tickets = [room.enter("", SMALL) for _ in range(3)]

    assert [ticket.admitted.is_set() for ticket in tickets] == [True, True, False]
    assert [ticket.position for ticket in tickets] == [None, None, 0]


@pytest.mark.parametrize(
    "needs",
    [Needs(memory=60, cpus=1), Needs(memory=1, cpus=3)],
    ids=["memory", "cpus"],
)
def test_waits_for_what_is_short(needs: Needs) -> None:
    room = admission(machines=10, memory=100, cpus=4)
    first = room.enter("", needs)
    second = room.enter("", needs)
    waited = not second.admitted.is_set()

    room.leave(first)

    assert waited
    assert second.admitted.is_set()


def test_refuses_what_could_never_run() -> None:
    room = admission(memory=100, cpus=2)

    with pytest.raises(InputError, match="needs 0 MiB of memory"):
        room.check(Needs(101, 1))
    with pytest.raises(InputError, match="needs 3 CPUs"):
        room.check(Needs(1, 3))


def test_full_queue_is_busy_and_says_when_to_try_again() -> None:
    room = admission(machines=1, queue=1)
    running, waiting = room.enter("", SMALL), room.enter("", SMALL)

    with pytest.raises(Busy, match=r"queue is full \(waiting runs: 1\)") as caught:
        room.enter("", SMALL)

    assert caught.value.retry_after > 0
    assert running.admitted.is_set()
    assert waiting.position == 0


def test_without_a_queue_whoever_has_room_still_runs() -> None:
    room = admission(machines=1, queue=0)

    ticket = room.enter("", SMALL)

    assert ticket.admitted.is_set()
    with pytest.raises(Busy):
        room.enter("", SMALL)


def test_positions_follow_the_queue() -> None:
    room = admission(machines=1)
    running = room.enter("", SMALL)
    waiting = [room.enter("", SMALL) for _ in range(3)]
    told: list[int] = []
    waiting[2].on_position = told.append

    room.leave(running)
    room.leave(waiting[1])

    assert [ticket.position for ticket in waiting] == [None, None, 0]
    assert told == [1, 0]


def test_client_with_many_runs_does_not_keep_another_waiting() -> None:
    room = admission(machines=1)
    running = room.enter("greedy", SMALL)
    greedy = [room.enter("greedy", SMALL) for _ in range(5)]
    modest = room.enter("modest", SMALL)

    room.leave(running)

    # The greedy one's next came first, and then it is the other's turn.
    assert greedy[0].admitted.is_set()
    assert modest.position == 0


def test_client_that_has_fewer_runs_going_is_first() -> None:
    room = admission(machines=3)
    running = [room.enter("greedy", SMALL) for _ in range(3)]
    greedy, modest = room.enter("greedy", SMALL), room.enter("modest", SMALL)

    room.leave(running[0])

    assert modest.admitted.is_set()
    assert not greedy.admitted.is_set()


def test_one_that_needs_much_is_not_passed_over() -> None:
    room = admission(machines=10, memory=100)
    running = room.enter("", Needs(60, 1))
    large, small = room.enter("", Needs(70, 1)), room.enter("", Needs(10, 1))
    early = small.admitted.is_set()

    room.leave(running)

    assert not early
    assert large.admitted.is_set()
    assert small.admitted.is_set()


def test_one_whose_image_is_being_made_lets_others_pass() -> None:
    room = admission(machines=1)
    unknown = room.enter("", None)
    known = room.enter("", SMALL)
    passed = known.admitted.is_set()

    room.declare(unknown, SMALL)
    room.leave(known)

    assert passed
    assert unknown.admitted.is_set()


def test_leaving_twice_gives_back_once() -> None:
    room = admission(machines=1)
    ticket = room.enter("", SMALL)

    room.leave(ticket)
    room.leave(ticket)

    load = room.load
    assert (load.machines, load.waiting, load.memory, load.cpus) == (0, 0, 0, 0)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.none() | st.builds(Needs, st.integers(1, 100), st.integers(1, 8)),
        st.integers(0, 30),
    ),
    max_size=60,
)


@given(steps=_STEPS, machines=st.integers(1, 4), queue=st.integers(0, 8))
def test_never_over_capacity_and_all_are_served_in_the_end(
    steps: list[tuple[str, Needs | None, int]], machines: int, queue: int
) -> None:
    room = admission(machines=machines, memory=100, cpus=8, queue=queue)
    there: list[Ticket] = []

    def consistent() -> None:
        running = [t for t in there if t.admitted.is_set()]
        load = room.load
        assert load.machines == len(running) <= machines
        assert load.memory == sum(t.needs.memory for t in running if t.needs) <= 100
        assert load.cpus == sum(t.needs.cpus for t in running if t.needs) <= 8
        waiting = [t for t in there if not t.admitted.is_set()]
        assert sorted(t.position for t in waiting if t.position is not None) == list(
            range(load.waiting)
        )

    for key, needs, which in steps:
        try:
            there.append(room.enter(key, needs))
        except Busy:
            assert room.load.waiting >= queue
        consistent()
        if there and which < 15:
            room.leave(there.pop(which % len(there)))
            consistent()
    for ticket in there:
        if ticket.needs is None:
            room.declare(ticket, SMALL)
    consistent()
    while there:
        running = [t for t in there if t.admitted.is_set()]
        assert running, "some wait although nobody runs"
        there.remove(running[0])
        room.leave(running[0])
        consistent()
