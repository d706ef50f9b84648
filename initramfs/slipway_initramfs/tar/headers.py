"""Fields and extended headers of tar archives: ustar, pax and GNU tar's numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from slipway_initramfs.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
# Longest extended header that is read into memory, in bytes.
MAX_HEADER = 1 << 20
# Most records of pax headers and numbers of sparse maps in an archive, so that reading it ends.
MAX_DETAILS = 1 << 23
# What the keys of all records for sparse files begin with.
SPARSE = "GNU.sparse."

_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=", re.DOTALL)
_MEANINGFUL = ("path", "linkpath", "size", "uid", "gid")


class ArchiveBytes(Protocol):
    """What an archive is read from: a spool, or a file."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer at the end."""
        ...


class Budget:
    """How many details of an archive may still come (MAX_DETAILS)."""

    def __init__(self) -> None:
        self._left = MAX_DETAILS

    def spend(self, details: int) -> None:
        """Count some; ImageError if they are too many."""
        self._left -= details
        if self._left < 0:
            raise ImageError(f"a tar archive with more than {MAX_DETAILS} records")


class Pax(dict[str, str]):
    """Records of extended headers; those of a sparse map in format 0.0 repeat their keys."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget
        self.map: list[str] = []


def read_header(source: ArchiveBytes, position: int) -> bytes:
    """Return the header at ``position``, nothing at the end of the archive."""
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
        # Some old programs added up signed characters.
        high = sum(byte > 0x7F for byte in block[:148] + block[156:])
        if stated != unsigned - 0x100 * high:
            raise ImageError(f"broken tar archive: no valid header at offset {position}")
    return block


def decode_text(field: bytes) -> str:
    """Return a name up to its NUL; it need not be UTF-8."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def parse_number(field: bytes, what: str) -> int:
    """Read an octal number, or one to the base of 256 as GNU tar writes large ones."""
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
    raise ImageError(f"broken tar archive: {field!r} is no {what}")


def get_decimal(records: dict[str, str], key: str) -> int:
    """Return the number that a pax record holds."""
    return parse_decimal(records[key], key)


def parse_decimal(digits: str, what: str) -> int:
    """Return a decimal number of a reasonable length."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise ImageError(f"broken tar archive: {digits[:80]!r} is no {what}")
    return int(digits)


def read_extension(source: ArchiveBytes, position: int, size: int) -> bytes:
    """Return the data of an extended header."""
    if size > MAX_HEADER:
        raise ImageError(f"broken tar archive: a header of {size} bytes")
    data = source.read_at(position, size)
    if len(data) < size:
        raise ImageError("broken tar archive: an extended header is truncated")
    return data


def _split_records(data: bytes, budget: Budget) -> Iterator[tuple[str, str]]:
    """Take an extended header of pax apart: length, key, value, newline."""
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
    """Put the records of a pax header into ``pax``; an empty one takes an earlier one back."""
    for key, value in _split_records(data, pax.budget):
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            pax.map.append(value)
        if value:
            pax[key] = value
        else:
            pax.pop(key, None)


def check_global(data: bytes, budget: Budget) -> None:
    """Refuse records for all entries that container programs ignore and tar(1) does not."""
    for key, _ in _split_records(data, budget):
        if key in _MEANINGFUL or key.startswith(SPARSE):
            raise ImageError(f"a tar archive that sets {key[:80]!r} for all of its entries")
