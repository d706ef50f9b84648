"""Table of names and the virtual addresses that stand for them in one guest."""

from __future__ import annotations

from slipway.machine.gateway.addresses import FIRST_NAME, LAST_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAMES = 65_000
# Characters of all names together, so that long names do not fill the memory of the host.
MAX_CHARACTERS = 4 * 1024 * 1024

_FIRST = int.from_bytes(FIRST_NAME, "big")
_LAST = int.from_bytes(LAST_NAME, "big")


class NameTable:
    """Names in the order of their first look-up; each has the next address of 198.18.0.0/15.

    A name keeps its address, so that a guest may keep it for as long as it likes.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Begin with ``names``, the :attr:`names` of the gateway whose guest was forked."""
        self._names: list[str] = []
        self._addresses: dict[str, bytes] = {}
        self._characters = 0
        for name in names:
            self.assign_address(name)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of their addresses."""
        return tuple(self._names)

    def assign_address(self, name: str) -> bytes | None:
        """Return the address of ``name``, a new one for a new name; None if the table is full."""
        known = self._addresses.get(name)
        if known is not None:
            return known
        number = _FIRST + len(self._names)
        if (
            len(self._names) >= MAX_NAMES
            or number > _LAST
            or self._characters + len(name) > MAX_CHARACTERS
        ):
            return None
        address = number.to_bytes(4, "big")
        self._addresses[name] = address
        self._names.append(name)
        self._characters += len(name)
        return address

    def find_name(self, address: bytes) -> str | None:
        """Return the name that an IPv4 address stands for, or None."""
        index = int.from_bytes(address, "big") - _FIRST
        return self._names[index] if 0 <= index < len(self._names) else None
