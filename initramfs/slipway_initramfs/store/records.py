"""What the store gives out: images, kernels and other archives, each with its manifest.

A record is a manifest file, named by the SHA-256 of its bytes, that names blobs by theirs. This
module is on the way of every run: it imports nothing that is slow to import.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway_initramfs.errors import ImageCorrupted

if TYPE_CHECKING:
    from pathlib import Path

# Version of the manifests' format; others are treated as absent.
FORMAT = 2
# Raised whenever the same recipe and packages come to give another image.
BUILDER = 5
MAX_MANIFEST = 4 << 20
MIB = 1 << 20

# Bytes that Debian's cloud kernel 6.1 needs to get to its init, beside root and initrd.
#
# Measured, by halving, for four images of 60 to 550 MiB: 77 MiB and 2.5 %. In it are the kernel
# itself (38 MiB), the 17 MiB that it takes to unpack lz4, and the reserves of its allocator.
KERNEL_MEMORY = 78 * MIB
# One byte for this many goes into the kernel's records of pages.
PAGE_OVERHEAD = 40
# Room for the frozen agent's archive, in bytes; it is in memory twice while it is unpacked.
AGENT_ARCHIVE = 16 * MIB
# One byte for this many that a machine has more goes into the kernel's records and reserves.
#
# Measured for Bash's image from 186 to 4266 MiB, and for all others at their default.
MEMORY_OVERHEAD = 32
# What a machine may have without memory above 4 GiB, for which the kernel keeps buffers below.
LOW_MEMORY = 3072 * MIB
# Bytes of these buffers, and of the reserves of one zone more.
HIGH_OVERHEAD = 128 * MIB

_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.+-_@#")
_REBUILD = "Build it again: slipway image build {}"


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in the store: ``digest`` is the SHA-256 (hexadecimal) of its ``size`` bytes."""

    path: Path
    digest: str
    size: int

    def quick_check(self) -> None:
        """Raise ImageCorrupted if the file is missing or of another length."""
        try:
            found = self.path.stat().st_size
        except OSError as error:
            raise ImageCorrupted(f"the store has lost {self.path.name[:16]}: {error}") from error
        if found != self.size:
            raise ImageCorrupted(
                f"{self.path.name[:16]} in the store has {found} bytes instead of {self.size}"
            )

    def verify(self) -> None:
        """Read the whole file and raise ImageCorrupted if its digest is another."""
        import hashlib

        self.quick_check()
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.digest:
            raise ImageCorrupted(f"{self.path.name[:16]} in the store has the digest {found[:16]}")


@dataclass(frozen=True, slots=True)
class Archive:
    """An uncompressed cpio archive that is put before the root's, such as the frozen agent."""

    kind: str
    key: str
    digest: str
    blob: Blob

    @property
    def path(self) -> Path:
        """Where the archive lies."""
        return self.blob.path

    @property
    def size(self) -> int:
        """Length of the archive in bytes."""
        return self.blob.size

    def quick_check(self) -> None:
        """Raise ImageCorrupted if the archive is missing or of another length."""
        self.blob.quick_check()

    def verify(self) -> None:
        """Raise ImageCorrupted if the archive has not the digest of its record."""
        self.blob.verify()


