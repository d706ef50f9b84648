"""Debian's cloud kernel: the image in the form that a VMM loads, and the modules for the agent.

x86-64: the ELF ``vmlinux`` inside ``vmlinuz`` (Documentation/arch/x86/boot.rst, fields
payload_offset and payload_length). arm64: the raw Image, which ``vmlinuz`` is there.
"""

from __future__ import annotations

import lzma
import os
import re
import struct
from typing import TYPE_CHECKING, Any, Protocol

from slipway_initramfs.compression.compressors import LZ4_MAGIC, unpack_lz4
from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.layers import apply_layer
from slipway_initramfs.rootfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from slipway_initramfs.debian.archive import Package
    from slipway_initramfs.disk.spool import Spool, Writable
    from slipway_initramfs.rootfs.nodes import Node

# Meta package that depends on the newest kernel of the release, by architecture.
PACKAGES = {"amd64": "linux-image-cloud-amd64", "arm64": "linux-image-cloud-arm64"}
# Drivers of the agent's port; their dependencies are added.
MODULES = ("virtio_mmio", "virtio_console")
# Drivers of the network interface, loaded only in a machine that has it.
NETWORK_MODULES = ("virtio_net",)
MODULES_DIRECTORY = ".agent/modules"
NETWORK_DIRECTORY = f"{MODULES_DIRECTORY}/network"
MAX_KERNEL = 256 << 20
MAX_MODULE = 16 << 20

_PAGE = 4096
_SETUP_MAGIC = b"HdrS"
_XZ_MAGIC = b"\xfd7zXZ\0"
_GZIP_MAGIC = b"\x1f\x8b"
_BZIP2_MAGIC = b"BZh"
_LZMA_MAGIC = b"\x5d\x00\x00"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ELF_MAGIC = b"\x7fELF"
_ARM64_MAGIC = b"ARM\x64"
# struct module_signature, of which the last field is the length (include/linux/module_signature.h)
_SIGNATURE = struct.Struct(">8xI")
_SIGNATURE_MAGIC = b"~Module signature appended~\n"


