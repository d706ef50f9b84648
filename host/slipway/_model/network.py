"""Network of a run: allowed destinations, published ports, limits."""

# Not "from __future__ import annotations": the types of fields are read at each start.
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from slipway._model.values import Bounds, check_value, read_field_types
from slipway._util.errors import InputError
from slipway._util.public import public
from slipway._util.units import GIB, KIB

# Rules and ports are imported when a network is made: most runs have none.
if TYPE_CHECKING:
    from slipway._model.network_rules import Rule
    from slipway._model.published_ports import PublishedPort

MAX_RULES = 200
# More than any run of an hour can transfer.
MAX_BYTES = 1024 * GIB
# A rate below this lets no name be looked up in time.
MIN_RATE = KIB

Total = Annotated[int, Bounds(0, MAX_BYTES, above=True, unit="bytes")]
Rate = Annotated[int, Bounds(MIN_RATE, MAX_BYTES, unit="bytes")]


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Network of a run: a guest connects to what ``allow`` names, and to nothing else.

    ``allow`` has rules: ``"open"`` for all public destinations, a preset (``"pypi"``), a name, a
    name after ``"*."``, each with or without ``":port"``, an IPv4 block, or ``"host:8080"`` for a
    port of this host's 127.0.0.1. ``publish`` has ports of the guest that this host listens for:
    ``8000``, ``"8080:8000"``, ``"0.0.0.0:8080:8000"`` or ``"unix:/tmp/web.sock:8000"``. ``limit``
    is the number of bytes in both directions, and ``rate`` that of each second; both need a rule or
    a port.

    Raises:
        InputError: a rule or a port is invalid, or a number is out of bounds or alone.
    """

    allow: tuple[str, ...] = ()
    publish: tuple[str | int, ...] = ()
    limit: Total | None = None
    rate: Rate | None = None

    def __post_init__(self) -> None:
        for name, kind in read_field_types(Network).items():
            value = check_value(f"{name} of a network", kind, getattr(self, name))
            object.__setattr__(self, name, value)
        # A long list is refused before it is read, for the list of a client of the server.
        count = len(self.allow)
        if count > MAX_RULES or (count := len(self.rules)) > MAX_RULES:
            raise InputError(
                f"allow of a network has {count} rules, and at most {MAX_RULES} are allowed",
                "Allow all names below one: *.example.com",
            )
        self._read_ports()
        numbers = [name for name in ("limit", "rate") if getattr(self, name) is not None]
        if numbers and not self.allow and not self.publish:
            raise InputError(
                f"{numbers[0]} of a network needs a rule or a published port",
                f"Add allow or publish, or leave out {numbers[0]}.",
            )

    @property
    def rules(self) -> "tuple[Rule, ...]":
        """Rules in canonical form, each once; presets are replaced by their names."""
        from slipway._model.network_rules import read_rules

        return tuple(dict.fromkeys(rule for text in self.allow for rule in read_rules(text)))

    @property
    def published_ports(self) -> "tuple[PublishedPort, ...]":
        """Published ports, in the order of ``publish``."""
        return self._read_ports()

    def _read_ports(self) -> "tuple[PublishedPort, ...]":
        from slipway._model.published_ports import read_published_ports

        return read_published_ports(self.publish)

    def find_excess(self, ceiling: "Network | None") -> str | None:
        """Return the first of ``allow`` that ``ceiling`` does not allow, or None if all are inside.

        A rule has to lie inside one rule of the ceiling. A ceiling of None allows nothing.
        """
        from slipway._model.network_rules import read_rules

        allowed = ceiling.rules if ceiling else ()
        for text in self.allow:
            for rule in read_rules(text):
                if not any(other.covers(rule) for other in allowed):
                    return text
        return None

    def encode_rules(self) -> str:
        """Return the rules for the gateway: one line each, in canonical form."""
        return "\n".join(map(str, self.rules))

    def record(self) -> dict[str, Any]:
        """Return the network for JSON, without the parts that are left out."""
        record = {
            "allow": list(self.allow),
            "publish": list(self.publish),
            "limit": self.limit,
            "rate": self.rate,
        }
        return {name: value for name, value in record.items() if value}
