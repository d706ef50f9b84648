"""The gateway's link to a machine: it keeps what is not taken, and waits for its rates."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from slipway.machine.gateway.link import BATCH, FRAME_BURST, TURN_FRAMES, Link, TokenBucket
from slipway.machine.gateway.poller import READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, machine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, machine:
        ours.setblocking(False)
        machine.setblocking(False)
        yield ours, machine


def receive(link: Link) -> list[bytes]:
    frames: list[bytes] = []
    link.receive(frames.append)
    return frames


def test_frame_is_one_packet_each_way(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0)
    largest = bytes(range(250)) * 262
    machine.send(b"a")
    machine.send(largest)

    link.send([b"head", memoryview(b"body")])

    assert receive(link) == [b"a", largest]
    assert machine.recv(100) == b"headbody"


def test_few_frames_are_read_at_a_time(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0)
    for _ in range(BATCH + 1):
        machine.send(b"x")

    assert [len(receive(link)), len(receive(link))] == [BATCH, 1]


def test_frames_wait_in_order_while_the_machine_takes_none(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0)
    sent = [number.to_bytes(2, "big") * 1000 for number in range(300)]

    for frame in sent:
        link.send([frame])
    blocked = link.is_blocked, link.events
    arrived: list[bytes] = []
    while len(arrived) < len(sent):
        arrived.append(machine.recv(4096))
        link.flush()

    assert blocked == (True, WRITE)
    assert arrived == sent
    assert (link.is_blocked, link.events) == (False, READ)


def test_nothing_is_read_while_a_frame_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0)
    machine.send(b"request")
    while not link.is_blocked:
        link.send([bytes(1000)])

    assert receive(link) == []


@pytest.mark.parametrize("does", ["receive", "send", "flush"])
def test_end_of_the_machine_ends_the_link(
    pair: tuple[socket.socket, socket.socket], does: str
) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0)
    if does == "flush":
        while not link.is_blocked:
            link.send([bytes(1000)])
    machine.close()

    if does == "receive":
        receive(link)
    elif does == "send":
        link.send([b"x"])
    else:
        link.flush()

    assert link.ended


def test_empty_packet_of_the_guest_is_no_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0)
    machine.send(b"")
    machine.send(b"frame")

    assert receive(link) == [b"", b"frame"]
    assert not link.ended


def test_turn_of_the_loop_has_an_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0)

    sent = 0
    while not link.is_blocked:
        link.send([b"small"])
        machine.recv(100)
        sent += 1
    link.update_pause(0.0)

    assert sent == TURN_FRAMES
    assert (link.is_blocked, link.events) == (False, READ)


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(100.0, 50.0, 10.0)

    bucket.take(50.0)

    assert bucket.compute_wait(10.0) > 0
    assert bucket.compute_wait(10.5) == 0.0
    bucket.take(70.0)
    assert bucket.compute_wait(10.5) == pytest.approx(0.2, abs=0.01)


def test_bucket_saves_no_more_than_its_burst() -> None:
    bucket = TokenBucket(100.0, 50.0, 0.0)

    bucket.compute_wait(1000.0)
    bucket.take(51.0)

    assert bucket.compute_wait(1000.0) > 0


def test_rate_of_bytes_pauses_both_directions(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0, byte_rate=1_000_000)
    for _ in range(3):
        machine.send(bytes(65_534))
        receive(link)
    before = link.is_blocked
    link.send([bytes(65_534)])

    link.update_pause(0.0)

    assert (before, link.is_blocked, link.events) == (False, True, 0)
    link.update_pause(1.0)
    assert (link.is_blocked, link.events) == (False, READ)


def test_rate_of_frames_counts_small_ones(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, machine = pair
    link = Link(ours.fileno(), 0.0)
    for _ in range(FRAME_BURST):
        machine.send(b"x")
        receive(link)

    link.update_pause(0.0)

    assert link.pause > 0
