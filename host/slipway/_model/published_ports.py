"""Published ports: addresses of this host whose connections go to a port of the guest."""

from __future__ import annotations

from dataclasses import dataclass

from slipway._model.bounds import MAX_PORT
from slipway._util.errors import InputError
from slipway._util.public import public

LOOPBACK = "127.0.0.1"
UNIX = "unix"
MAX_PUBLISHED = 32
# The agent's own port; only the gateway may connect there.
AGENT_PORT = 1
# Bytes of the path of a Unix socket (unix(7)), without the NUL at its end.
_MAX_PATH = 107
_EXAMPLES = "Examples: 8000, 8080:8000, 0.0.0.0:8080:8000, unix:/tmp/web.sock:8000."


@public
@dataclass(frozen=True, slots=True)
class PublishedPort:
    """Port of the guest, and the address on the host that leads to it.

    For the host ``unix`` the ``path`` is a socket, and ``port`` is 0. Before the machine starts, a
    ``port`` of 0 is one that the kernel will choose.
    """

    guest: int
    host: str = LOOPBACK
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Return the mapping as a user would write it."""
        if self.host == UNIX:
            return f"{UNIX}:{self.path}:{self.guest}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{self.guest}" if self.port else f"{host}:{self.guest}"


def read_published_port(given: str | int) -> PublishedPort:
    """Return the mapping ``[HOST:][PORT:]GUEST`` or ``unix:PATH:GUEST``.

    Raises:
        InputError: the mapping is invalid.
    """
    # Python refuses to write a number of thousands of digits in decimal.
    text = given.strip() if isinstance(given, str) else _write_number(given)
    before, _, last = text.rpartition(":")
    guest = _read_port(text, last)
    if guest == AGENT_PORT:
        raise _refuse(text, f"has the guest's port {AGENT_PORT}, which its agent uses", _EXAMPLES)
    if before.startswith(f"{UNIX}:"):
        return PublishedPort(guest, UNIX, path=_check_path(text, before[len(UNIX) + 1 :]))
    if text == last:
        return PublishedPort(guest)
    host, colon, port = before.rpartition(":")
    if before.startswith("[") and before.endswith("]"):
        return PublishedPort(guest, _check_address(text, before))
    if colon:
        return PublishedPort(guest, _check_address(text, host), _read_port(text, port))
    if _is_number(before):
        return PublishedPort(guest, port=_read_port(text, before))
    return PublishedPort(guest, _check_address(text, before))


def read_published_ports(published: tuple[str | int, ...]) -> tuple[PublishedPort, ...]:
    """Return all mappings of a network.

    Raises:
        InputError: a mapping is invalid, or is the second for an address of the host.
    """
    if len(published) > MAX_PUBLISHED:
        raise InputError(
            f"publish has {len(published)} ports, and at most {MAX_PUBLISHED} are allowed",
            "Publish fewer ports.",
        )
    mappings = tuple(map(read_published_port, published))
    places = [
        (mapping.host, mapping.port, mapping.path)
        for mapping in mappings
        if mapping.port or mapping.path
    ]
    for at, place in enumerate(places):
        if place in places[:at]:
            name = place[2] or f"{place[0]}:{place[1]}"
            raise InputError(f"publish has {name[:80]!r} twice", "Publish each place once.")
    return mappings


def _read_port(text: str, port: str) -> int:
    if not _is_number(port) or not 1 <= int(port) <= MAX_PORT:
        raise _refuse(
            text, f"has the invalid port {port[:20]!r}", f"Ports are 1 to {MAX_PORT}. {_EXAMPLES}"
        )
    return int(port)


def _write_number(number: int) -> str:
    return str(number) if number.bit_length() < 64 else hex(number)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6


def _check_address(text: str, host: str) -> str:
    """Return the address of a host without brackets; a name is refused, as it may have several."""
    from ipaddress import ip_address

    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ip_address(bare)
    except ValueError:
        raise _refuse(
            text,
            f"has the invalid address {host[:60]!r}",
            f"Write an IP address of this host. {_EXAMPLES}",
        ) from None
    if "%" in bare or (address.version == 6) != (bare is not host):
        raise _refuse(
            text,
            f"has the invalid address {host[:60]!r}",
            f"Write an IP address of this host. {_EXAMPLES}",
        )
    return str(address)


def _check_path(text: str, path: str) -> str:
    size = len(path.encode("utf-8", "surrogatepass"))
    if not path or size > _MAX_PATH or not path.isprintable():
        raise _refuse(
            text,
            f"has no path of 1 to {_MAX_PATH} bytes without control characters",
            "Use a short path, such as unix:/tmp/web.sock:8000.",
        )
    return path


def _refuse(text: str, why: str, hint: str) -> InputError:
    return InputError(f"published port {text[:80]!r} {why}", hint)
