"""The file in which an image is carried to a machine without a network.

A plain tar archive (ustar) of this form and no other, so that a pipe can be read in one pass:

    slipway-image.json          the index: what follows, in its order
    manifests/<sha256>          the records: image, kernel and, if the store was given it, language
    blobs/<sha256>              what they name, and the agent

Each header is a function of a member's name and size. The reader knows both from the index, makes
the header itself and compares: there are no fields that two readers could take for different
things, no links, no paths that lead anywhere.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from slipway_initramfs.disk.spool import CHUNK
from slipway_initramfs.errors import ImageError
from slipway_initramfs.store import records

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1
INDEX = "slipway-image.json"
# Kinds of records, in the order in which they come; a language is there if it is one's own.
KINDS = ("image", "kernel", "language")
MAX_INDEX = 64 << 10
MAX_BLOBS = 8
# Bytes; the most that ustar's field for a size can say.
MAX_BLOB = (8 << 30) - 1
BLOCK = 512

_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")
_SIZE = re.compile(rb"[0-7]{11}\0")


class UnfitArchive(ImageError):
    """An archive is not as an export writes it: truncated, damaged, or of another format."""


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A member: ``size`` bytes whose SHA-256 is ``digest``."""

    digest: str
    size: int

    def as_json(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {"digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class ArchiveIndex:
    """What is in an archive.

    ``keys`` are the names of the records, by kind. ``agent`` is the agent's archive, made of
    sources whose digest is ``agent_sources``.
    """

    keys: dict[str, str]
    records: dict[str, ArchiveMember]
    agent: ArchiveMember
    agent_sources: str
    blobs: tuple[ArchiveMember, ...]

    def encode(self) -> bytes:
        """Return the index as it stands in the archive."""
        plain = {
            "format": FORMAT,
            "records": {
                kind: {"key": self.keys[kind], **part.as_json()}
                for kind, part in self.records.items()
            },
            "agent": {"sources": self.agent_sources, **self.agent.as_json()},
            "blobs": [blob.as_json() for blob in self.blobs],
        }
        return json.dumps(plain, indent=1).encode() + b"\n"


def build_header(name: str, size: int) -> bytes:
    """Return the header of a file (POSIX.1-2017, pax, "ustar Interchange Format")."""
    fields = (
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        b"%011o\0" % size,
        b"%011o\0" % 0,
        b" " * 8,
        b"0".ljust(101, b"\0"),
        b"ustar\x0000",
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def build_padding(size: int) -> bytes:
    """Return what follows a member's bytes, up to the next block."""
    return bytes(-size % BLOCK)


class ArchiveReader:
    """An archive that is read once, from its beginning to its end; raises UnfitArchive."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def index(self) -> ArchiveIndex:
        """Return the index, checked in itself."""
        block = self._read(BLOCK)
        if block.startswith(_PACKED):
            raise UnfitArchive(
                "the archive is compressed", "Decompress it first: zstd -dc FILE | ..."
            )
        size = int(block[124:135], 8) if _SIZE.fullmatch(block[124:136]) else -1
        if not 0 < size <= MAX_INDEX or block != build_header(INDEX, size):
            raise UnfitArchive(
                "this is no archive of 'slipway image export'",
                "Container images are taken by: slipway image build --from",
            )
        data = self._read(size)
        self._skip_padding(size)
        return _parse_index(data)

    def member(self, name: str, size: int) -> Iterator[bytes]:
        """Give the bytes of the next member, which has to be this one."""
        if self._read(BLOCK) != build_header(name, size):
            raise UnfitArchive(f"the archive does not go on with {name[:40]}")
        left = size
        while left:
            data = self._read(min(left, CHUNK))
            left -= len(data)
            yield data
        self._skip_padding(size)

    def end(self) -> None:
        """Check that nothing follows but the end."""
        if any(self._read(2 * BLOCK)) or self._file.read(1):
            raise UnfitArchive("the archive goes on after its last member")

    def _skip_padding(self, size: int) -> None:
        if any(self._read(-size % BLOCK)):
            raise UnfitArchive("the archive has something between its members")

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self._file.read(size - len(data))
            except OSError as error:
                raise UnfitArchive(f"cannot read the archive: {error.strerror}") from error
            if not more:
                raise UnfitArchive("the archive is truncated", "Copy or export it again.")
            data += more
        return data


def _parse_index(data: bytes) -> ArchiveIndex:
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        raise UnfitArchive("the archive's index is damaged") from None
    version = plain.get("format") if isinstance(plain, dict) else None
    if type(version) is int and version != FORMAT:
        raise UnfitArchive(
            f"the archive is of format {version}, and only {FORMAT} is known here",
            "Export and import it with the same version of Slipway.",
        )
    try:
        index = _build_index(plain)
    except (KeyError, TypeError, ValueError, AttributeError):
        index = None
    # What is not as it would be written is refused, though it might be understood.
    if index is None or index.encode() != data:
        raise UnfitArchive("the archive's index breaks the format's rules")
    return index


def _build_index(plain: dict[str, Any]) -> ArchiveIndex:
    """Return the index in ``plain``; raises ValueError and the like for whatever is wrong."""
    told = plain["records"]
    if [kind for kind in KINDS if kind in told] != list(told) or {"image", "kernel"} - set(told):
        raise ValueError
    keys = {kind: _check_key(entry["key"]) for kind, entry in told.items()}
    parts = {kind: _build_member(entry, records.MAX_MANIFEST) for kind, entry in told.items()}
    blobs = tuple(_build_member(entry, MAX_BLOB) for entry in plain["blobs"][: MAX_BLOBS + 1])
    agent = _build_member(plain["agent"], MAX_BLOB)
    sources = plain["agent"]["sources"]
    digests = [part.digest for part in (*parts.values(), *blobs)]
    if (
        len(blobs) > MAX_BLOBS
        or len(set(digests)) != len(digests)
        or agent not in blobs
        or not records.is_digest(sources)
    ):
        raise ValueError
    return ArchiveIndex(keys, parts, agent, sources, blobs)


def _check_key(key: Any) -> str:
    if not isinstance(key, str) or not records.is_key(key):
        raise ValueError
    return key


def _build_member(entry: Any, most: int) -> ArchiveMember:
    digest, size = entry["digest"], entry["size"]
    if not isinstance(digest, str) or not records.is_digest(digest):
        raise ValueError
    if type(size) is not int or not 0 < size <= most:
        raise ValueError
    return ArchiveMember(digest, size)
