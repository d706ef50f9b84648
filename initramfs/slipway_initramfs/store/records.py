"""Records of the store: images, kernels and other archives, each with its manifest.

A record is a manifest file, named by the SHA-256 of its bytes, that names blobs by theirs. Every
run imports this module: its own imports are fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.units import MIB

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

    from slipway_initramfs.disk.trusted_tree import TrustedTree

# Increased whenever the same recipe and packages give another image than before.
BUILDER = 6
# Increased whenever agent or host need an option that older small kernels lack.
SMALL_BUILDER = 1

# Names of kernels: Debian's cloud kernel, and the small kernel that is compiled from its source.
DEBIAN_KERNEL = "debian"
SMALL_KERNEL = "small"
KERNELS = (DEBIAN_KERNEL, SMALL_KERNEL)

# Memory that Debian's cloud kernel 6.1 needs to reach init, besides root and initrd, in bytes.
#
# Measured by bisection for four images of 60 to 550 MiB: 77 MiB and 2.5 %. Included are the kernel
# itself (38 MiB), 17 MiB for unpacking lz4, and the reserves of its allocator.
KERNEL_MEMORY = 78 * MIB
# Bytes of memory per byte of the kernel's page structures.
PAGE_OVERHEAD = 40
# Allowance for the frozen agent's archive, in bytes; it is in memory twice during unpacking.
AGENT_ARCHIVE = 16 * MIB
# Bytes of additional memory per byte of the kernel's structures and reserves.
#
# Measured for Bash's image from 186 to 4266 MiB, and for all others at their defaults.
MEMORY_OVERHEAD = 32
# Largest memory below 4 GiB, in bytes. For memory above, the kernel keeps buffers below 4 GiB.
LOW_MEMORY = 3072 * MIB
# Size of these buffers and of the reserves of a further zone, in bytes.
HIGH_OVERHEAD = 128 * MIB

_REBUILD = "Build it again: slipway image build {}"


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in the store: ``digest`` is the SHA-256 (hexadecimal) of its ``size`` bytes."""

    path: Path
    digest: str
    size: int
    tree: TrustedTree = field(compare=False, repr=False)

    def quick_check(self) -> None:
        """Check that the file exists and has the stated length.

        Raises:
            ImageCorrupted: the file is missing or of another length.
            UntrustedFile: another user can change the file, or it is no plain file.
        """
        try:
            found = self.tree.examine_file(self.path).st_size
        except OSError as error:
            raise ImageCorrupted(
                f"{self.path.name[:16]} is missing in the store: {error}"
            ) from error
        if found != self.size:
            raise ImageCorrupted(
                f"{self.path.name[:16]} in the store has {found} bytes instead of {self.size}"
            )

    def open(self) -> BufferedReader:
        """Open the file for reading; the caller closes it.

        Raises:
            UntrustedFile: another user can change the file, or it is no plain file.
            OSError: the file cannot be opened.
        """
        return os.fdopen(self.tree.open_file(self.path), "rb")

    def verify(self) -> None:
        """Check the whole file against its digest.

        Raises:
            ImageCorrupted: the file is missing or damaged.
            UntrustedFile: another user can change the file, or it is no plain file.
        """
        import hashlib

        self.quick_check()
        with self.open() as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.digest:
            raise ImageCorrupted(f"{self.path.name[:16]} in the store has the digest {found[:16]}")


@dataclass(frozen=True, slots=True)
class Archive:
    """Uncompressed cpio archive to be unpacked before the root's, such as the frozen agent."""

    kind: str
    key: str
    digest: str
    blob: Blob

    @property
    def path(self) -> Path:
        """Path of the archive."""
        return self.blob.path

    @property
    def size(self) -> int:
        """Length of the archive in bytes."""
        return self.blob.size

    def quick_check(self) -> None:
        """Check that the archive exists and has the stated length.

        Raises:
            ImageCorrupted: the archive is missing or of another length.
        """
        self.blob.quick_check()

    def verify(self) -> None:
        """Check the whole archive against its digest.

        Raises:
            ImageCorrupted: the archive is missing or damaged.
        """
        self.blob.verify()


