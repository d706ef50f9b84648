from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.compression.compressors import create_compressor
from slipway_initramfs.debian.archive import Package
from slipway_initramfs.debian.kernel import (
    KernelPackage,
    check_arm64,
    find_kernel_package,
    unpack_vmlinuz,
    write_sparse,
)
from slipway_initramfs.errors import ImageError
from support.layers import file, layer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ELF = b"\x7fELF" + bytes(3000) + b"kernel"
RELEASE = "6.1.0-1-test"


def lz4(data: bytes) -> bytes:
    buffer = io.BytesIO()
    packer = create_compressor("lz4", buffer)
    packer.write(data)
    packer.close()
    return buffer.getvalue()


def vmlinuz(payload: bytes, size: int, sectors: int = 3) -> bytes:
    header = bytearray((sectors + 1) * 512)
    header[0x1F1] = sectors
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, 0x20F)
    struct.pack_into("<H", header, 0x236, 1)  # it has a 64-bit entry
    struct.pack_into("<II", header, 0x248, 64, len(payload) + 4)
    return bytes(header) + bytes(64) + payload + struct.pack("<I", size) + bytes(100)


# gzip ends in the size by itself, to the others a kernel's build appends it.
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "gzip": lambda data: gzip.compress(data)[:-4],
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("form", PACKERS)
def test_the_kernel_is_found_in_its_boot_image(form: str) -> None:
    assert unpack_vmlinuz(vmlinuz(PACKERS[form](ELF), len(ELF))) == ELF


@pytest.mark.parametrize("form", PACKERS)
def test_damage_to_the_payload_is_an_image_error(form: str) -> None:
    packed = PACKERS[form](ELF)

    for payload in (packed[:-9], packed[:12] + b"\xff" * (len(packed) - 12), packed[:6] + bytes(9)):
        with pytest.raises(ImageError):
            unpack_vmlinuz(vmlinuz(payload, len(ELF)))


@pytest.mark.parametrize("form", PACKERS)
def test_more_than_is_claimed_is_not_unpacked(form: str) -> None:
    data = vmlinuz(PACKERS[form](ELF + bytes(64 << 20)), len(ELF))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError):
            unpack_vmlinuz(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 32 << 20  # lz4 has blocks of 8 MiB


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(5000),
        vmlinuz(lz4(ELF), len(ELF))[:1000],
        vmlinuz(lz4(ELF), len(ELF) + 1),
        vmlinuz(lz4(ELF), len(ELF) - 1),
        vmlinuz(lz4(b"no ELF"), 6),
        vmlinuz(lzma.compress(ELF)[:-20], len(ELF)),
        vmlinuz(b"BZh91AY&SY" * 4, 100),
        vmlinuz(lz4(ELF), 1 << 31),
    ],
)
def test_a_file_that_is_not_a_kernel_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        unpack_vmlinuz(data)


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=64))
def test_changed_bytes_give_an_elf_file_or_an_image_error(offset: int, noise: bytes) -> None:
    data = bytearray(vmlinuz(lz4(ELF), len(ELF)))
    data[offset : offset + len(noise)] = noise

    try:
        kernel = unpack_vmlinuz(bytes(data))
    except ImageError:
        return

    assert kernel.startswith(b"\x7fELF")


@pytest.mark.parametrize("tail", [b"", b"end", bytes(4096 * 3), bytes(5000)])
def test_zeros_are_holes_in_the_stored_file(tmp_path: Path, tail: bytes) -> None:
    data = b"head" + bytes(4096 * 64) + b"\x01" + tail
    path = tmp_path / "kernel"

    with path.open("wb") as output:
        write_sparse(data, output)

    assert path.read_bytes() == data
    assert path.stat().st_blocks * 512 < len(data) // 2


def test_an_arm64_kernel_is_known_by_its_magic() -> None:
    image = bytes(0x38) + b"ARM\x64" + bytes(100)

    assert check_arm64(image) == image
    with pytest.raises(ImageError):
        check_arm64(bytes(200))


def module(name: str, *depends: str) -> bytes:
    return b"\x7fELF\0depends=" + ",".join(depends).encode() + b"\0name=" + name.encode() + b"\0"


