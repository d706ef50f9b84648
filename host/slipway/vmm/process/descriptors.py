"""Descriptors over a Unix socket (SCM_RIGHTS), with the C module below socket.

The functions of the module socket for this would cost its import.
"""

from __future__ import annotations

import _socket
import os
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_INT_BYTES = array("i").itemsize


def receive(channel: _socket.socket, size: int, counts: range) -> tuple[bytes, list[int]]:
    """Receive a message of at most ``size`` bytes with descriptors, whose number is in ``counts``.

    Descriptors are closed if their number is another.

    Raises:
        OSError: the other end is closed.
    """
    room = _socket.CMSG_SPACE((counts.stop - 1) * _INT_BYTES)
    message, ancillary, flags, _ = channel.recvmsg(size, room, _socket.MSG_CMSG_CLOEXEC)
    descriptors = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) // _INT_BYTES * _INT_BYTES])
    if len(descriptors) in counts and not flags & _socket.MSG_CTRUNC:
        return message, list(descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return message, []


def send(channel: _socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Send a message and copies of ``descriptors``.

    Raises:
        OSError: the other end is closed.
    """
    rights = array("i", descriptors).tobytes()
    channel.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
