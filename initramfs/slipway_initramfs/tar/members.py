"""Reader of untrusted tar archives: reads headers only, contents stay in the archive.

Formats: POSIX ustar and pax (IEEE Std 1003.1, "pax"), GNU tar with its long names, large numbers
and sparse files ("Basic Tar Format" and "Storing Sparse Files" in its manual), and v7. The standard
library's ``tarfile`` takes a damaged header for the end of the archive, passes on arbitrary
exceptions for invalid input, and takes twice as long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway_initramfs.errors import ImageError
from slipway_initramfs.tar.headers import (
    BLOCK,
    SPARSE,
    Budget,
    Pax,
    check_global,
    decode_text,
    get_decimal,
    parse_decimal,
    parse_number,
    read_extension,
    read_header,
    read_pax,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway_initramfs.tar.headers import ArchiveBytes

# Limit on the extended headers of an entry.
MAX_EXTENSIONS = 8
# Limit on the pieces of data of a sparse file.
MAX_SEGMENTS = 1 << 16

FILE, HARDLINK, SYMLINK = b"0", b"1", b"2"
# Types of entries.
CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"3", b"4", b"5", b"6"
_HEADER_ONLY = frozenset((HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_OLD_FILE, _CONTIGUOUS, _SPARSE = b"\0", b"7", b"S"
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL = b"L", b"K", b"x", b"g"
_EXTENSIONS = frozenset((_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL))
# Numbers in a block of the map of an old sparse file.
_FIELDS = 42
# Longest number in the map of a newer sparse file, in bytes, with its newline.
_DIGITS = 21
_XATTR = re.compile("(?:SCHILY|LIBARCHIVE)\\.xattr\\.(.+)", re.DOTALL)


@dataclass(slots=True)
class Member:
    """Entry of an archive.

    ``kind`` is the type in the archive's notation; all sorts of regular files are FILE. A regular
    file has ``size`` bytes at ``offset`` of the archive. In a sparse file ``segments`` are the
    pieces (offset in the file, bytes), stored consecutively, and ``real_size`` is the length of the
    file. ``xattrs`` are names of extended attributes.
    """

    name: str
    kind: bytes
    mode: int
    owner: tuple[int, int]
    size: int
    offset: int
    link: str = ""
    device: tuple[int, int] = (0, 0)
    segments: tuple[tuple[int, int], ...] | None = None
    real_size: int = 0
    xattrs: tuple[str, ...] = ()


def read_members(source: ArchiveBytes) -> Iterator[Member]:
    """Yield the entries of an uncompressed archive in order.

    An archive ends with a block of zeros or with the file (Go's archive/tar writes and reads such
    archives).

    Raises:
        ImageError: the archive is invalid.
    """
    position = 0
    budget = Budget()
    while header := read_header(source, position):
        names: dict[bytes, str] = {}
        pax = Pax(budget)
        position += BLOCK
        for _ in range(MAX_EXTENSIONS):
            kind = header[156:157]
            if kind not in _EXTENSIONS:
                break
            size = parse_number(header[124:136], "size")
            data = read_extension(source, position, size)
            if kind == _PAX:
                read_pax(data, pax)
            elif kind == _GLOBAL:
                check_global(data, budget)
            else:
                names[kind] = decode_text(data)
            position += -(-size // BLOCK) * BLOCK
            header = read_header(source, position)
            if not header:
                if kind == _GLOBAL and not (names or pax):
                    return
                raise ImageError("broken tar archive: it ends after an extended header")
            position += BLOCK
        else:
            raise ImageError("broken tar archive: too many extended headers in a row")
        member, position = _read_member(source, header, position, names, pax)
        yield member


def _read_member(
    source: ArchiveBytes, header: bytes, position: int, names: dict[bytes, str], pax: Pax
) -> tuple[Member, int]:
    """Return the entry with data at ``position``, and the position of the next header."""
    name = names.get(_LONG_NAME) or pax.get("path") or _read_name(header)
    kind = header[156:157]
    if kind == _OLD_FILE:
        kind = DIRECTORY if name.endswith("/") else FILE
    if kind == _CONTIGUOUS:
        kind = FILE
    size = get_decimal(pax, "size") if "size" in pax else parse_number(header[124:136], "size")
    if kind in _HEADER_ONLY:
        size = 0
    member = Member(
        name,
        kind,
        parse_number(header[100:108], "mode"),
        (
            get_decimal(pax, "uid") if "uid" in pax else parse_number(header[108:116], "owner"),
            get_decimal(pax, "gid") if "gid" in pax else parse_number(header[116:124], "group"),
        ),
        size,
        position,
    )
    if kind in (HARDLINK, SYMLINK):
        member.link = names.get(_LONG_LINK) or pax.get("linkpath") or decode_text(header[157:257])
    elif kind in (CHARACTER, BLOCK_DEVICE):
        numbers = header[329:337], header[337:345]
        member.device = parse_number(numbers[0], "device"), parse_number(numbers[1], "device")
    if pax:
        member.xattrs = tuple(
            sorted({found[1] for found in map(_XATTR.fullmatch, pax) if found is not None})
        )
    if kind == _SPARSE:
        _read_old_sparse(source, header, member, pax.budget)
    elif kind == FILE and any(key.startswith(SPARSE) for key in pax):
        _read_pax_sparse(source, pax, member)
    end = member.offset + member.size
    if end > source.size:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} is truncated")
    return member, position + -(-(end - position) // BLOCK) * BLOCK


def _read_name(header: bytes) -> str:
    name = decode_text(header[:100])
    # GNU tar stores other fields in place of the prefix, and marks them by another magic.
    if header[257:263] == b"ustar\0" and header[345]:
        end = 476 if header[508:512] == b"tar\0" else 500
        return f"{decode_text(header[345:end])}/{name}"
    return name


# -- sparse files --------------------------------------------------------------------------------


def _read_old_sparse(source: ArchiveBytes, header: bytes, member: Member, budget: Budget) -> None:
    """Read the map of a sparse file in GNU tar's old format: in the header and the next blocks."""
    numbers = _parse_sparse_fields(header[386:482])
    more = header[482]
    while more:
        budget.spend(_FIELDS)
        block = source.read_at(member.offset, BLOCK)
        if len(block) < BLOCK or len(numbers) > 2 * MAX_SEGMENTS:
            raise ImageError(f"broken tar archive: {member.name[:80]!r} has an invalid sparse map")
        numbers += _parse_sparse_fields(block[:504])
        more = block[504]
        member.offset += BLOCK
    member.kind = FILE
    _set_segments(member, numbers, parse_number(header[483:495], "size"))