def package(*modules: tuple[str, bytes], builtin: str = "kernel/virtio_net.ko\n") -> KernelPackage:
    base = f"lib/modules/{RELEASE}"
    return KernelPackage(
        layer(
            file(f"boot/vmlinuz-{RELEASE}", vmlinuz(lz4(ELF), len(ELF))),
            file(f"{base}/modules.builtin", builtin.encode()),
            *(file(f"{base}/kernel/drivers/{name}", data) for name, data in modules),
        ),
        "amd64",
    )


def write_archive(package: KernelPackage) -> bytes:
    buffer = io.BytesIO()
    package.write_modules(buffer)
    return buffer.getvalue()


def test_modules_are_numbered_in_the_order_of_their_dependencies() -> None:
    ring, virtio = module("virtio_ring"), module("virtio", "virtio_ring")
    made = package(
        ("virtio_ring.ko", ring),
        ("virtio.ko.xz", lzma.compress(virtio)),
        ("virtio-mmio.ko", module("virtio_mmio", "virtio", "virtio_ring")),
        ("virtio_console.ko", module("virtio_console", "virtio")),
    )

    data = write_archive(made)

    names = [
        f".agent/modules/{n}.ko".encode()
        for n in ("00-virtio_ring", "01-virtio", "02-virtio_mmio", "03-virtio_console")
    ]
    positions = [data.find(name) for name in names]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert virtio in data


def test_network_modules_stand_apart_and_without_those_of_the_port() -> None:
    made = package(
        ("virtio.ko", module("virtio")),
        ("virtio_mmio.ko", module("virtio_mmio", "virtio")),
        ("virtio_console.ko", module("virtio_console", "virtio")),
        ("failover.ko", module("failover")),
        ("net_failover.ko", module("net_failover", "failover")),
        ("virtio_net.ko", module("virtio_net", "net_failover", "virtio")),
        builtin="",
    )

    data = write_archive(made)

    names = re.findall(rb"\.agent/modules/([a-z0-9_/-]+\.ko)", data)
    assert names == [
        b"00-virtio.ko",
        b"01-virtio_mmio.ko",
        b"02-virtio_console.ko",
        b"network/00-failover.ko",
        b"network/01-net_failover.ko",
        b"network/02-virtio_net.ko",
    ]


def test_modules_are_stored_without_their_signatures() -> None:
    virtio, ring = module("virtio"), module("virtio_ring")
    # struct module_signature, with the length of what is before it, and its magic.
    signature = b"PKCS7" + bytes(8) + (5).to_bytes(4, "big") + b"~Module signature appended~\n"
    made = package(("virtio.ko", virtio + signature), ("virtio_ring.ko", ring))

    assert made.modules(["virtio", "virtio_ring"]) == {"virtio": virtio, "virtio_ring": ring}


def test_built_in_modules_are_skipped() -> None:
    made = package(
        ("virtio_console.ko", module("virtio_console", "virtio")),
        builtin="kernel/virtio.ko\nkernel/virtio_mmio.ko\nkernel/virtio_net.ko\n",
    )

    data = write_archive(made)

    assert b"00-virtio_console.ko" in data
    assert b"virtio_mmio" not in data


def test_a_missing_module_is_named() -> None:
    with pytest.raises(ImageError, match="virtio_mmio"):
        write_archive(package(("virtio_console.ko", module("virtio_console"))))


def test_modules_that_need_each_other_do_not_loop() -> None:
    made = package(
        ("virtio_mmio.ko", module("virtio_mmio", "virtio_console")),
        ("virtio_console.ko", module("virtio_console", "virtio_mmio")),
    )

    assert b"virtio_console.ko" in write_archive(made)


def test_a_package_without_a_kernel_is_an_error() -> None:
    with pytest.raises(ImageError, match="0 kernels"):
        KernelPackage(layer(file("usr/x")), "amd64")


def test_the_kernel_is_found_among_dependencies_of_the_meta_package() -> None:
    names = ("linux-base", "linux-image-6.1.0-9-cloud-amd64", "linux-image-cloud-amd64")
    packages = tuple(Package(name, "1", "amd64", "", 0, "") for name in names)

    assert find_kernel_package(packages).name == "linux-image-6.1.0-9-cloud-amd64"
