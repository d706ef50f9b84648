"""Files that are almost kernels: each opens as an image that can be loaded, or is an error."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.effort import share
from slipway import InputError
from slipway.vmm.arch.x86_64.kernel import KernelImage, open_kernel
from unit.initramfs.debian.test_kernel import PACKERS, vmlinuz
from unit.vmm.test_kernel import DAMAGED, LOAD, NOTE, OTHER, elf

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._run.assets import Assets

MIB = 1 << 20
SECONDS = 10
KERNEL = elf()
BOOT_IMAGES = [vmlinuz(pack(KERNEL), len(KERNEL)) for pack in PACKERS.values()]
EXAMPLES = [KERNEL, *BOOT_IMAGES, *(data for data, _ in (OTHER | DAMAGED).values() if data)]
# The numbers at which a check may go wrong, in each width that a header has.
EDGES = sorted(
    {edge + off & 2**64 - 1 for edge in (0, 64, 4096, MIB, 2**32, 2**63) for off in (-1, 0, 1)}
)
numbers = st.sampled_from(EDGES) | st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels") / "kernel"


def check(file: Path, data: bytes, size: int | None = None) -> None:
    """Open a file that begins with ``data`` and has zeros up to ``size``."""
    file.write_bytes(data)
    size = len(data) if size is None else size
    os.truncate(file, size)
    began = time.monotonic()
    message = ""
    try:
        image = open_kernel(file)
    except InputError as error:
        message = error.message
    else:
        with image:
            check_image(image, size if data.startswith(b"\x7fELF") else None)
    assert time.monotonic() - began < SECONDS
    assert not message or (message.startswith(str(file)) and "\n" not in message)


def check_image(image: KernelImage, file_size: int | None) -> None:
    free = MIB
    for segment in image.segments:
        assert free <= segment.address
        assert segment.file_size <= segment.memory_size
        free = segment.address + segment.memory_size
        if file_size is not None:
            assert segment.file_offset + segment.file_size <= file_size
        if segment.file_size <= MIB:
            image.read_segment_into(segment, memoryview(bytearray(segment.file_size)))
    assert image.end == free <= 1 << 32
    assert any(s.address <= image.entry < s.address + s.file_size for s in image.segments)


@st.composite
def change_numbers(draw: st.DrawFn, data: bytes, reach: int) -> bytes:
    """``data`` with up to four numbers of its first ``reach`` bytes replaced, maybe cut short."""
    result = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        width = draw(st.sampled_from([1, 2, 4, 8]))
        at = draw(st.integers(0, min(reach, len(data)) - width))
        number = draw(numbers) & (1 << 8 * width) - 1
        result[at : at + width] = number.to_bytes(width, "little")
    if draw(st.integers(0, 3)) == 0:
        del result[draw(st.integers(0, len(result))) :]
    return bytes(result)


@given(data=st.binary(max_size=2000))
@example(data=b"\x7fELF")
@example(data=bytes(0x202) + b"HdrS")
def test_random_bytes(file: Path, data: bytes) -> None:
    check(file, data)
    check(file, b"\x7fELF\2\1\1" + data)
    check(file, bytes(0x202) + b"HdrS\x0f\x02" + data)


@given(data=st.sampled_from(EXAMPLES).flatmap(lambda data: change_numbers(data, 300)))
def test_changed_headers(file: Path, data: bytes) -> None:
    check(file, data)


@given(data=st.sampled_from(BOOT_IMAGES).flatmap(lambda data: change_numbers(data, 1 << 20)))
@share(2)
def test_changed_boot_images(file: Path, data: bytes) -> None:
    check(file, data)


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([LOAD, LOAD, NOTE]),
            st.just(7),
            numbers | st.just(0x1000),
            numbers,
            st.sampled_from([MIB, MIB + 4096, 2 * MIB, 16 * MIB]) | numbers,
            st.integers(0, 8192) | numbers,
            st.integers(0, 8192) | numbers,
            numbers,
        ),
        max_size=5,
    ),
    entry=st.sampled_from([MIB, 16 * MIB]) | numbers,
)
def test_any_program_headers(file: Path, headers: list[tuple[int, ...]], entry: int) -> None:
    check(file, elf(headers, entry=entry))


@pytest.fixture(scope="module")
def real_kernel(bash: Assets) -> tuple[bytes, int]:
    """First bytes and size of the kernel of the images."""
    with bash.kernel_path.open("rb") as opened:
        return opened.read(4096), bash.kernel_path.stat().st_size


@given(chosen=st.data())
def test_real_kernel_with_changed_headers(
    file: Path, real_kernel: tuple[bytes, int], chosen: st.DataObject
) -> None:
    data, size = real_kernel

    check(file, chosen.draw(change_numbers(data, 64 + 5 * 56)), size)


@given(
    claimed=st.integers(0, 2**32 - 1) | st.integers(0, 70_000),
    form=st.sampled_from(sorted(PACKERS)),
    zeros=st.integers(0, 20).map(lambda bits: 1 << bits),
)
@share(2)
def test_wrong_sizes_of_what_is_packed(file: Path, claimed: int, form: str, zeros: int) -> None:
    data = bytearray(vmlinuz(PACKERS[form](KERNEL + bytes(zeros)), 0))
    # The size is the last of the payload, behind which the helper puts 100 zeros.
    struct.pack_into("<I", data, len(data) - 104, claimed)

    check(file, bytes(data))
