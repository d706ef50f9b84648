"""Use of the network by a guest, as its gateway has counted it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from slipway._util.public import public

# Different destinations that a result lists.
MAX_DENIED = 32


@public
@dataclass(frozen=True, slots=True)
class DeniedDestination:
    """Destination that the rules or the limit did not allow, and the number of connections.

    ``destination`` is a name or an address, ``host``, or ``guest`` for a published port. ``port``
    is 0 for a name that was looked up only.
    """

    destination: str
    port: int
    count: int
    reason: str

    def __str__(self) -> str:
        """Return destination, port and reason for people."""
        port = f":{self.port}" if self.port else ""
        return f"{self.destination}{port} ({self.reason})"


@public
@dataclass(frozen=True, slots=True)
class NetworkUse:
    """Use of the network by a run.

    ``denials`` counts all denied requests, and the connections that were cut at the limit of bytes.
    ``denied`` has the first 32 destinations. ``failed``: the gateway ended before the machine,
    which went on without a network.
    """

    connections: int = 0
    bytes_to_guest: int = 0
    bytes_from_guest: int = 0
    denials: int = 0
    denied: tuple[DeniedDestination, ...] = ()
    failed: bool = False

    def subtract(self, earlier: NetworkUse) -> NetworkUse:
        """Return the use since ``earlier``, an earlier use of the same machine."""
        before = {(each.destination, each.port, each.reason): each.count for each in earlier.denied}
        since = (
            replace(
                each, count=each.count - before.get((each.destination, each.port, each.reason), 0)
            )
            for each in self.denied
        )
        return replace(
            self,
            # A gateway that a guest has taken over may count backwards.
            connections=max(0, self.connections - earlier.connections),
            bytes_to_guest=max(0, self.bytes_to_guest - earlier.bytes_to_guest),
            bytes_from_guest=max(0, self.bytes_from_guest - earlier.bytes_from_guest),
            denials=max(0, self.denials - earlier.denials),
            denied=tuple(each for each in since if each.count > 0),
        )

    def record(self) -> dict[str, Any]:
        """Return the use for JSON."""
        return {**asdict(self), "denied": [asdict(each) for each in self.denied]}
