"""Process at the other end of a Unix socket, and its permission to connect."""

from __future__ import annotations

import array
import grp
import pwd
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/asm-generic/socket.h; Python has no name for this option.
SO_PEERGROUPS = 59
# struct ucred: pid, uid, gid (unix(7)).
_UCRED = struct.Struct("iII")
# The most that Python's getsockopt reads: 256 groups.
_GROUPS_BYTES = 1024
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """Process, user and groups at the time of connecting, as reported by the kernel."""

    pid: int
    uid: int
    groups: frozenset[int]


def read_peer(connection: socket.socket) -> Peer:
    """Return the process that has connected (SO_PEERCRED and SO_PEERGROUPS, unix(7)).

    Raises:
        OSError: the kernel has no answer, for example because the socket is closed.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(credentials)
    groups = array.array("I")
    # ERANGE: more than 256 groups. Without them a user may be refused, but never admitted.
    with suppress(OSError):
        groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES))
    return Peer(pid, uid, frozenset((gid, *groups)))


@dataclass(frozen=True, slots=True)
class AllowList:
    """Users and groups that may connect; root and ``owner``, the server's user, always may."""

    owner: int
    users: frozenset[int] = field(default=frozenset())
    groups: frozenset[int] = field(default=frozenset())
    everybody: bool = False

    @classmethod
    def parse(cls, owner: int, names: Iterable[str]) -> AllowList:
        """Return the list of ``names``: ``USER``, ``@GROUP`` (each also as a number), or ``*``.

        Raises:
            InputError: unknown user or group.
        """
        users, groups, everybody = set(), set(), False
        for name in names:
            if name == "*":
                everybody = True
            elif name.startswith("@"):
                groups.add(find_group_id(name[1:]))
            else:
                users.add(find_user_id(name))
        return cls(owner, frozenset(users), frozenset(groups), everybody)

    def is_allowed(self, peer: Peer) -> bool:
        """Tell if ``peer`` may connect."""
        return (
            self.everybody
            or self.is_overseer(peer)
            or peer.uid in self.users
            or not self.groups.isdisjoint(peer.groups)
        )

    def may_see(self, peer: Peer, owner: int) -> bool:
        """Tell if ``peer`` may see runs and sessions of the user with the id ``owner``."""
        return peer.uid == owner or self.is_overseer(peer)

    def is_overseer(self, peer: Peer) -> bool:
        """Tell if ``peer`` may see runs and sessions of all users."""
        return peer.uid in {_ROOT, self.owner}


def find_user_id(name: str) -> int:
    """Return the id of a user, from a name or digits.

    Raises:
        InputError: unknown user.
    """
    if name.isascii() and name.isdigit():
        return _parse_id(name, "user")
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise InputError(f"unknown user {name!r:.80}", "See: getent passwd") from None


def find_group_id(name: str) -> int:
    """Return the id of a group, from a name or digits.

    Raises:
        InputError: unknown group.
    """
    if name.isascii() and name.isdigit():
        return _parse_id(name, "group")
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise InputError(f"unknown group {name!r:.80}", "See: getent group") from None


def _parse_id(digits: str, kind: str) -> int:
    # The largest id means "no change" to chown(2).
    if len(digits) > 10 or int(digits) >= 2**32 - 1:
        raise InputError(f"invalid id of a {kind}: {digits:.80}")
    return int(digits)
