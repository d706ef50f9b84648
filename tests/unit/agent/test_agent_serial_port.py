"""Serial port of the agent: reads in pauses while bytes keep coming."""

from __future__ import annotations

import os
import pty
import tty
from typing import TYPE_CHECKING

import pytest

from slipway_agent.loop import READABLE, WRITABLE, Loop
from slipway_agent.port import FULL_READ, SerialPort

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = bytes(range(8))


class Line:
    """A line of a terminal, with the reads of an agent's loop at its other end."""

    def __init__(self) -> None:
        self.far, near = pty.openpty()
        tty.setraw(near)
        self.port = SerialPort(near)
        self.loop = Loop(lambda children: None)
        self.reads: list[bytes] = []
        self.calls = 0
        self.port.watch(self.loop, READABLE, self.read)

    def read(self, _events: int) -> None:
        """Read as the agent does, until the port is empty."""
        self.calls += 1
        while data := self.port.read():
            self.reads.append(data)

    def write(self, data: bytes) -> None:
        os.write(self.far, data)

    def close(self) -> None:
        os.close(self.far)
        os.close(self.port.fd)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


def test_first_bytes_are_read_at_once_and_the_next_together(line: Line) -> None:
    line.write(PIECE)
    line.loop.run_once()
    for _ in range(50):
        line.write(PIECE)
    line.loop.run_once()

    assert line.reads == [PIECE, PIECE * 50]


def test_line_that_falls_silent_is_watched_again(line: Line) -> None:
    line.write(PIECE)
    line.loop.run_once()
    line.loop.run_once()
    assert line.calls == 2

    line.write(b"later")
    line.loop.run_once()

    assert line.reads == [PIECE, b"later"]


def test_full_line_is_read_without_a_pause(line: Line) -> None:
    data = PIECE * (FULL_READ // 4)
    line.write(data[:FULL_READ])
    line.loop.run_once()
    line.write(data[FULL_READ:])
    line.loop.run_once()

    assert b"".join(line.reads) == data
    assert line.calls == 2


def test_line_can_be_written_in_a_pause(line: Line) -> None:
    line.write(PIECE)
    line.loop.run_once()

    line.port.watch(line.loop, READABLE | WRITABLE, line.read)
    line.write(PIECE)
    line.loop.run_once()

    assert line.reads == [PIECE]  # called to write, and the pause goes on
    line.port.watch(line.loop, READABLE, line.read)
    line.loop.run_once()
    assert line.reads == [PIECE, PIECE]
