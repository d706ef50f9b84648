"""Who is at the other end of a Unix socket, and whether he may be there."""

from __future__ import annotations

import array
import grp
import pwd
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway._model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/asm-generic/socket.h; Python has no name for it.
SO_PEERGROUPS = 59
# struct ucred: pid, uid, gid (unix(7)).
_UCRED = struct.Struct("iII")
# The most that Python's getsockopt asks for: 256 groups.
_GROUPS_BYTES = 1024
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, as it was then: the kernel's word, not the peer's."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Who connected (SO_PEERCRED and SO_PEERGROUPS, unix(7)).

    Raises:
        OSError: the kernel does not say, for example since the socket is closed.
    """
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(told)
    groups = array.array("I")
    # ERANGE: more groups than fit. Without them somebody may be refused, nobody let in.
    with suppress(OSError):
        groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES))
    return Peer(pid, uid, frozenset((gid, *groups)))


@dataclass(frozen=True, slots=True)
class AllowList:
    """The users and groups that may connect; root and ``owner``, the server's user, always may."""

    owner: int
    users: frozenset[int] = field(default=frozenset())
    groups: frozenset[int] = field(default=frozenset())
    everybody: bool = False

    @classmethod
    def of(cls, owner: int, names: Iterable[str]) -> AllowList:
        """The list of ``names``: ``USER``, ``@GROUP`` (each also as a number), or ``*``.

        Raises:
            InputError: there is no such user or group.
        """
        users, groups, everybody = set(), set(), False
        for name in names:
            if name == "*":
                everybody = True
            elif name.startswith("@"):
                groups.add(group_id(name[1:]))
            else:
                users.add(user_id(name))
        return cls(owner, frozenset(users), frozenset(groups), everybody)

    def permits(self, peer: Peer) -> bool:
        """Whether ``peer`` may connect."""
        return (
            self.everybody
            or self.oversees(peer)
            or peer.uid in self.users
            or not self.groups.isdisjoint(peer.groups)
        )

    def oversees(self, peer: Peer) -> bool:
        """Whether ``peer`` may see the runs of all others."""
        return peer.uid in {_ROOT, self.owner}


def user_id(name: str) -> int:
    """The number of a user, by name or as digits.

    Raises:
        InputError: there is none.
    """
    if name.isascii() and name.isdigit():
        return _number(name, "user")
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise InputError(f"there is no user {name!r:.80}", "See: getent passwd") from None


def group_id(name: str) -> int:
    """The number of a group, by name or as digits.

    Raises:
        InputError: there is none.
    """
    if name.isascii() and name.isdigit():
        return _number(name, "group")
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise InputError(f"there is no group {name!r:.80}", "See: getent group") from None


def _number(digits: str, what: str) -> int:
    # The largest means "no change" to chown(2).
    if len(digits) > 10 or int(digits) >= 2**32 - 1:
        raise InputError(f"{digits:.80} is no number of a {what}")
    return int(digits)
