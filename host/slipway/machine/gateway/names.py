"""Server of names for one guest: an answer to each question, without a question to anybody.

Messages are those of RFC 1035, with EDNS (RFC 6891). An answer fits into 512 bytes, so that no
guest needs TCP for one.
"""

from __future__ import annotations

from slipway.machine.gateway.addresses import GATEWAY
from slipway.machine.gateway.policy import HOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.machine.gateway.name_table import NameTable
    from slipway.machine.gateway.policy import Policy

# Bytes of the longest message that is read, and of a header.
MAX_QUERY = 4096
_HEADER = 12
# Bytes of a name on the wire, and of its parts (RFC 1035, section 3.1).
_MAX_WIRE_NAME = 255
_MAX_LABEL = 63
# Seconds for which a guest may keep an answer; addresses stay valid as long as the guest lives.
_SECONDS = 60

# Answer codes (RFC 1035, section 4.1.1; BADVERS of RFC 6891 has more bits).
NO_ERROR = 0
FORMAT_ERROR = 1
SERVER_FAILURE = 2
NAME_ERROR = 3
NOT_IMPLEMENTED = 4
BAD_VERSION = 16

# Bits of the third and fourth byte of a header.
_RESPONSE = 0x80
_OPCODE = 0x78
_RECURSION_DESIRED = 0x01
_RECURSION_AVAILABLE = 0x80

TYPE_A = 1
TYPE_AAAA = 28
TYPE_ANY = 255
CLASS_INTERNET = 1
_CLASS_ANY = 255
_TYPE_OPT = 41
# Bytes of an OPT record without options: root, type, size, flags, length.
_OPT = 11
_UDP_SIZE = 1232


class _MalformedQueryError(Exception):
    """Question that has no valid form."""


class Answer:
    """Answer to one message; ``denied`` is the name that the policy does not allow, or empty."""

    __slots__ = ("denied", "message")

    def __init__(self, message: bytes, denied: str = "") -> None:
        self.message = message
        self.denied = denied


class NameServer:
    """Server of names: allowed names have virtual addresses, and others do not exist.

    Nothing is looked up before the guest connects, so that no name leaves the host by a question.
    """

    def __init__(self, policy: Policy, table: NameTable) -> None:
        self._policy = policy
        self._table = table

    def answer(self, query: bytes) -> Answer | None:
        """Return the answer to a UDP message, or None for one that deserves none."""
        if not _HEADER <= len(query) <= MAX_QUERY or query[2] & _RESPONSE:
            return None
        if query[2] & _OPCODE:
            return Answer(_build_header(query, NOT_IMPLEMENTED))
        try:
            end, name = _read_question(query)
        except _MalformedQueryError:
            return Answer(_build_header(query, FORMAT_ERROR))
        question = query[_HEADER:end]
        version = _find_edns_version(query, end)
        if version:
            return Answer(_build_reply(query, question, BAD_VERSION, b"", edns=True))
        code, record, denied = self._decide(name, *_read_type_and_class(query, end))
        message = _build_reply(query, question, code, record, edns=version is not None)
        return Answer(message, denied)

    def _decide(self, name: str, kind: int, family: int) -> tuple[int, bytes, str]:
        """Return code, answer record and denied name."""
        if family not in {CLASS_INTERNET, _CLASS_ANY}:
            return NOT_IMPLEMENTED, b"", ""
        if name == HOST and self._policy.has_host_ports:
            address: bytes | None = GATEWAY
        elif self._policy.allows_some_port(name):
            if kind not in {TYPE_A, TYPE_ANY}:
                return NO_ERROR, b"", ""
            address = self._table.assign_address(name)
        else:
            return NAME_ERROR, b"", "" if _is_noise(name, kind) else name
        if address is None:
            return SERVER_FAILURE, b"", ""
        if kind not in {TYPE_A, TYPE_ANY}:
            return NO_ERROR, b"", ""
        return NO_ERROR, _build_record(address), ""


def _is_noise(name: str, kind: int) -> bool:
    """Return True for a denied question that comes with another, or asks for an address's name."""
    return kind == TYPE_AAAA or name.endswith(".arpa")


def _read_question(query: bytes) -> tuple[int, str]:
    """Return the end of the question of a message, and its name in lower case.

    A name with pointers (RFC 1035, section 4.1.4) is refused: the only question of a message has
    nothing before it to point to.
    """
    if query[4:6] != b"\0\1":
        raise _MalformedQueryError
    labels = []
    at = _HEADER
    while at < len(query) and (size := query[at]):
        label = query[at + 1 : at + 1 + size]
        at += 1 + size
        if size > _MAX_LABEL or len(label) < size or at - _HEADER >= _MAX_WIRE_NAME:
            raise _MalformedQueryError
        labels.append(_decode_label(label))
    # The byte 0, type and class.
    if at + 5 > len(query):
        raise _MalformedQueryError
    return at + 5, ".".join(labels)


def _decode_label(label: bytes) -> str:
    """Return a part of a name; a dot or control character inside becomes a character of no name."""
    text = label.decode("latin-1").lower()
    return "".join(c if c.isprintable() and c != "." else "\ufffd" for c in text)


def _read_type_and_class(query: bytes, end: int) -> tuple[int, int]:
    return int.from_bytes(query[end - 4 : end - 2], "big"), int.from_bytes(
        query[end - 2 : end], "big"
    )


def _find_edns_version(query: bytes, end: int) -> int | None:
    """Return the version of EDNS, or None without; records before the OPT record hide it."""
    record = query[end : end + _OPT]
    if len(record) < _OPT or query[6:10] != bytes(4) or query[10:12] == bytes(2):
        return None
    if record[0] or int.from_bytes(record[1:3], "big") != _TYPE_OPT:
        return None
    return record[6]


def _build_record(address: bytes) -> bytes:
    """Return the A record of an answer, whose name is a pointer to the question."""
    return b"".join(
        (
            bytes((0xC0, _HEADER)),
            TYPE_A.to_bytes(2, "big"),
            CLASS_INTERNET.to_bytes(2, "big"),
            _SECONDS.to_bytes(4, "big"),
            len(address).to_bytes(2, "big"),
            address,
        )
    )


def _build_reply(query: bytes, question: bytes, code: int, record: bytes, *, edns: bool) -> bytes:
    header = _build_header(query, code & 0xF, 1, int(bool(record)), int(edns))
    if not edns:
        return header + question + record
    flags = bytes((code >> 4, 0, 0, 0))
    option = b"\0" + _TYPE_OPT.to_bytes(2, "big") + _UDP_SIZE.to_bytes(2, "big") + flags + bytes(2)
    return header + question + record + option


def _build_header(
    query: bytes, code: int, questions: int = 0, answers: int = 0, additional: int = 0
) -> bytes:
    """Return a header that answers ``query``, with the same identifier and opcode."""
    flags = bytes(
        (
            _RESPONSE | query[2] & (_OPCODE | _RECURSION_DESIRED),
            _RECURSION_AVAILABLE | code,
        )
    )
    counts = (questions, answers, 0, additional)
    return query[:2] + flags + b"".join(count.to_bytes(2, "big") for count in counts)
