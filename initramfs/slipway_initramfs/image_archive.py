"""Format of the archive that carries an image to a machine without network.

A plain tar archive (ustar) of exactly this form, which can be read from a pipe in one pass:

    slipway-image.json          the index: all members, in order
    manifests/<sha256>          the records: image, kernel, and the language of an added file
    blobs/<sha256>              the blobs that the records name, and the agent

Each header is a function of a member's name and size. The reader knows both from the index, builds
the header itself and compares. Fields with several interpretations, links and paths that lead
elsewhere are thereby impossible.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from slipway_initramfs.disk.spool import CHUNK
from slipway_initramfs.errors import ImageError
from slipway_initramfs.store import manifests

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1
INDEX = "slipway-image.json"
# Kinds of records, in the order of the archive. Only an added language has a record.
KINDS = ("image", "kernel", "language")
MAX_INDEX = 64 << 10
MAX_BLOBS = 8
# Limit of ustar's size field, in bytes.
MAX_BLOB = (8 << 30) - 1
BLOCK = 512

_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")
_SIZE = re.compile(rb"[0-7]{11}\0")


class UnfitArchive(ImageError):
    """An archive is truncated, damaged, or of another format."""


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A member of an archive: ``size`` bytes whose SHA-256 is ``digest``."""

    digest: str
    size: int

    def as_json(self) -> dict[str, Any]:
        """Return the member in JSON's types."""
        return {"digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class ArchiveIndex:
    """Index of an archive.

    ``keys`` are the names of the records, by kind. ``agent`` is the agent's archive, frozen from
    sources with the digest ``agent_sources``.
    """

    keys: dict[str, str]
    records: dict[str, ArchiveMember]
    agent: ArchiveMember
    agent_sources: str
    blobs: tuple[ArchiveMember, ...]

    def encode(self) -> bytes:
        """Return the bytes of the index in the archive."""
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
    """Return the zeros between a member's bytes and the next block."""
    return bytes(-size % BLOCK)


class ArchiveReader:
    """Reader of an archive in one pass. All methods raise UnfitArchive."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def index(self) -> ArchiveIndex:
        """Return the index, checked for consistency."""
        block = self._read(BLOCK)
        if block.startswith(_PACKED):
            raise UnfitArchive(
                "the archive is compressed", "Decompress it first: zstd -dc FILE | ..."
            )
        size = int(block[124:135], 8) if _SIZE.fullmatch(block[124:136]) else -1
        if not 0 < size <= MAX_INDEX or block != build_header(INDEX, size):
            raise UnfitArchive(
                "not an archive of 'slipway image export'",
                "For container images use: slipway image build --from",
            )
        data = self._read(size)
        self._skip_padding(size)
        return _parse_index(data)

    def member(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the bytes of the next member, which must have this name and size."""
        if self._read(BLOCK) != build_header(name, size):
            raise UnfitArchive(f"the archive does not continue with {name[:40]}")
        left = size
        while left:
            data = self._read(min(left, CHUNK))
            left -= len(data)
            yield data
        self._skip_padding(size)

    def end(self) -> None:
        """Check that the archive ends here."""
        if any(self._read(2 * BLOCK)) or self._file.read(1):
            raise UnfitArchive("the archive continues after its last member")

    def _skip_padding(self, size: int) -> None:
        if any(self._read(-size % BLOCK)):
            raise UnfitArchive("the archive has data between its members")

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
            f"the archive has format {version}; this version of Slipway reads format {FORMAT}",
            "Export and import it with the same version of Slipway.",
        )
    try:
        index = _build_index(plain)
    except (KeyError, TypeError, ValueError, AttributeError):
        index = None
    # An index that an export would write differently is refused.
    if index is None or index.encode() != data:
        raise UnfitArchive("the archive's index breaks the format's rules")
    return index


def _build_index(plain: dict[str, Any]) -> ArchiveIndex:
    """Return the index in ``plain``; ValueError, TypeError or KeyError mean invalid content."""
    listed = plain["records"]
    if [kind for kind in KINDS if kind in listed] != list(listed):
        raise ValueError
    if not {"image", "kernel"} <= set(listed):
        raise ValueError
    keys = {kind: _check_key(entry["key"]) for kind, entry in listed.items()}
    parts = {kind: _build_member(entry, manifests.MAX_MANIFEST) for kind, entry in listed.items()}
    blobs = tuple(_build_member(entry, MAX_BLOB) for entry in plain["blobs"][: MAX_BLOBS + 1])
    agent = _build_member(plain["agent"], MAX_BLOB)
    sources = plain["agent"]["sources"]
    digests = [part.digest for part in (*parts.values(), *blobs)]
    if (
        len(blobs) > MAX_BLOBS
        or len(set(digests)) != len(digests)
        or agent not in blobs
        or not manifests.is_digest(sources)
    ):
        raise ValueError
    return ArchiveIndex(keys, parts, agent, sources, blobs)


def _check_key(key: Any) -> str:
    if not isinstance(key, str) or not manifests.is_key(key):
        raise ValueError
    return key


def _build_member(entry: Any, most: int) -> ArchiveMember:
    digest, size = entry["digest"], entry["size"]
    if not isinstance(digest, str) or not manifests.is_digest(digest):
        raise ValueError
    if type(size) is not int or not 0 < size <= most:
        raise ValueError
    return ArchiveMember(digest, size)
