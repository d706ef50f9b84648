"""Descriptors over a socket, without the socket module's own functions for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway.vmm.process import control, descriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = control.create_pair()
    with ours, theirs:
        yield ours, theirs


def test_descriptors_come_with_their_message(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reader, writer = os.pipe()

    descriptors.send(ours, b"two of them", [reader, writer])
    message, received = descriptors.receive(theirs, 100, range(2, 3))

    assert message == b"two of them"
    os.write(received[1], b"through")
    assert os.read(reader, 100) == b"through"
    assert not any(os.get_inheritable(descriptor) for descriptor in received)
    for descriptor in (reader, writer, *received):
        os.close(descriptor)


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_another_number_of_descriptors_is_none(
    pair: tuple[socket.socket, socket.socket], count: int
) -> None:
    ours, theirs = pair
    before = psutil.Process().num_fds()

    descriptors.send(ours, b"x", [0] * count)

    assert descriptors.receive(theirs, 100, range(2, 3)) == (b"x", [])
    assert psutil.Process().num_fds() == before


def test_end_is_an_empty_message(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.close()

    assert descriptors.receive(theirs, 100, range(2, 3)) == (b"", [])
