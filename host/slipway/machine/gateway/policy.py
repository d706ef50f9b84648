"""Policy of a gateway: the verdict on each name, address and port that a guest asks for.

The rules come in canonical form, as ``slipway._model.network_rules`` writes them: one line each,
with names in lower case and in ASCII.
"""

from __future__ import annotations

from slipway.machine.gateway.addresses import GATEWAY
from slipway.machine.gateway.public_addresses import (
    CLOSED_BLOCKS,
    SITE_BLOCKS,
    contain,
    is_public,
    pack_address,
    read_block,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Reasons of a refusal, for results and metrics.
NOT_ALLOWED = "not-allowed"
PORT_NOT_ALLOWED = "port-not-allowed"
NOT_PUBLIC = "not-public"
OWN_ADDRESS = "own-address"
WRONG_SERVER_NAME = "wrong-server-name"

# The port of mail servers: allowed only by rules that name it.
MAIL_PORT = 25
ANY_PORT = 0
# The guest's name for the gateway's own address, where there are ports of the host.
HOST = "host"
# Characters of a name, without the dot at its end (RFC 1035).
MAX_NAME = 253
MAX_LABEL = 63

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_DIGITS = frozenset("0123456789")


class Policy:
    """Rules of one guest. Each verdict is the reason of a refusal, or empty if allowed.

    A connection to a name passes :meth:`judge_name` before the look-up and :meth:`judge_result`
    for each address that the look-up returns; one to an address passes :meth:`judge_address`.
    """

    def __init__(self, rules: str) -> None:
        """Read ``rules``, one line each.

        Raises:
            ValueError: a rule is not in canonical form.
        """
        self._is_open = False
        self._names: dict[str, set[int]] = {}
        self._suffixes: dict[str, set[int]] = {}
        self._blocks: list[tuple[int, int, int]] = []
        self._host_ports: set[int] = set()
        for line in rules.splitlines():
            self._add(line)

    def _add(self, line: str) -> None:
        name, _, digits = line.partition(":")
        port = int(digits or ANY_PORT)
        if line == "open":
            self._is_open = True
        elif name == HOST and port:
            self._host_ports.add(port)
        elif "/" in name:
            try:
                self._blocks.append((*read_block(name), port))
            except OSError:
                raise ValueError(f"the rule {line!r} has an invalid block") from None
        elif is_name(name.removeprefix("*.")):
            ports = self._suffixes if name.startswith("*.") else self._names
            ports.setdefault(name.removeprefix("*."), set()).add(port)
        else:
            raise ValueError(f"the rule {line!r} is unknown")

    @property
    def has_host_ports(self) -> bool:
        """Return True if the guest may connect to a port of the host."""
        return bool(self._host_ports)

    def allows_some_port(self, name: str) -> bool:
        """Return True if a guest may look up ``name``, in lower case and without a dot at its end.

        Names that C libraries would read as addresses are never allowed.
        """
        return is_name(name) and (self._is_open or any(self._find_ports(name)))

    def judge_name(self, name: str, port: int) -> str:
        """Return the verdict on a connection to ``name``, before the look-up."""
        if not self.allows_some_port(name):
            return NOT_ALLOWED
        allowed = [ports for ports in self._find_ports(name) if ports]
        if any(_includes(ports, port) for ports in allowed):
            return ""
        return "" if self._is_open and port != MAIL_PORT else PORT_NOT_ALLOWED

    def judge_result(self, address: str) -> str:
        """Return the verdict on an address that the look-up of a name has returned.

        Raises:
            OSError: the text is not an address.
        """
        if "%" in address:  # the address of a link, with its zone
            return NOT_PUBLIC
        return "" if is_public(pack_address(address)) else NOT_PUBLIC

    def judge_address(self, address: bytes, port: int) -> str:
        """Return the verdict on a connection to an IPv4 address without a name.

        The gateway's own address stands for the 127.0.0.1 of the host.
        """
        if address == GATEWAY:
            if port in self._host_ports:
                return ""
            return PORT_NOT_ALLOWED if self._host_ports else NOT_ALLOWED
        number = int.from_bytes(address, "big")
        public = is_public(address)
        ports = {
            port
            for first, last, port in self._blocks
            if first <= number <= last and (public or _is_in_one_site(first, last))
        }
        if _includes(ports, port) or (self._is_open and public and port != MAIL_PORT):
            return ""
        if ports or (self._is_open and public):
            return PORT_NOT_ALLOWED
        # A private address needs a rule of its own; that of a closed block would be refused.
        return NOT_PUBLIC if contain(CLOSED_BLOCKS, number) else NOT_ALLOWED

    def _find_ports(self, name: str) -> Iterable[set[int]]:
        """Yield the ports of each rule for ``name``."""
        yield self._names.get(name, set())
        while "." in name:
            name = name.partition(".")[2]
            yield self._suffixes.get(name, set())


def is_name(name: str) -> bool:
    """Return True for a name of two or more parts whose last part is not a number."""
    labels = name.split(".")
    if len(labels) < 2 or len(name) > MAX_NAME:
        return False
    last = labels[-1]
    if last.startswith("0x") or _DIGITS.issuperset(last):
        return False
    return all(
        0 < len(label) <= MAX_LABEL
        and _LETTERS.issuperset(label)
        and label[0] != "-"
        and label[-1] != "-"
        for label in labels
    )


def _includes(ports: Iterable[int], port: int) -> bool:
    return any(one == port or (one == ANY_PORT and port != MAIL_PORT) for one in ports)


def _is_in_one_site(first: int, last: int) -> bool:
    """Return True for a block inside a private one: it was named on purpose.

    A larger block, such as 0.0.0.0/0, stands for its public addresses only.
    """
    return any(start <= first and last <= end for start, end in SITE_BLOCKS)