@dataclass(frozen=True, slots=True)
class Image:
    """The root file system of one language for one architecture.

    ``name`` is that of the language, with ``@`` and the version where one was asked for. ``digest``
    is that of the manifest, and so of all that is in it. Sizes in ``manifest``: ``archive`` the
    compressed archive, ``root`` the content of the files, ``memory`` what the unpacked root
    occupies, ``trimmed`` the content that was left out, ``workload`` what a usual program needs on
    top; all in bytes.
    """

    name: str
    architecture: str
    digest: str
    root: Blob
    manifest: dict[str, Any]

    @property
    def root_archive(self) -> Path:
        """The compressed cpio archive of the root file system."""
        return self.root.path

    @property
    def minimum_memory(self) -> int:
        """Bytes of memory below which the guest cannot unpack this root (a multiple of 1 MiB).

        The root is a ramfs. While it is unpacked, the archive is in memory as well.
        """
        unpacked = self.manifest["memory"] + self.root.size + 2 * AGENT_ARCHIVE
        need = unpacked + unpacked // PAGE_OVERHEAD + KERNEL_MEMORY
        return int(-(-need // MIB) * MIB)

    @property
    def default_memory(self) -> int:
        """Bytes of memory that suit this language's usual programs."""
        return self.minimum_memory + int(self.manifest["workload"])

    def room(self, memory: int) -> int:
        """Return how many bytes a machine with ``memory`` leaves its programs, at the least."""
        more = memory - self.minimum_memory
        # What is packed is freed once it has been unpacked.
        room = more - more // MEMORY_OVERHEAD + self.root.size
        return max(room - HIGH_OVERHEAD if memory > LOW_MEMORY else room, 0)

    def memory_for(self, room: int) -> int:
        """Return the memory of a machine that leaves its programs ``room``: whole MiB, in bytes."""
        more = max(room - self.root.size, 0)
        if self.minimum_memory + more + more // (MEMORY_OVERHEAD - 1) + MIB > LOW_MEMORY:
            more += HIGH_OVERHEAD
        need = self.minimum_memory + more + more // (MEMORY_OVERHEAD - 1)
        return int(-(-need // MIB) * MIB) + MIB

    @property
    def language(self) -> str:
        """The language's name: that of the image without a version."""
        return self.name.partition("@")[0]

    @property
    def source(self) -> dict[str, Any]:
        """Where the image comes from: its ``kind`` is ``debian`` or ``registry``."""
        source = self.manifest["source"]
        return source if isinstance(source, dict) else {}

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the container image sets, and what else it says to its programs."""
        config = self.manifest.get("config")
        told = config.get("environment") if isinstance(config, dict) else None
        if not isinstance(told, dict):
            return {}
        return {name: value for name, value in told.items() if isinstance(value, str)}

    def quick_check(self) -> None:
        """Raise ImageCorrupted if the archive is missing or of another length."""
        try:
            self.root.quick_check()
        except ImageCorrupted as error:
            raise self._make_error(error) from error

    def verify(self) -> None:
        """Raise ImageCorrupted if the archive's bytes are not those of the manifest."""
        try:
            self.root.verify()
        except ImageCorrupted as error:
            raise self._make_error(error) from error

    def _make_error(self, error: ImageCorrupted) -> ImageCorrupted:
        return ImageCorrupted(
            f"the image {self.name!r} is damaged: {error.message}", _REBUILD.format(self.name)
        )


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the form that a VMM loads (x86-64: ELF vmlinux, arm64: Image), and its modules.

    ``version`` is the kernel's release, as ``uname -r`` says it.
    """

    architecture: str
    version: str
    digest: str
    image: Blob
    modules: Blob
    manifest: dict[str, Any]

    @property
    def path(self) -> Path:
        """The kernel itself."""
        return self.image.path

    @property
    def modules_archive(self) -> Path:
        """An uncompressed cpio archive of the modules that the agent's port needs."""
        return self.modules.path

    def quick_check(self) -> None:
        """Raise ImageCorrupted if a file is missing or of another length."""
        self.image.quick_check()
        self.modules.quick_check()

    def verify(self) -> None:
        """Raise ImageCorrupted if the files' bytes are not those of the manifest."""
        self.image.verify()
        self.modules.verify()


def encode(kind: str, manifest: dict[str, Any]) -> bytes:
    """Return the bytes of a record's manifest, by whose digest it is named."""
    whole = {**manifest, "format": FORMAT, "kind": kind}
    return json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"


def digests_in(manifest: dict[str, Any]) -> set[str]:
    """Return the digests of all blobs that a record of any kind names."""
    entries = (entry for entry in manifest.values() if isinstance(entry, dict))
    return {entry["digest"] for entry in entries if isinstance(entry.get("digest"), str)}


def parse(data: bytes, kind: str) -> dict[str, Any]:
    """Return the manifest in ``data`` if it is one of this kind and format.

    Raises ImageCorrupted for anything else: the store may have been damaged or tampered with.
    """
    if len(data) > MAX_MANIFEST:
        raise ImageCorrupted("a manifest in the store is overlong")
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageCorrupted(f"a manifest in the store is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ImageCorrupted("a manifest in the store has another format")
    if manifest.get("kind") != kind:
        raise ImageCorrupted(f"a manifest in the store is not of the kind {kind!r}")
    return manifest


def text(manifest: dict[str, Any], key: str) -> str:
    """Return the string at ``key`` or raise ImageCorrupted."""
    value = manifest.get(key)
    if not isinstance(value, str):
        raise ImageCorrupted(f"a manifest in the store has no text {key!r}")
    return value


def count(manifest: dict[str, Any], key: str) -> int:
    """Return the non-negative integer at ``key`` or raise ImageCorrupted."""
    value = manifest.get(key)
    if type(value) is not int or not 0 <= value < 1 << 50:
        raise ImageCorrupted(f"a manifest in the store has no number {key!r}")
    return value


def is_digest(value: str) -> bool:
    """Whether ``value`` is a SHA-256 in lower-case hexadecimal digits."""
    return len(value) == 64 and not value.strip("0123456789abcdef")


def is_key(name: str) -> bool:
    """Whether ``name`` can be a file name of the store: no separators, no hidden files."""
    return 0 < len(name) <= 160 and name[0] != "." and _KEY_CHARACTERS.issuperset(name)