class KernelPackage:
    """Files of a kernel package. The constructor raises ImageError for an unusual layout."""

    def __init__(self, layer: Spool, architecture: str) -> None:
        self._tree = Tree()
        self._architecture = architecture
        apply_layer(self._tree, layer, "deb")
        boot = self._tree.find("boot")
        names = [name for name in boot.children if name.startswith("vmlinuz-")] if boot else []
        if len(names) != 1:
            raise ImageError(f"a kernel package with {len(names)} kernels in /boot instead of one")
        self.version = names[0].removeprefix("vmlinuz-")

    def image(self) -> bytes:
        """Return the bytes of the kernel in the form that a VMM loads."""
        node = self._tree.find(f"boot/vmlinuz-{self.version}")
        if node is None or not node.is_file:
            raise ImageError("the kernel in /boot is not a file")
        data = node.read(MAX_KERNEL)
        return unpack_vmlinuz(data) if self._architecture == "amd64" else check_arm64(data)

    def write_modules(self, output: Writable) -> None:
        """Write the archive of the modules; the file names sort in loading order."""
        port = self.modules(MODULES)
        network = {
            name: data
            for name, data in self.modules((*MODULES, *NETWORK_MODULES)).items()
            if name not in port
        }
        tree = Tree()
        for directory, modules in ((MODULES_DIRECTORY, port), (NETWORK_DIRECTORY, network)):
            tree.add_directory(directory)
            for number, (name, data) in enumerate(modules.items()):
                tree.add_file(f"{directory}/{number:02}-{name}.ko", data)
        write_tree(tree, output)

    def modules(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return these modules and all their dependencies, in loading order."""
        found = dict(self._find_module_files())
        builtin_list = self._tree.find(f"lib/modules/{self.version}/modules.builtin")
        lines = builtin_list.read(MAX_MODULE).decode("utf-8", "replace") if builtin_list else ""
        builtin = {_parse_module_name(line) for line in lines.splitlines()}
        ordered: dict[str, bytes] = {}
        pending = [(name, False) for name in reversed(names)]
        seen: set[str] = set()
        while pending:
            name, ready = pending.pop()
            if ready:
                ordered[name] = _read_module(name, found[name])
            elif name not in seen and name not in builtin:
                seen.add(name)
                if name not in found:
                    raise ImageError(f"the kernel {self.version} has no module {name}")
                pending.append((name, True))
                data = _read_module(name, found[name])
                pending += [(needed, False) for needed in reversed(_read_dependencies(data))]
        return ordered

    def _find_module_files(self) -> Iterator[tuple[str, Node]]:
        prefix = f"lib/modules/{self.version}/kernel/"
        for path, node in self._tree.walk():
            if path.startswith(prefix) and path.endswith((".ko", ".ko.xz")) and node.is_file:
                yield _parse_module_name(path), node


def find_kernel_package(packages: tuple[Package, ...]) -> Package:
    """Find the package with the kernel among the packages of a resolved meta package."""
    for package in packages:
        if re.match(r"linux-image-\d", package.name):
            return package
    raise ImageError("Debian's kernel meta package does not depend on a kernel package")


def unpack_vmlinuz(data: bytes) -> bytes:
    """Return the ELF kernel inside an x86-64 ``vmlinuz``.

    Raises:
        ImageError: the file or its payload is invalid.
    """
    # Offsets of the real-mode header: setup_sects 0x1f1, header 0x202, version 0x206,
    # payload_offset 0x248, payload_length 0x24c.
    if len(data) < 0x250 or data[0x202:0x206] != _SETUP_MAGIC:
        raise ImageError("the kernel is not an x86-64 boot image")
    if struct.unpack_from("<H", data, 0x206)[0] < 0x208:
        raise ImageError("the kernel's boot protocol is older than 2.08 and names no payload")
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (sectors + 1) * 512 + offset
    if length < 12 or start + length > len(data):
        raise ImageError("the kernel's payload lies outside its file")
    payload = data[start : start + length]
    (size,) = struct.unpack_from("<I", payload, length - 4)
    if size > MAX_KERNEL:
        raise ImageError(f"the kernel claims to unpack to {size >> 20} MiB")
    kernel = _unpack_payload(payload, size)
    if len(kernel) != size or not kernel.startswith(_ELF_MAGIC):
        raise ImageError("the kernel's payload is not an ELF file of the stated size")
    return kernel


def write_sparse(data: bytes, output: BinaryIO) -> None:
    """Write ``data`` with holes in place of zero pages, which a VMM need not load.

    A third of the kernel's file is zeros, the sections without content.
    """
    for start in range(0, len(data), _PAGE):
        page = data[start : start + _PAGE]
        if page.count(0) == len(page):
            output.seek(len(page), os.SEEK_CUR)
        else:
            output.write(page)
    output.truncate(len(data))


def check_arm64(data: bytes) -> bytes:
    """Return an arm64 Image (Documentation/arch/arm64/booting.rst), unpacked if gzip-compressed."""
    if data.startswith(_GZIP_MAGIC):
        import zlib

        try:
            data = zlib.decompressobj(31).decompress(data, MAX_KERNEL)
        except zlib.error as error:
            raise ImageError(f"the kernel is a damaged gzip file: {error}") from error
    if data[0x38:0x3C] != _ARM64_MAGIC:
        raise ImageError("the kernel is not an arm64 boot image")
    return data


def describe_kernel(architecture: str, package: Package, version: str) -> dict[str, Any]:
    """Return the origin of a kernel, for its manifest."""
    return {
        "architecture": architecture,
        "version": version,
        "package": {
            "name": package.name,
            "version": package.version,
            "sha256": package.sha256,
        },
    }


def _unpack_payload(payload: bytes, size: int) -> bytes:
    """Return the unpacked ``payload``, or slightly more than its first ``size`` bytes.

    Each format of a kernel build ends with the unpacked size, in four bytes: gzip by design, the
    others because the build appends it (scripts/Makefile.lib of Linux).
    """
    packed = payload[:-4]
    if payload.startswith(struct.pack("<I", LZ4_MAGIC)):
        return unpack_lz4(packed, size)
    if payload.startswith(_XZ_MAGIC):
        return _unpack_xz(packed, size)
    if payload.startswith(_GZIP_MAGIC):
        import zlib

        return _unpack_stream("gzip", zlib.decompressobj(31), zlib.error, payload, size)
    if payload.startswith(_BZIP2_MAGIC):
        import bz2

        return _unpack_stream("bzip2", bz2.BZ2Decompressor(), OSError, packed, size)
    if payload.startswith(_LZMA_MAGIC):
        decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, MAX_KERNEL)
        return _unpack_stream("lzma", decoder, lzma.LZMAError, packed, size)
    if payload.startswith(_ZSTD_MAGIC):
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
                return reader.read(size + 1)
        except zstandard.ZstdError as error:
            raise ImageError(f"a damaged zstd stream: {error}") from error
    raise ImageError(f"the kernel's payload has an unknown compression: {payload[:4].hex()}")


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, limit: int, /) -> bytes: ...


def _unpack_stream(
    name: str, decoder: _Decoder, error_type: type[Exception], data: bytes, limit: int
) -> bytes:
    try:
        # A byte more than allowed: at the limit itself the decoder would not read to the end.
        unpacked = decoder.decompress(data, limit + 1)
    except (error_type, EOFError) as error:
        raise ImageError(f"a damaged {name} stream: {error}") from error
    if not decoder.eof:
        raise ImageError(f"a {name} stream is truncated or longer than stated")
    return unpacked


def _unpack_xz(data: bytes, limit: int) -> bytes:
    decoder = lzma.LZMADecompressor(memlimit=MAX_KERNEL)
    return _unpack_stream("xz", decoder, lzma.LZMAError, data, limit)


def _parse_module_name(path: str) -> str:
    # modprobe takes dashes and underscores in names as the same.
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _read_module(name: str, node: Node) -> bytes:
    data = node.read(MAX_MODULE)
    if data.startswith(_XZ_MAGIC):
        data = _unpack_xz(data, MAX_MODULE)
    if not data.startswith(_ELF_MAGIC):
        raise ImageError(f"the kernel module {name} is not an ELF file")
    return _strip_signature(data)


def _strip_signature(module: bytes) -> bytes:
    """Return a module without its signature, which a guest would verify for longer than it loads.

    The digests of package and store stand for it. The kernel notes in its log that such a module
    taints it.
    """
    end = len(module) - len(_SIGNATURE_MAGIC) - _SIGNATURE.size
    if end < 0 or not module.endswith(_SIGNATURE_MAGIC):
        return module
    (length,) = _SIGNATURE.unpack_from(module, end)
    return module[: max(end - length, 0)]


def _read_dependencies(data: bytes) -> list[str]:
    match = re.search(rb"\0depends=([a-zA-Z0-9_,-]*)\0", data)
    names = match[1].decode().split(",") if match else []
    return [name.replace("-", "_") for name in names if name]
