"""Bounds on the connections of one guest."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway.machine.gateway.splice import Splice

# Upper bound on the host memory of a gateway in bytes: the process with all its names and
# connections (54 MiB measured under attack), and its link.
MAX_MEMORY = 64 << 20

MAX_CONNECTIONS = 256
# Callers of published ports leave the guest places for connections of its own.
MAX_CALLERS = 192
# Of the guest's own connections, and of those of callers: a server of the guest that is slow to
# accept its callers may need connections of its own to get on.
MAX_HALF_OPEN = 64
# New connections a second, and at once.
NEW_RATE = 100.0
NEW_BURST = 200.0
# With more connections than these, the sockets of further ones have small buffers in the kernel:
# the host has memory of that kind for all its programs together (tcp(7), tcp_mem).
MAX_LARGE = 16
SMALL_BUFFER = 64 << 10

# Reason of refusals that the policy does not know.
TOO_MANY = "too-many-connections"


def has_place(splices: Iterable[Splice], *, callers: bool) -> bool:
    """Return True if one more connection of the guest, or of a caller, may be half-open."""
    half_open = sum(one.is_caller == callers and one.end.is_half_open for one in splices)
    return half_open < MAX_HALF_OPEN


def has_place_for_caller(splices: Iterable[Splice]) -> bool:
    """Return True if the callers of published ports may be one more."""
    return sum(one.is_caller for one in splices) < MAX_CALLERS and has_place(splices, callers=True)
