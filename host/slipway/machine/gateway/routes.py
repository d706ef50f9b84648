"""Routes of the host, which tell its own addresses from others (rtnetlink(7)).

An address of the internet may be the host's own, and a server that listens on all addresses would
be reached there. The kernel's answer takes every interface, table and rule into account.
"""

from __future__ import annotations

import _socket
import errno
import struct
from itertools import count

# include/uapi/linux/netlink.h, rtnetlink.h
_NETLINK_ROUTE = 0
_REQUEST = 1
_GET_ROUTE, _NEW_ROUTE, _ERROR = 26, 24, 2
_DESTINATION = 1  # RTA_DST
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, bits, ..., type, flags
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_TYPE_AT = _HEADER.size + 7
_UNICAST = 1
# Error numbers of the kernel's answers for addresses without a route.
_UNREACHABLE = frozenset({-errno.ENETUNREACH, -errno.EHOSTUNREACH})
_ERROR_NUMBER = struct.Struct("=i")  # of struct nlmsgerr, behind the header
_NEW = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK


class Routes:
    """Question to the kernel, over one socket."""

    def __init__(self) -> None:
        """Open the socket.

        Raises:
            OSError: the kernel refuses.
        """
        self._socket = _socket.socket(_socket.AF_NETLINK, _NEW, _NETLINK_ROUTE)
        self._numbers = count(1)

    def is_own(self, packed: bytes) -> bool:
        """Return True if packets to an address would stay on the host.

        The address is in network byte order. Broadcasts and multicasts count as own, and all
        addresses without an answer of the kernel; those without a route do not: connect() fails.
        """
        family = _socket.AF_INET if len(packed) == 4 else _socket.AF_INET6
        route = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
        attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
        number = next(self._numbers) & 0xFFFFFFFF
        length = _HEADER.size + len(route) + len(attribute)
        header = _HEADER.pack(length, _GET_ROUTE, _REQUEST, number, 0)
        try:
            self._socket.sendto(header + route + attribute, (0, 0))
            answer = self._socket.recv(4096)  # it is there when sendto returns
        except OSError:
            return True
        if len(answer) <= _TYPE_AT:
            return True
        _, kind, _, answered, _ = _HEADER.unpack_from(answer)
        if answered != number:
            return True
        if kind == _ERROR:
            return _ERROR_NUMBER.unpack_from(answer, _HEADER.size)[0] not in _UNREACHABLE
        return kind != _NEW_ROUTE or answer[_TYPE_AT] != _UNICAST
