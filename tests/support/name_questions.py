"""Questions for a server of names, and its answers (RFC 1035), written apart from the gateway."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_TYPE_A = 1
_TYPE_OPT = 41


@dataclass(frozen=True, slots=True)
class NameReply:
    """Parts of an answer; ``code`` has the bits of EDNS."""

    identifier: int
    opcode: int
    code: int
    question: bytes
    addresses: list[bytes]
    has_edns: bool


def encode_name(name: str) -> bytes:
    """Return a name on the wire."""
    labels = [part.encode("latin-1") for part in name.split(".") if part]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def build_question(
    name: str,
    kind: int = _TYPE_A,
    *,
    identifier: int = 7,
    family: int = 1,
    edns: bool = False,
    version: int = 0,
) -> bytes:
    """Return a question as a C library asks it, with the wish for recursion."""
    header = _HEADER.pack(identifier, 0x0100, 1, 0, 0, int(edns))
    option = b"\0" + _RECORD.pack(_TYPE_OPT, 1232, version << 16, 0) if edns else b""
    return header + encode_name(name) + struct.pack("!HH", kind, family) + option


def parse_reply(message: bytes) -> NameReply:
    """Return the parts of an answer, all of whose bytes have to be read."""
    identifier, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    assert flags & 0x8000, "not an answer"
    assert not authorities
    at = _HEADER.size
    for _ in range(questions):
        while message[at]:
            at += 1 + message[at]
        at += 5
    question = message[_HEADER.size : at]
    code = flags & 0xF
    addresses = []
    options = 0
    for _ in range(answers + additional):
        at += 2 if message[at] == 0xC0 else 1
        kind, _, seconds, size = _RECORD.unpack_from(message, at)
        at += _RECORD.size + size
        if kind == _TYPE_A:
            addresses.append(message[at - size : at])
        elif kind == _TYPE_OPT:
            options += 1
            code |= seconds >> 24 << 4
    assert at == len(message), "bytes follow the answer"
    return NameReply(identifier, flags >> 11 & 0xF, code, question, addresses, options == 1)
