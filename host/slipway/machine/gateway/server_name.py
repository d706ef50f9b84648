"""Name of the server that a client of TLS asks for (RFC 8446, section 4; RFC 6066, section 3).

The name can only narrow: whether and where a connection goes was decided before.
"""

from __future__ import annotations

# The port on which the gateway looks for a name.
TLS_PORT = 443
# Bytes of a hello with its records: more than any client sends, with keys of post-quantum sizes.
MAX_HELLO = 16 * 1024
# No client sends more; each byte that arrives has all records read again.
MAX_RECORDS = 32

_RECORD_HEADER = 5
_MAX_RECORD = 1 << 14
# Types of records: those from 20 to 24 are TLS, and only a handshake may be the first.
_FIRST_TYPE = 20
_LAST_TYPE = 24
_HANDSHAKE = 22
_CLIENT_HELLO = 1
# The first byte of all versions of TLS and of SSL 3.
_MAJOR_VERSION = 3
# Version and random bytes at the beginning of a hello.
_FIXED_PART = 34
_EXTENSION_SERVER_NAME = 0
_HOST_NAME = 0


class MalformedHelloError(Exception):
    """Beginning of TLS whose server name cannot be known: the connection has to be refused."""


def find_server_name(sent: bytes) -> str | None:
    """Return the server name in ``sent``, all bytes of a client until now.

    The name is in lower case and without a dot at its end. It is empty for a hello without a name,
    and for bytes that are not TLS. None means that more bytes are needed; the caller keeps all
    bytes until then, which are at most :data:`MAX_HELLO`.

    Raises:
        MalformedHelloError: the bytes begin like TLS, and go on in a form that servers may read in
            different ways, or the hello is too long.
    """
    if not sent:
        return None
    if not _FIRST_TYPE <= sent[0] <= _LAST_TYPE:
        return ""
    if len(sent) < 2:
        return None
    if sent[1] != _MAJOR_VERSION:
        return ""
    hello = _join_records(sent)
    if hello is None:
        if len(sent) >= MAX_HELLO:
            raise MalformedHelloError("the hello is too long")
        return None
    return _read_hello(_Reader(hello))


def _join_records(sent: bytes) -> bytes | None:
    """Return the body of the hello, which may be split over records; None if it is incomplete."""
    message = bytearray()
    at = 0
    for _ in range(MAX_RECORDS):
        if at >= len(sent):
            return None
        header = sent[at : at + _RECORD_HEADER]
        if header[0] != _HANDSHAKE or header[1:2] not in {b"", b"\3"}:
            raise MalformedHelloError("a record is not a handshake")
        if len(header) < _RECORD_HEADER:
            return None
        size = int.from_bytes(header[3:5], "big")
        if not 0 < size <= _MAX_RECORD:
            raise MalformedHelloError("a record has an invalid size")
        message += sent[at + _RECORD_HEADER : at + _RECORD_HEADER + size]
        at += _RECORD_HEADER + size
        if message and message[0] != _CLIENT_HELLO:
            raise MalformedHelloError("the first message is not a hello")
        if len(message) >= 4:
            length = int.from_bytes(message[1:4], "big")
            if length > MAX_HELLO:
                raise MalformedHelloError("the hello is too long")
            if len(message) >= 4 + length:
                return bytes(message[4 : 4 + length])
    raise MalformedHelloError("the hello has too many records")


class _Reader:
    """Reader of fields, each with a length before it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise MalformedHelloError("a field is longer than the hello")
        self._at += size
        return taken

    def read_number(self, size: int) -> int:
        return int.from_bytes(self.read(size), "big")

    def read_field(self, prefix: int) -> bytes:
        """Return the field after its length of ``prefix`` bytes."""
        return self.read(self.read_number(prefix))


def _read_hello(hello: _Reader) -> str:
    hello.read(_FIXED_PART)
    hello.read_field(1)  # session
    hello.read_field(2)  # ciphers
    hello.read_field(1)  # compression
    if hello.is_at_end:
        return ""
    extensions = _Reader(hello.read_field(2))
    if not hello.is_at_end:
        raise MalformedHelloError("bytes follow the extensions")
    names = []
    while not extensions.is_at_end:
        kind = extensions.read_number(2)
        content = extensions.read_field(2)
        if kind == _EXTENSION_SERVER_NAME:
            names.append(_read_server_name(content))
    if len(names) > 1:
        raise MalformedHelloError("the hello has several server names")
    return names[0] if names else ""


def _read_server_name(extension: bytes) -> str:
    outer = _Reader(extension)
    entries = _Reader(outer.read_field(2))
    kind = entries.read_number(1)
    name = entries.read_field(2)
    if kind != _HOST_NAME or not name or not entries.is_at_end or not outer.is_at_end:
        raise MalformedHelloError("the server name has an invalid form")
    # An unusual byte becomes a character that no allowed name has.
    return name.decode("ascii", "replace").lower().removesuffix(".")
