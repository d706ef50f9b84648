"""Assembler for the few terms of ACPI's machine language in a DSDT of fixed devices.

Sources: ACPI specification 6.3, chapter 20 "ACPI Machine Language", and section 6.4 "Resource Data
Types for ACPI". Each function returns the bytes of one term.
"""

from __future__ import annotations

import struct

_ZERO, _ONE = b"\x00", b"\x01"
_BYTE, _WORD, _DWORD, _QWORD, _STRING = b"\x0a", b"\x0b", b"\x0c", b"\x0e", b"\x0d"
_NAME, _SCOPE, _BUFFER, _PACKAGE, _DEVICE = b"\x08", b"\x10", b"\x11", b"\x12", b"\x5b\x82"
_DUAL_NAME, _MULTI_NAME = b"\x2e", b"\x2f"

# I/O port descriptor: tag, decodes 16 bits, minimum, maximum, alignment, length.
_IO = struct.Struct("<BBHHBB")
# 32-bit fixed memory range descriptor: tag, length, writable, base, length.
_MEMORY = struct.Struct("<BHBII")
# Extended interrupt descriptor: tag, length, flags, count of interrupts, interrupt.
_INTERRUPT = struct.Struct("<BHBBI")
_CONSUMER, _EDGE = 1 << 0, 1 << 1
# A checksum of 0 is always right.
_END_TAG = b"\x79\x00"


def integer(value: int) -> bytes:
    """Return a number from 0 to 2**64 - 1, in its shortest form."""
    if value <= 1:
        return _ONE if value else _ZERO
    for prefix, size in ((_BYTE, 1), (_WORD, 2), (_DWORD, 4)):
        if value >> 8 * size == 0:
            return prefix + value.to_bytes(size, "little")
    return _QWORD + value.to_bytes(8, "little")


def string(text: str) -> bytes:
    """Return an ASCII text."""
    return _STRING + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """Return the number of a plug-and-play id such as ``PNP0501``."""
    letters = 0
    for letter in text[:3]:
        letters = letters << 5 | ord(letter) - 0x40
    return _DWORD + (letters << 16 | int(text[3:], 16)).to_bytes(4, "big")


def name(path: str, value: bytes) -> bytes:
    """Return the definition of ``path`` as ``value``, a term."""
    return _NAME + _encode_path(path) + value


def scope(path: str, *terms: bytes) -> bytes:
    """Return ``terms`` within an existing name, such as ``_SB``, the scope of all devices."""
    return _SCOPE + _add_length(_encode_path(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """Return a device with objects that ``terms`` define."""
    return _DEVICE + _add_length(_encode_path(path) + b"".join(terms))


def buffer(data: bytes) -> bytes:
    """Return a buffer of bytes."""
    return _BUFFER + _add_length(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    """Return an array of up to 255 terms."""
    return _PACKAGE + _add_length(bytes([len(elements)]) + b"".join(elements))


def resources(*descriptors: bytes) -> bytes:
    """Return a resource template, the value of a device's ``_CRS``."""
    return buffer(b"".join(descriptors) + _END_TAG)


def io_ports(first: int, count: int) -> bytes:
    """Return the resource of ``count`` I/O ports from ``first`` on."""
    return _IO.pack(0x47, 1, first, first, 1, count)


def memory(address: int, size: int) -> bytes:
    """Return the resource of ``size`` bytes of device memory, below 4 GiB."""
    return _MEMORY.pack(0x86, 9, 1, address, size)


def interrupt(line: int) -> bytes:
    """Return the resource of a line of the IOAPIC: edge-triggered, active high, not shared."""
    return _INTERRUPT.pack(0x89, 6, _CONSUMER | _EDGE, 1, line)


def _encode_path(path: str) -> bytes:
    r"""Encode a path of names of up to four characters, separated by dots; ``\`` is the root."""
    root = b"\\" if path.startswith("\\") else b""
    names = [part.ljust(4, "_").encode("ascii") for part in path.removeprefix("\\").split(".")]
    if names == [b"____"]:
        return root + b"\0"
    if len(names) == 1:
        return root + names[0]
    prefix = _DUAL_NAME if len(names) == 2 else _MULTI_NAME + bytes([len(names)])
    return root + prefix + b"".join(names)


def _add_length(content: bytes) -> bytes:
    """Return ``content`` behind a PkgLength (section 20.2.4), which counts its own bytes too."""
    if len(content) + 1 < 1 << 6:
        return bytes([len(content) + 1]) + content
    more = next(more for more in (1, 2, 3) if len(content) + 1 + more < 1 << 4 + 8 * more)
    length = len(content) + 1 + more
    return bytes([more << 6 | length & 0xF]) + (length >> 4).to_bytes(more, "little") + content
