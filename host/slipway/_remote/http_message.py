"""HTTP/1.1 messages of a client (RFC 9112): a request to send, and its answer as it arrives.

No input or output takes place here; clients with and without an event loop share this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._util.errors import InputError
from slipway._util.units import KIB, MIB
from slipway._wire.errors import make_protocol_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._util.errors import UnknownOutcome

# Bytes of an answer's body. The longest is a list of languages.
MAX_ANSWER = MIB
# Bytes of status lines, header fields and trailer fields of one answer together.
MAX_HEAD = 32 * KIB
# Bytes of the line before a chunk: its size and its extensions.
MAX_CHUNK_LINE = 4 * KIB
_CHUNK_DIGITS = 8
_LENGTH_DIGITS = 18
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
# Characters of a field name (RFC 9110, section 5.6.2).
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BEFORE_FINAL = range(100, 200)
_SWITCH = 101
_WITHOUT_BODY = (204, 304)


def encode_request(
    method: str, target: str, body: bytes | None, headers: Mapping[str, str]
) -> bytes:
    """Return a request; the server closes the connection after its answer.

    ``body`` is JSON, or None.

    Raises:
        InputError: the target or a header field has a character that HTTP does not allow there.
    """
    fields = {
        "Host": "slipway",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "close",
        **headers,
    }
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    for text in (method, target):
        _check_text(text, "!")
    for name, value in fields.items():
        _check_text(name, "!")
        _check_text(value, " ")
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("ascii") + (body or b"")


def _check_text(text: str, first: str) -> None:
    """Check that ``text`` has only printable ASCII characters from ``first`` on."""
    if not text or not first <= min(text) <= max(text) <= "~":
        raise InputError(f"{text!r:.80} cannot be sent in a request", "Use printable ASCII.")


class AnswerParser:
    """Parser of one answer; ``feed()`` takes the bytes as they arrive.

    All sizes are bounded, and invalid answers are refused: line ends other than CR LF, folded
    fields, two lengths, encodings. ``status`` is 0 until the head is complete.
    """

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.is_complete = False
        self._data = bytearray()
        self._head_room = MAX_HEAD
        # Bytes that the body, or the current chunk, still has; None for a body up to the end of
        # the connection.
        self._left: int | None = 0
        self._read_next = self._read_head

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the connection; an empty ``data`` is the end of it.

        Bytes after the answer are ignored.

        Raises:
            UnknownOutcome: the answer is invalid or too long.
        """
        if not data:
            self.is_complete = self.is_complete or (self.status > 0 and self._left is None)
            return
        self._data += data
        while not self.is_complete and self._read_next():
            pass

    def _read_head(self) -> bool:
        """Read status line and header fields; return False if their end has not arrived."""
        block = self._take_until(b"\r\n\r\n", self._head_room, "its header fields")
        if block is None:
            return False
        self._head_room -= len(block)
        first, *lines = block.split(b"\r\n")
        status = _parse_status(first)
        fields = _parse_fields(lines)
        if status in _BEFORE_FINAL:
            if status == _SWITCH:
                raise _make_error("it switches to another protocol")
            return True
        self.status = status
        self._begin_body(fields)
        return True

    def _begin_body(self, fields: Mapping[bytes, bytes]) -> None:
        """Choose how the body ends (RFC 9112, section 6.3)."""
        coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _make_error("it is compressed")
        if coding is not None and length is not None:
            raise _make_error("it has two lengths")
        if self.status in _WITHOUT_BODY:
            self.is_complete = True
        elif coding is not None:
            if coding.lower() != b"chunked":
                raise _make_error(f"unknown transfer coding {coding[:40]!r}")
            self._read_next = self._read_chunk_size
        else:
            self._left = None if length is None else _parse_length(length)
            self._check_room(self._left or 0)
            self._read_next = self._read_body

    def _read_body(self) -> bool:
        data = self._take_up_to(self._left)
        self._check_room(len(data))
        self.body += data
        if self._left is not None:
            self._left -= len(data)
            self.is_complete = self._left == 0
        return False

    def _read_chunk_size(self) -> bool:
        line = self._take_until(b"\r\n", MAX_CHUNK_LINE, "the size of a chunk")
        if line is None:
            return False
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not 0 < len(digits) <= _CHUNK_DIGITS or not _HEX_DIGITS.issuperset(digits):
            raise _make_error(f"invalid size of a chunk {digits[:40]!r}")
        self._left = int(digits, 16)
        self._check_room(self._left)
        self._read_next = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        data = self._take_up_to(self._left)
        self.body += data
        self._left = (self._left or 0) - len(data)
        if self._left or len(self._data) < 2:
            return False
        if self._take_up_to(2) != b"\r\n":
            raise _make_error("a chunk is longer than its size")
        self._read_next = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        """Skip the fields after the last chunk, up to an empty line."""
        line = self._take_until(b"\r\n", self._head_room, "its trailer fields")
        if line is None:
            return False
        self._head_room -= len(line) + 2
        self.is_complete = not line
        return True

    def _take_until(self, end: bytes, room: int, what: str) -> bytes | None:
        """Return the bytes before ``end`` and drop both; None if ``end`` has not arrived.

        Raises:
            UnknownOutcome: the first ``room`` bytes have no ``end``.
        """
        at = self._data.find(end, 0, max(0, room) + len(end))
        if at >= 0:
            taken = bytes(self._data[:at])
            del self._data[: at + len(end)]
            return taken
        if len(self._data) >= room + len(end):
            raise _make_error(f"{what} without an end")
        return None

    def _take_up_to(self, size: int | None) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def _check_room(self, size: int) -> None:
        if len(self.body) + size > MAX_ANSWER:
            raise _make_error(f"it has more than {MAX_ANSWER} bytes")


def _parse_status(line: bytes) -> int:
    version, _, rest = line.partition(b" ")
    digits = rest[:3]
    is_valid = len(digits) == 3 and digits.isdigit() and rest[3:4] in (b"", b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not is_valid:
        raise _make_error(f"{line[:40]!r} is not a status line")
    status = int(digits)
    if not 100 <= status <= 599:
        raise _make_error(f"unknown status {status}")
    return status


def _parse_fields(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return header fields by their names in lower case.

    Raises:
        UnknownOutcome: a line is not a field, or the length of the body is given twice.
    """
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not name or not colon or not _TOKEN.issuperset(name):
            raise _make_error(f"{line[:40]!r} is not a header field")
        key = name.lower()
        if key in fields and key in (b"content-length", b"transfer-encoding"):
            raise _make_error("it has two lengths")
        fields[key] = value.strip(b" \t")
        if b"\r" in value or b"\n" in value:
            raise _make_error(f"{line[:40]!r} has a line end in it")
    return fields


def _parse_length(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _LENGTH_DIGITS:
        raise _make_error(f"invalid length {digits[:40]!r}")
    return int(digits)


def _make_error(what: str) -> UnknownOutcome:
    return make_protocol_error(f"invalid HTTP answer: {what}")
