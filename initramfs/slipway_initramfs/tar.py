"""Reading tar archives that nobody vouches for: headers only, contents are left where they lie.

Formats: POSIX ustar and pax (IEEE Std 1003.1, "pax"), GNU tar with its long names, large numbers
and sparse files ("Basic Tar Format" and "Storing Sparse Files" in its manual), and v7. The standard
library's ``tarfile`` takes a damaged header for the end of the archive, lets through whatever its
code runs into when the input makes no sense, and needs twice as long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from slipway_initramfs.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
MAX_HEADER = 1 << 20
"""Longest extended header that is read into memory, in bytes."""
MAX_EXTENSIONS = 8
"""Most extended headers of one entry."""
MAX_SEGMENTS = 1 << 16
"""Most pieces of data of a sparse file."""

FILE, HARDLINK, SYMLINK = b"0", b"1", b"2"
CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"3", b"4", b"5", b"6"
"""Types of entries."""
_HEADER_ONLY = frozenset((HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_OLD_FILE, _CONTIGUOUS, _SPARSE = b"\0", b"7", b"S"
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL = b"L", b"K", b"x", b"g"
_EXTENSIONS = frozenset((_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL))
_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=", re.DOTALL)
_XATTR = re.compile("(?:SCHILY|LIBARCHIVE)\\.xattr\\.(.+)", re.DOTALL)
_SPARSE_MARK = "GNU.sparse."
_MEANINGFUL = ("path", "linkpath", "size", "uid", "gid")


class Source(Protocol):
    """What an archive is read from: a spool, or a file."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer at the end."""
        ...


@dataclass(slots=True)
class Member:
    """One entry of an archive.

    ``kind`` is its type as the archive writes it, with all sorts of regular files as FILE; a
    regular file's bytes are ``size`` bytes at ``offset`` of the archive. Of a sparse file,
    ``segments`` are the pieces (offset in the file, bytes), which lie there one after the other,
    and ``real_size`` is the length of the file. ``xattrs`` are names of extended attributes.
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


class _Pax(dict[str, str]):
    """Records of extended headers; those of a sparse map in format 0.0 repeat their keys."""

    def __init__(self) -> None:
        super().__init__()
        self.map: list[str] = []


def read_members(source: Source) -> Iterator[Member]:
    """Give the entries of an uncompressed archive in their order.

    An archive ends with a block of zeros, or with the file (which Go's archive/tar writes and reads
    as well). Raises ImageError for whatever is not a sound archive.
    """
    position = 0
    while header := _header(source, position):
        names: dict[bytes, str] = {}
        pax = _Pax()
        position += BLOCK
        for _ in range(MAX_EXTENSIONS):
            kind = header[156:157]
            if kind not in _EXTENSIONS:
                break
            size = _number(header[124:136], "size")
            data = _extension(source, position, size)
            if kind == _PAX:
                _read_pax(data, pax)
            elif kind == _GLOBAL:
                _check_global(data)
            else:
                names[kind] = _text(data)
            position += -(-size // BLOCK) * BLOCK
            header = _header(source, position)
            if not header:
                if kind == _GLOBAL and not (names or pax):
                    return
                raise ImageError("broken tar archive: it ends after an extended header")
            position += BLOCK
        else:
            raise ImageError("broken tar archive: too many extended headers in a row")
        member, position = _member(source, header, position, names, pax)
        yield member


def _header(source: Source, position: int) -> bytes:
    """Return the header at ``position``, nothing at the end of the archive."""
    block = source.read_at(position, BLOCK)
    if not block.strip(b"\0"):
        return b""
    if len(block) < BLOCK:
        raise ImageError(f"broken tar archive: cut short at offset {position}")
    try:
        stated = _number(block[148:156], "checksum")
    except ImageError:
        stated = -1
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if stated != unsigned:
        # Some old programs added up signed characters.
        high = sum(byte > 0x7F for byte in block[:148] + block[156:])
        if stated != unsigned - 0x100 * high:
            raise ImageError(f"broken tar archive: no valid header at offset {position}")
    return block


def _member(
    source: Source, header: bytes, position: int, names: dict[bytes, str], pax: _Pax
) -> tuple[Member, int]:
    """Return an entry whose data begin at ``position``, and where the next header is."""
    name = names.get(_LONG_NAME) or pax.get("path") or _name(header)
    kind = header[156:157]
    if kind == _OLD_FILE:
        kind = DIRECTORY if name.endswith("/") else FILE
    if kind == _CONTIGUOUS:
        kind = FILE
    size = _decimal(pax, "size") if "size" in pax else _number(header[124:136], "size")
    if kind in _HEADER_ONLY:
        size = 0
    member = Member(
        name,
        kind,
        _number(header[100:108], "mode"),
        (
            _decimal(pax, "uid") if "uid" in pax else _number(header[108:116], "owner"),
            _decimal(pax, "gid") if "gid" in pax else _number(header[116:124], "group"),
        ),
        size,
        position,
    )
    if kind in (HARDLINK, SYMLINK):
        member.link = names.get(_LONG_LINK) or pax.get("linkpath") or _text(header[157:257])
    elif kind in (CHARACTER, BLOCK_DEVICE):
        numbers = header[329:337], header[337:345]
        member.device = _number(numbers[0], "device"), _number(numbers[1], "device")
    if pax:
        member.xattrs = tuple(
            sorted({found[1] for found in map(_XATTR.fullmatch, pax) if found is not None})
        )
    if kind == _SPARSE:
        _old_sparse(source, header, member)
    elif kind == FILE and any(key.startswith(_SPARSE_MARK) for key in pax):
        _pax_sparse(source, pax, member)
    end = member.offset + member.size
    if end > source.size:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} is cut short")
    return member, position + -(-(end - position) // BLOCK) * BLOCK


def _name(header: bytes) -> str:
    name = _text(header[:100])
    # GNU tar has other things in the place of the prefix and says so with another magic.
    if header[257:263] == b"ustar\0" and header[345]:
        end = 476 if header[508:512] == b"tar\0" else 500
        return f"{_text(header[345:end])}/{name}"
    return name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes, what: str) -> int:
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


def _decimal(records: dict[str, str], key: str) -> int:
    return _plain_number(records[key], key)


def _plain_number(digits: str, what: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise ImageError(f"broken tar archive: {digits[:80]!r} is no {what}")
    return int(digits)


def _extension(source: Source, position: int, size: int) -> bytes:
    if size > MAX_HEADER:
        raise ImageError(f"broken tar archive: a header of {size} bytes")
    data = source.read_at(position, size)
    if len(data) < size:
        raise ImageError("broken tar archive: an extended header is cut short")
    return data


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    """Take an extended header of pax apart: length, key, value, newline."""
    position = 0
    while position < len(data):
        found = _RECORD.match(data, position)
        end = position + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(data) or data[end - 1] != 0x0A:
            if not data[position:].strip(b"\0"):
                return
            raise ImageError("broken tar archive: a damaged pax header")
        yield (
            found[2].decode("utf-8", "surrogateescape"),
            data[found.end() : end - 1].decode("utf-8", "surrogateescape"),
        )
        position = end


def _read_pax(data: bytes, pax: _Pax) -> None:
    for key, value in _records(data):
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            pax.map.append(value)
        if value:
            pax[key] = value
        else:
            pax.pop(key, None)


def _check_global(data: bytes) -> None:
    """Refuse records for all entries that container programs ignore and tar(1) does not."""
    for key, _ in _records(data):
        if key in _MEANINGFUL or key.startswith(_SPARSE_MARK):
            raise ImageError(f"a tar archive that sets {key[:80]!r} for all of its entries")


# -- sparse files --------------------------------------------------------------------------------


def _old_sparse(source: Source, header: bytes, member: Member) -> None:
    """Read the map of a sparse file in GNU tar's own format: in the header and blocks after it."""
    numbers = _sparse_fields(header[386:482])
    more = header[482]
    while more:
        block = source.read_at(member.offset, BLOCK)
        if len(block) < BLOCK or len(numbers) > 2 * MAX_SEGMENTS:
            raise ImageError(f"broken tar archive: {member.name[:80]!r} has no sound sparse map")
        numbers += _sparse_fields(block[:504])
        more = block[504]
        member.offset += BLOCK
    member.kind = FILE
    _set_segments(member, numbers, _number(header[483:495], "size"))


