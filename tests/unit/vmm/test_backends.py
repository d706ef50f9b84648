"""The sockets behind the guest's ports: the agent's loses nothing, the console's never waits."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.vmm.backends import READ_SIZE, ConsoleBackend, SocketBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


class Port:
    """A device that takes up to ``space`` bytes, and has ``unsent`` to say."""

    def __init__(self, link: SocketBackend, space: int = 0) -> None:
        self.taken = bytearray()
        self.unsent = bytearray()
        self.space = space
        self.drains = 0
        self._link = link
        link.port = self

    def receive(self, data: memoryview) -> int:
        part = data[: self.space]
        self.taken += part
        self.space -= len(part)
        return len(part)

    def drain(self) -> None:
        self.drains += 1
        del self.unsent[: self._link.send(bytes(self.unsent))]

    def say(self, data: bytes) -> None:
        self.unsent += data[self._link.send(data) :]


class Eager(Port):
    """Asks for more as soon as it has been given some, as a UART does whose guest reads at once."""

    def receive(self, data: memoryview) -> int:
        self.space = 1
        taken = super().receive(data)
        self._link.can_receive()
        return taken


class Sides:
    """A link, and the parent's end of its socket."""

    def __init__(self) -> None:
        self.parent, self._ours = socket.socketpair()
        self.parent.setblocking(False)
        self.link = SocketBackend(self._ours.fileno())

    def is_woken(self) -> bool:
        """Whether somebody is asked to call ready."""
        try:
            return bool(os.eventfd_read(self.link.wake))
        except BlockingIOError:
            return False

    def read(self) -> bytes:
        """All that has come out."""
        parts = []
        try:
            while part := self.parent.recv(MIB):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts)

    def close(self) -> None:
        self.parent.close()
        self._ours.close()
        os.close(self.link.wake)


@pytest.fixture
def sides() -> Iterator[Sides]:
    sides = Sides()
    yield sides
    sides.close()


# --- To the guest -------------------------------------------------------------------------------


def test_guest_gets_what_it_has_room_for_and_the_rest_later(sides: Sides) -> None:
    port = Port(sides.link, space=3)
    sides.parent.send(b"abcdefgh")

    sides.link.ready()
    assert bytes(port.taken) == b"abc"

    port.space = 4
    sides.link.can_receive()
    assert bytes(port.taken) == b"abcdefg"

    port.space = 100
    sides.link.can_receive()
    assert bytes(port.taken) == b"abcdefgh"


def test_guest_gets_all_that_waits_when_it_has_room(sides: Sides) -> None:
    """More than is read at once."""
    data = os.urandom(2 * READ_SIZE)
    port = Port(sides.link, space=len(data))
    sides.parent.send(data)

    sides.link.ready()

    assert bytes(port.taken) == data


def test_device_that_asks_for_more_from_within_is_not_given_it_twice(sides: Sides) -> None:
    port = Eager(sides.link)
    sides.parent.send(b"abcdefgh")

    for _ in range(8):
        sides.link.ready()

    assert bytes(port.taken) == b"abcdefgh"


def test_nothing_is_read_before_there_is_a_device(sides: Sides) -> None:
    sides.parent.send(b"early")
    sides.link.ready()

    port = Port(sides.link, space=5)
    sides.link.can_receive()

    assert bytes(port.taken) == b"early"


def test_fault_of_a_device_does_not_stop_what_follows(sides: Sides) -> None:
    port = Port(sides.link)
    sides.parent.send(b"abc")
    port.receive = lambda data: 1 // 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        sides.link.ready()
    del port.receive

    port.space = 3
    sides.link.can_receive()

    assert bytes(port.taken) == b"abc"


# --- From the guest -----------------------------------------------------------------------------


def test_parent_that_does_not_read_loses_nothing(sides: Sides) -> None:
    data = os.urandom(4 * MIB)
    port = Port(sides.link)

    port.say(data)
    assert port.unsent
    got = bytearray()
    while len(got) < len(data):
        got += sides.read()
        sides.link.ready()

    assert bytes(got) == data
    assert not port.unsent


def test_device_is_not_drained_while_it_has_said_all(sides: Sides) -> None:
    port = Port(sides.link)
    port.say(b"all")

    sides.link.ready()

    assert port.drains == 0
    assert sides.read() == b"all"


# --- The end ------------------------------------------------------------------------------------


def test_parent_that_has_closed_is_the_end(sides: Sides) -> None:
    Port(sides.link, space=10)
    sides.parent.close()

    sides.link.ready()

    assert sides.link.ended


def test_parent_that_has_closed_is_the_end_after_what_it_said(sides: Sides) -> None:
    port = Port(sides.link, space=4)
    sides.parent.send(b"last words")
    sides.parent.close()

    sides.link.ready()
    assert not sides.link.ended
    port.space = 10
    sides.link.can_receive()

    assert bytes(port.taken) == b"last words"
    assert sides.link.ended


def test_guest_that_speaks_to_nobody_is_not_held_up_and_told_of(sides: Sides) -> None:
    port = Port(sides.link)
    sides.parent.close()

    port.say(b"hello?")

    assert not port.unsent
    assert sides.link.ended
    assert sides.is_woken()


@given(st.data())
@settings(deadline=None, derandomize=True, database=None, max_examples=60)
def test_both_directions_are_streams_whatever_the_order_of_events(data: st.DataObject) -> None:
    sides = Sides()
    port = Port(sides.link)
    told, said, got = bytearray(), bytearray(), bytearray()
    for _ in range(data.draw(st.integers(1, 30))):
        event = data.draw(st.sampled_from(["send", "say", "read", "room", "ready"]))
        size = data.draw(st.sampled_from([1, 7, 1000, 100_000]))
        if event == "send":
            part = os.urandom(size)
            with suppress(BlockingIOError):
                told += part[: sides.parent.send(part)]
        elif event == "say" and not port.unsent:
            part = os.urandom(size)
            said += part
            port.say(part)
        elif event == "read":
            got += sides.read()
        elif event == "room":
            port.space += size
            sides.link.can_receive()
        else:
            sides.link.ready()
        assert told.startswith(port.taken)
        assert said.startswith(got)
    port.space = 1 << 30
    while len(got) < len(said) or len(port.taken) < len(told):
        sides.link.ready()
        got += sides.read()
    sides.close()

    assert (port.taken, got) == (told, said)


# --- The console --------------------------------------------------------------------------------


def test_console_passes_on_what_fits_and_counts_the_rest(sides: Sides) -> None:
    console = ConsoleBackend(sides.link.descriptor)
    data = os.urandom(4 * MIB)

    assert console.send(data) == len(data)
    assert console.send(b"more") == 4

    got = sides.read()
    assert data.startswith(got)
    assert console.dropped == len(data) + 4 - len(got)
    assert console.send(b"again") == 5
    assert sides.read() == b"again"


def test_console_that_nobody_has_is_no_end(sides: Sides) -> None:
    console = ConsoleBackend(sides.link.descriptor)
    sides.parent.close()

    assert console.send(b"hello?") == 6
    assert console.dropped == 6
    console.can_receive()