@dataclass(frozen=True, slots=True)
class Image:
    """Root file system of one language for one architecture.

    ``name`` is the language's name, with ``@`` and the version if a version was requested.
    ``digest`` is the digest of the manifest, and thereby of all content. Sizes in ``manifest``, in
    bytes: ``archive`` the compressed archive, ``root`` the content of the files, ``memory`` the
    unpacked root in memory, ``trimmed`` the removed content, ``workload`` the additional memory of
    a usual program.
    """

    name: str
    architecture: str
    digest: str
    root: Blob
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        """Name of the image's record."""
        return build_image_key(self.name, self.architecture)

    @property
    def root_archive(self) -> Path:
        """Path of the compressed cpio archive of the root file system."""
        return self.root.path

    @property
    def minimum_memory(self) -> int:
        """Memory that a guest needs to unpack this root, in bytes (a multiple of 1 MiB).

        The root is a ramfs. During the unpacking the archive is in memory as well.
        """
        unpacked = self.manifest["memory"] + self.root.size + 2 * AGENT_ARCHIVE
        need = unpacked + unpacked // PAGE_OVERHEAD + KERNEL_MEMORY
        return int(-(-need // MIB) * MIB)

    @property
    def default_memory(self) -> int:
        """Memory that suits usual programs of this language, in bytes."""
        return self.minimum_memory + int(self.manifest["workload"])

    def room(self, memory: int) -> int:
        """Return the bytes that a machine with ``memory`` bytes leaves to programs, at least."""
        more = memory - self.minimum_memory
        # The archive is freed after unpacking.
        room = more - more // MEMORY_OVERHEAD + self.root.size
        return max(room - HIGH_OVERHEAD if memory > LOW_MEMORY else room, 0)

    def memory_for(self, room: int) -> int:
        """Return the memory of a machine that leaves ``room`` to programs: whole MiB, in bytes."""
        more = max(room - self.root.size, 0)
        if self.minimum_memory + more + more // (MEMORY_OVERHEAD - 1) + MIB > LOW_MEMORY:
            more += HIGH_OVERHEAD
        need = self.minimum_memory + more + more // (MEMORY_OVERHEAD - 1)
        return int(-(-need // MIB) * MIB) + MIB

    @property
    def language(self) -> str:
        """Name of the language: the image's name without the version."""
        return self.name.partition("@")[0]

    @property
    def source(self) -> dict[str, Any]:
        """Origin of the image; its ``kind`` is ``debian`` or ``registry``."""
        source = self.manifest["source"]
        return source if isinstance(source, dict) else {}

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the container image, including those for its work directory and user."""
        config = self.manifest.get("config")
        variables = config.get("environment") if isinstance(config, dict) else None
        if not isinstance(variables, dict):
            return {}
        return {name: value for name, value in variables.items() if isinstance(value, str)}

    def quick_check(self) -> None:
        """Check that the archive exists and has the stated length.

        Raises:
            ImageCorrupted: the archive is missing or of another length.
        """
        try:
            self.root.quick_check()
        except ImageCorrupted as error:
            raise self._make_error(error) from error

    def verify(self) -> None:
        """Check the whole archive against its digest.

        Raises:
            ImageCorrupted: the archive is missing or damaged.
        """
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
    """Kernel in the form that a VMM loads (x86-64: ELF vmlinux, arm64: Image), and its modules.

    ``version`` is the kernel's release, as in ``uname -r``.
    """

    architecture: str
    version: str
    digest: str
    image: Blob
    modules: Blob
    manifest: dict[str, Any]

    @property
    def path(self) -> Path:
        """Path of the kernel."""
        return self.image.path

    @property
    def modules_archive(self) -> Path:
        """Path of the uncompressed cpio archive with the modules for the agent's port."""
        return self.modules.path

    @property
    def name(self) -> str:
        """Name of the kernel: one of :data:`KERNELS`."""
        return SMALL_KERNEL if self.manifest.get("name") == SMALL_KERNEL else DEBIAN_KERNEL

    @property
    def key(self) -> str:
        """Name of the kernel's record."""
        return build_kernel_key(self.architecture, self.name)

    @property
    def is_current(self) -> bool:
        """Whether this version of Slipway would build a kernel with the same abilities."""
        wanted = SMALL_BUILDER if self.name == SMALL_KERNEL else BUILDER
        return self.manifest.get("builder") == wanted

    def quick_check(self) -> None:
        """Check that both files exist and have the stated lengths.

        Raises:
            ImageCorrupted: a file is missing or of another length.
        """
        self.image.quick_check()
        self.modules.quick_check()

    def verify(self) -> None:
        """Check both files against their digests.

        Raises:
            ImageCorrupted: a file is missing or damaged.
        """
        self.image.verify()
        self.modules.verify()


def build_image_key(name: str, architecture: str) -> str:
    """Return the name of the record of an image."""
    return f"{name}-{architecture}"


def make_kernel_error(architecture: str, name: str) -> ImageError:
    """Return the error for a store without the kernel of this name."""
    return ImageError(
        f"the store has no kernel {name!r} for {architecture}",
        f"Build it: slipway kernel build --arch {architecture}",
    )


def build_kernel_key(architecture: str, name: str) -> str:
    """Return the name of the record of a kernel, one of :data:`KERNELS`."""
    return architecture if name == DEBIAN_KERNEL else f"{architecture}-{name}"