def _sparse_fields(data: bytes) -> list[int]:
    fields = [data[start : start + 12] for start in range(0, len(data), 12)]
    return [_number(field, "size") for field in fields if field[0]]


def _pax_sparse(source: Source, pax: _Pax, member: Member) -> None:
    """Read the map of a sparse file in one of the three formats in pax headers."""
    real = "GNU.sparse.realsize" if "GNU.sparse.realsize" in pax else "GNU.sparse.size"
    if real not in pax:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} is sparse without a size")
    member.name = pax.get("GNU.sparse.name", member.name)
    if "GNU.sparse.major" in pax:
        if (pax["GNU.sparse.major"], pax.get("GNU.sparse.minor", "0")) != ("1", "0"):
            raise ImageError(f"{member.name[:80]!r} is sparse in an unknown format")
        numbers = _inline_map(source, member)
    else:
        digits = pax["GNU.sparse.map"].split(",") if "GNU.sparse.map" in pax else pax.map
        numbers = [_plain_number(text, "sparse map") for text in digits]
    _set_segments(member, numbers, _decimal(pax, real))


def _inline_map(source: Source, member: Member) -> list[int]:
    """Read the map of format 1.0, lines of decimal numbers in front of the data."""
    limit = min(member.size, MAX_HEADER)
    lines = source.read_at(member.offset, limit).split(b"\n")
    texts = [line.decode("latin-1") for line in lines[:-1]]
    count = _plain_number(texts[0], "sparse map") if texts else 0
    if not texts or count > MAX_SEGMENTS or len(texts) < 1 + 2 * count:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} has no sound sparse map")
    used = texts[: 1 + 2 * count]
    length = sum(len(text) + 1 for text in used)
    padded = -(-length // BLOCK) * BLOCK
    if padded > member.size:
        raise ImageError(f"broken tar archive: {member.name[:80]!r} is cut short")
    member.offset += padded
    member.size -= padded
    return [_plain_number(text, "sparse map") for text in used[1:]]


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
        raise ImageError(f"broken tar archive: {member.name[:80]!r} has no sound sparse map")
    member.segments = tuple(pair for pair in pairs if pair[1])
    member.real_size = real_size