def _parse_sparse_fields(data: bytes) -> list[int]:
    fields = [data[start : start + 12] for start in range(0, len(data), 12)]
    return [parse_number(field, "size") for field in fields if field[0]]


def _read_pax_sparse(source: ArchiveBytes, pax: Pax, member: Member) -> None:
    """Read the map of a sparse file in any of the three pax formats."""
    real = "GNU.sparse.realsize" if "GNU.sparse.realsize" in pax else "GNU.sparse.size"
    if real not in pax:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} is sparse without a size")
    member.name = pax.get("GNU.sparse.name", member.name)
    if "GNU.sparse.major" in pax:
        if (pax["GNU.sparse.major"], pax.get("GNU.sparse.minor", "0")) != ("1", "0"):
            raise ImageError(f"{member.name[:80]!r} is sparse in an unknown format")
        numbers = _read_inline_map(source, member, pax.budget)
    else:
        digits = pax["GNU.sparse.map"].split(",") if "GNU.sparse.map" in pax else pax.map
        pax.budget.spend(len(digits))
        numbers = [parse_decimal(decode_text, "sparse map") for decode_text in digits]
    _set_segments(member, numbers, get_decimal(pax, real))


def _read_inline_map(source: ArchiveBytes, member: Member, budget: Budget) -> list[int]:
    """Read the map of format 1.0: lines of decimal numbers before the data."""
    start = source.read_at(member.offset, min(member.size, _DIGITS))
    count = parse_decimal(start.partition(b"\n")[0].decode("latin-1"), "sparse map")
    if count > MAX_SEGMENTS:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} has an invalid sparse map")
    lines = 1 + 2 * count
    budget.spend(lines)
    found = source.read_at(member.offset, min(member.size, lines * _DIGITS)).split(b"\n", lines)
    length = sum(len(line) + 1 for line in found[:lines])
    padded = -(-length // BLOCK) * BLOCK
    if len(found) <= lines or padded > member.size:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} has an invalid sparse map")
    member.offset += padded
    member.size -= padded
    return [parse_decimal(line.decode("latin-1"), "sparse map") for line in found[1:lines]]


def _set_segments(member: Member, numbers: list[int], real_size: int) -> None:
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    ends = [0, *(offset + size for offset, size in pairs)]
    sound = (
        len(numbers) % 2 == 0
        and len(pairs) <= MAX_SEGMENTS
        and all(offset >= end for (offset, _), end in zip(pairs, ends, strict=False))
        and ends[-1] <= real_size
        and sum(size for _, size in pairs) == member.size
    )
    if not sound:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} has an invalid sparse map")
    member.segments = tuple(pair for pair in pairs if pair[1])
    member.real_size = real_size
