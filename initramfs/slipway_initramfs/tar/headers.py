"""Headers of tar archives: fields of ustar, extended headers of pax, numbers of GNU tar."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from slipway_initramfs.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
# Longest extended header that is read into memory, in bytes.
MAX_HEADER = 1 << 20
# Limit on pax records and sparse map numbers in an archive, which bounds the reading time.
MAX_DETAILS = 1 << 23
# Prefix of the keys of records for sparse files.
SPARSE = "GNU.sparse."

_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=", re.DOTALL)
_MEANINGFUL = ("path", "linkpath", "size", "uid", "gid")


class ArchiveBytes(Protocol):
    """Random access to an archive: a spool or a file."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer at the end."""
        ...


class Budget:
    """Number of details that an archive may still have (MAX_DETAILS)."""

    def __init__(self) -> None:
        self._left = MAX_DETAILS

    def spend(self, details: int) -> None:
        """Count ``details``.

        Raises:
            ImageError: the archive has too many.
        """
        self._left -= details
        if self._left < 0:
            raise ImageError(f"broken tar archive: more than {MAX_DETAILS} records")


class Pax(dict[str, str]):
    """Records of extended headers; ``map`` holds the repeated keys of sparse format 0.0."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget
        self.map: list[str] = []


def read_header(source: ArchiveBytes, position: int) -> bytes:
    """Return the header at ``position``, or empty bytes at the end of the archive.

    Raises:
        ImageError: the header is truncated or damaged.
    """
    block = source.read_at(position, BLOCK)
    if not block.strip(b"\0"):
        return b""
    if len(block) < BLOCK:
        raise ImageError(f"broken tar archive: truncated at offset {position}")
    try:
        stated = parse_number(block[148:156], "checksum")
    except ImageError:
        stated = -1
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if stated != unsigned:
        # Some old programs summed signed characters.
        high = sum(byte > 0x7F for byte in block[:148] + block[156:])
        if stated != unsigned - 0x100 * high:
            raise ImageError(f"broken tar archive: no valid header at offset {position}")
    return block


def decode_text(field: bytes) -> str:
    """Return a name up to its NUL; other encodings than UTF-8 are preserved."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def parse_number(field: bytes, what: str) -> int:
    """Parse an octal number, or a base-256 number of GNU tar.

    Raises:
        ImageError: the field is not a number.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    try:
        if not digits:
            return 0
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise ImageError(f"broken tar archive: {field!r} is not a valid {what}")


def get_decimal(records: dict[str, str], key: str) -> int:
    """Return the number in a pax record."""
    return parse_decimal(records[key], key)


def parse_decimal(digits: str, what: str) -> int:
    """Parse a decimal number of at most 20 digits.

    Raises:
        ImageError: the text is not such a number.
    """
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise ImageError(f"broken tar archive: {digits[:80]!r} is not a valid {what}")
    return int(digits)


def read_extension(source: ArchiveBytes, position: int, size: int) -> bytes:
    """Return the data of an extended header.

    Raises:
        ImageError: the data is truncated or longer than MAX_HEADER.
    """
    if size > MAX_HEADER:
        raise ImageError(f"broken tar archive: a header of {size} bytes")
    data = source.read_at(position, size)
    if len(data) < size:
        raise ImageError("broken tar archive: an extended header is truncated")
    return data


def _split_records(data: bytes, budget: Budget) -> Iterator[tuple[str, str]]:
    """Split a pax header into records: length, key, value, newline."""
    position = 0
    while position < len(data):
        found = _RECORD.match(data, position)
        end = position + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(data) or data[end - 1] != 0x0A:
            if not data[position:].strip(b"\0"):
                return
            raise ImageError("broken tar archive: a damaged pax header")
        budget.spend(1)
        yield (
            found[2].decode("utf-8", "surrogateescape"),
            data[found.end() : end - 1].decode("utf-8", "surrogateescape"),
        )
        position = end


def read_pax(data: bytes, pax: Pax) -> None:
    """Store the records of a pax header in ``pax``; an empty value deletes an earlier record."""
    for key, value in _split_records(data, pax.budget):
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            pax.map.append(value)
        if value:
            pax[key] = value
        else:
            pax.pop(key, None)


def check_global(data: bytes, budget: Budget) -> None:
    """Refuse global records that tar(1) obeys and container programs ignore.

    Raises:
        ImageError: the header has such a record.
    """
    for key, _ in _split_records(data, budget):
        if key in _MEANINGFUL or key.startswith(SPARSE):
            raise ImageError(f"broken tar archive: a global header sets {key[:80]!r}")
