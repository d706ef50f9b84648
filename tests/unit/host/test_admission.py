"""Who may run, who waits, and whose turn it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity, Needs, Ticket
from slipway._util.errors import Busy, InputError
from slipway._util.shares import Share

SMALL = Needs(1, 1)


def admission(
    *, machines: int = 2, memory: int = 100, cpus: int = 100, queue: int = 100
) -> Admission:
    return Admission(Capacity(machines, memory, cpus, queue))


def test_admits_at_once_while_there_is_room() -> None:
    room = admission(machines=2)

    tickets = [room.enter(Share(), SMALL) for _ in range(3)]

    assert [ticket.is_admitted for ticket in tickets] == [True, True, False]
    assert [ticket.position for ticket in tickets] == [None, None, 0]


@pytest.mark.parametrize(
    "needs",
    [Needs(memory=60, cpus=1), Needs(memory=1, cpus=3)],
    ids=["memory", "cpus"],
)
def test_waits_for_what_is_short(needs: Needs) -> None:
    room = admission(machines=10, memory=100, cpus=4)
    first = room.enter(Share(), needs)
    second = room.enter(Share(), needs)
    waited = not second.is_admitted

    room.leave(first)

    assert waited
    assert second.is_admitted


def test_refuses_what_could_never_run() -> None:
    room = admission(memory=100, cpus=2)

    with pytest.raises(InputError, match="needs 0 MiB of memory"):
        room.check(Needs(101, 1))
    with pytest.raises(InputError, match="needs 3 CPUs"):
        room.check(Needs(1, 3))


def test_full_queue_is_busy_and_says_when_to_try_again() -> None:
    room = admission(machines=1, queue=1)
    running, waiting = room.enter(Share(), SMALL), room.enter(Share(), SMALL)

    with pytest.raises(Busy, match=r"queue is full \(waiting runs: 1\)") as caught:
        room.enter(Share(), SMALL)

    assert caught.value.retry_after > 0
    assert running.is_admitted
    assert waiting.position == 0


def test_without_a_queue_whoever_has_room_still_runs() -> None:
    room = admission(machines=1, queue=0)

    ticket = room.enter(Share(), SMALL)

    assert ticket.is_admitted
    with pytest.raises(Busy):
        room.enter(Share(), SMALL)


def test_positions_follow_the_queue() -> None:
    room = admission(machines=1)
    running = room.enter(Share(), SMALL)
    waiting = [room.enter(Share(), SMALL) for _ in range(3)]
    told: list[int] = []
    waiting[2].on_position = told.append

    room.leave(running)
    room.leave(waiting[1])

    assert [ticket.position for ticket in waiting] == [None, None, 0]
    assert told == [1, 0]


def test_client_with_many_runs_does_not_keep_another_waiting() -> None:
    room = admission(machines=1)
    running = room.enter(Share(key="greedy"), SMALL)
    greedy = [room.enter(Share(key="greedy"), SMALL) for _ in range(5)]
    modest = room.enter(Share(key="modest"), SMALL)

    room.leave(running)

    # The greedy one's next came first, and then it is the other's turn.
    assert greedy[0].is_admitted
    assert modest.position == 0


def test_client_that_has_fewer_runs_going_is_first() -> None:
    room = admission(machines=3)
    running = [room.enter(Share(key="greedy"), SMALL) for _ in range(3)]
    greedy, modest = room.enter(Share(key="greedy"), SMALL), room.enter(Share(key="modest"), SMALL)

    room.leave(running[0])

    assert modest.is_admitted
    assert not greedy.is_admitted


def test_one_that_needs_much_is_not_passed_over() -> None:
    room = admission(machines=10, memory=100)
    running = room.enter(Share(), Needs(60, 1))
    large, small = room.enter(Share(), Needs(70, 1)), room.enter(Share(), Needs(10, 1))
    early = small.is_admitted

    room.leave(running)

    assert not early
    assert large.is_admitted
    assert small.is_admitted


def test_one_whose_image_is_being_made_lets_others_pass() -> None:
    room = admission(machines=1)
    unknown = room.enter(Share(), None)
    known = room.enter(Share(), SMALL)
    passed = known.is_admitted

    room.declare(unknown, SMALL)
    room.leave(known)

    assert passed
    assert unknown.is_admitted


def test_leaving_twice_gives_back_once() -> None:
    room = admission(machines=1)
    ticket = room.enter(Share(), SMALL)

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
        # Another key has taken the place in the queue.
        there[:] = [t for t in there if t.refusal is None]
        running = [t for t in there if t.is_admitted]
        load = room.load
        assert load.machines == len(running) <= machines
        assert load.memory == sum(t.needs.memory for t in running if t.needs) <= 100
        assert load.cpus == sum(t.needs.cpus for t in running if t.needs) <= 8
        waiting = [t for t in there if not t.is_admitted]
        assert sorted(t.position for t in waiting if t.position is not None) == list(
            range(load.waiting)
        )

    for key, needs, which in steps:
        try:
            there.append(room.enter(Share(key=key), needs))
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
        running = [t for t in there if t.is_admitted]
        assert running, "some wait although nobody runs"
        there.remove(running[0])
        room.leave(running[0])
        consistent()


# --- Users against each other -----------------------------------------------------------------


def serve_all(room: Admission, tickets: list[Ticket]) -> list[Share]:
    """End the running runs one after the other; return the shares in the order of their turns."""
    turns: list[Share] = []
    while running := [ticket for ticket in tickets if ticket.is_admitted]:
        turns += [ticket.share for ticket in running]
        for ticket in running:
            tickets.remove(ticket)
            room.leave(ticket)
    return turns


def test_two_users_take_turns_on_one_machine() -> None:
    room = admission(machines=1)
    tickets = [room.enter(Share("greedy"), SMALL) for _ in range(20)]
    tickets += [room.enter(Share("modest"), SMALL) for _ in range(5)]

    turns = [share.user for share in serve_all(room, tickets)]

    assert turns[1:11].count("modest") == 5


def test_fresh_key_for_each_run_gains_nothing_over_other_users() -> None:
    room = admission(machines=4, queue=400)
    tickets = [room.enter(Share("greedy", f"key-{number}"), SMALL) for number in range(200)]
    tickets += [room.enter(Share("modest"), SMALL) for _ in range(38)]

    turns = [share.user for share in serve_all(room, tickets)]

    # On a quiet server the last of the 38 would be the 38th; four are already running here.
    assert turns[: 4 + 2 * 38].count("modest") == 38


def test_keys_of_one_user_take_turns_as_well() -> None:
    room = admission(machines=1)
    tickets = [room.enter(Share("one", "greedy"), SMALL) for _ in range(20)]
    tickets += [room.enter(Share("one", "modest"), SMALL) for _ in range(5)]

    turns = [share.key for share in serve_all(room, tickets)]

    assert turns[1:11].count("modest") == 5


def test_a_start_changes_whose_turn_is_next() -> None:
    room = admission(machines=10, cpus=6)
    first, *waiting = [
        room.enter(Share(key=key), Needs(1, cpus))
        for key, cpus in zip("bab", (3, 1, 3), strict=True)
    ]
    fourth, large = room.enter(Share(key="a"), SMALL), room.enter(Share(key="b"), Needs(1, 5))

    room.leave(first)

    # The start of the second of b is its turn: a is next, whose run fits, and not the large one.
    assert [ticket.is_admitted for ticket in (*waiting, fourth)] == [True, True, True]
    assert large.position == 0


def test_user_who_comes_back_for_each_run_has_no_more_than_a_turn() -> None:
    room = admission(machines=1)
    steady = [room.enter(Share("steady"), SMALL) for _ in range(10)]
    turns = []
    for _ in range(8):
        visitor = room.enter(Share("visitor"), SMALL)
        while not visitor.is_admitted:
            turns.append("steady")
            running = next(ticket for ticket in steady if ticket.is_admitted)
            steady.remove(running)
            room.leave(running)
        turns.append("visitor")
        room.leave(visitor)

    assert turns.count("steady") >= turns.count("visitor")


def test_user_in_a_full_queue_gives_its_newest_place_to_one_who_has_fewer() -> None:
    room = admission(machines=1, queue=4)
    greedy = [room.enter(Share("greedy", str(number)), SMALL) for number in range(5)]

    modest = [room.enter(Share("modest"), SMALL) for _ in range(2)]

    assert [ticket.refusal is not None for ticket in greedy] == [False, False, False, True, True]
    assert all(ticket.decided.is_set() for ticket in greedy[3:])
    assert all(ticket.refusal is None for ticket in modest)
    assert room.load.waiting == 4
    with pytest.raises(Busy):  # each has half of it
        room.enter(Share("modest"), SMALL)


def test_refused_run_leaves_the_queue_once() -> None:
    room = admission(machines=1, queue=2)
    greedy = [room.enter(Share("greedy"), SMALL) for _ in range(3)]
    modest = room.enter(Share("modest"), SMALL)

    room.leave(greedy[2])
    room.leave(greedy[2])

    assert room.load.waiting == 2
    assert room.load.machines == 1
    assert modest.refusal is None
