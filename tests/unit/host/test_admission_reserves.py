"""Memory that is reserved for what is no run, and makes way for one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity, Needs, Ticket
from slipway._util.errors import Busy
from slipway._util.shares import Share
from support.waiting import wait_until

CAPACITY = Capacity(machines=4, memory=100, cpus=6, queue=5)


class Reserves:
    """What has reserved memory, in pieces; of some it can let go when it is asked."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.pieces: list[int] = []
        """Those that can be had back."""
        self.held: list[int] = []
        """Those that cannot, yet."""
        admission.reclaim = self.evict

    def evict(self, memory: int) -> None:
        assert memory > 0
        while self.pieces and memory > 0:
            piece = self.pieces.pop()
            memory -= piece
            self.admission.free(piece)

    def take(self, piece: int) -> bool:
        if self.admission.reserve(piece):
            self.pieces.append(piece)
            return True
        return False


@pytest.fixture
def room() -> Admission:
    return Admission(CAPACITY)


def test_reserves_are_bounded_by_the_memory(room: Admission) -> None:
    taken = [room.reserve(40) for _ in range(3)]

    assert taken == [True, True, False]


def test_run_takes_what_it_lacks_and_no_more(room: Admission) -> None:
    reserves = Reserves(room)
    assert all(reserves.take(20) for _ in range(5))

    ticket = room.enter(Share(), Needs(30, 1))

    assert ticket.is_admitted
    assert reserves.pieces == [20, 20, 20]


def test_run_that_lacks_processors_takes_no_memory(room: Admission) -> None:
    room.enter(Share(), Needs(1, CAPACITY.cpus))
    reserves = Reserves(room)
    assert reserves.take(99)

    ticket = room.enter(Share(), Needs(50, 1))

    assert not ticket.is_admitted
    assert reserves.pieces == [99]


def test_run_that_runs_leave_no_room_takes_nothing(room: Admission) -> None:
    room.enter(Share(), Needs(60, 1))
    reserves = Reserves(room)
    assert reserves.take(30)

    ticket = room.enter(Share(), Needs(50, 1))

    assert not ticket.is_admitted
    assert reserves.pieces == [30]


def test_nothing_is_reserved_that_the_next_run_needs(room: Admission) -> None:
    running = room.enter(Share(), Needs(60, CAPACITY.cpus))
    waiting = room.enter(Share(), Needs(30, 1))

    reserved = room.reserve(11), room.reserve(10)
    room.leave(running)

    assert reserved == (False, True)
    assert waiting.is_admitted


def test_run_whose_image_is_being_made_keeps_nobody_from_reserving(room: Admission) -> None:
    room.enter(Share(), None)

    assert room.reserve(100)


def test_run_waits_for_what_cannot_be_had_back_yet(room: Admission) -> None:
    assert room.reserve(80)
    ticket = room.enter(Share(), Needs(30, 1))
    at_once = ticket.is_admitted

    room.free(80)

    assert not at_once
    assert ticket.is_admitted


def test_run_gets_what_can_be_had_back_later(room: Admission) -> None:
    reserves = Reserves(room)
    assert room.reserve(80)
    ticket = room.enter(Share(), Needs(30, 1))
    at_once = ticket.is_admitted

    reserves.pieces.append(80)
    room.settle()

    assert not at_once
    assert ticket.is_admitted
    assert reserves.pieces == []


class Admitting(RuleBasedStateMachine):
    """Runs and reserves in any order: no more than there is, and nobody waits without need."""

    def __init__(self) -> None:
        super().__init__()
        self.room = Admission(CAPACITY)
        self.reserves = Reserves(self.room)
        self.tickets: list[Ticket] = []

    @rule(key=st.sampled_from("ab"), memory=st.integers(1, 100), cpus=st.integers(1, 6))
    def enter(self, key: str, memory: int, cpus: int) -> None:
        try:
            self.tickets.append(self.room.enter(Share(key=key), Needs(memory, cpus)))
        except Busy:
            assert self.room.load.waiting == CAPACITY.queue

    @rule(key=st.sampled_from("ab"))
    def enter_without_needs(self, key: str) -> None:
        try:
            self.tickets.append(self.room.enter(Share(key=key), None))
        except Busy:
            assert self.room.load.waiting == CAPACITY.queue

    @precondition(lambda self: any(t.needs is None for t in self.tickets))
    @rule(data=st.data(), memory=st.integers(1, 100), cpus=st.integers(1, 6))
    def declare(self, data: st.DataObject, memory: int, cpus: int) -> None:
        unknown = [ticket for ticket in self.tickets if ticket.needs is None]
        self.room.declare(data.draw(st.sampled_from(unknown)), Needs(memory, cpus))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(ticket)
        self.room.leave(ticket)

    @rule(piece=st.integers(1, 50))
    def reserve(self, piece: int) -> None:
        self.reserves.take(piece)

    @rule(piece=st.integers(1, 50))
    def reserve_for_something_to_be_made(self, piece: int) -> None:
        if self.room.reserve(piece):
            self.reserves.held.append(piece)

    @precondition(lambda self: self.reserves.held)
    @rule(fails=st.booleans())
    def have_made_it(self, fails: bool) -> None:
        piece = self.reserves.held.pop()
        if fails:
            self.room.free(piece)
        else:
            self.reserves.pieces.append(piece)
            self.room.settle()

    @precondition(lambda self: self.reserves.pieces)
    @rule()
    def use_it(self) -> None:
        self.room.free(self.reserves.pieces.pop())

    @invariant()
    def no_more_than_there_is(self) -> None:
        running = [t.needs for t in self.tickets if t.is_admitted and t.needs is not None]
        load, reserved = self.room.load, sum(self.reserves.pieces + self.reserves.held)
        assert load.memory == sum(needs.memory for needs in running)
        assert load.cpus == sum(needs.cpus for needs in running)
        assert load.machines == len(running) <= CAPACITY.machines
        assert self.room.reserved == reserved
        assert load.memory + reserved <= CAPACITY.memory
        assert load.cpus <= CAPACITY.cpus

    @invariant()
    def the_next_run_waits_for_running_runs_or_for_held_memory(self) -> None:
        turns = self.room.list_turns()
        if not turns or turns[0].needs is None:
            return
        load, needs = self.room.load, turns[0].needs
        assert (
            load.machines == CAPACITY.machines
            or load.cpus + needs.cpus > CAPACITY.cpus
            or load.memory + sum(self.reserves.held) + needs.memory > CAPACITY.memory
        )

    def teardown(self) -> None:
        for ticket in self.tickets:
            self.room.leave(ticket)
        for piece in self.reserves.pieces + self.reserves.held:
            self.room.free(piece)
        load = self.room.load
        assert (load.machines, load.waiting, load.memory, load.cpus) == (0, 0, 0, 0)
        assert self.room.reserved == 0


Admitting.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAdmitting = Admitting.TestCase


async def test_run_that_waits_hears_of_it(room: Admission) -> None:
    reserves = Reserves(room)
    assert room.reserve(80)
    ticket = room.enter(Share(), Needs(30, 1))
    waiting = asyncio.create_task(wait_until(lambda: ticket.is_admitted, "the run is admitted"))
    await asyncio.sleep(0)

    reserves.pieces.append(80)
    room.settle()

    await waiting
