from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.compression.compressors import (
    COMPRESSORS,
    GZIP_BLOCK,
    GZIP_WINDOW,
    LZ4_BLOCK,
    create_compressor,
    unpack_lz4,
)
from slipway_initramfs.errors import ImageError
from support.host_programs import need_program

if TYPE_CHECKING:
    from collections.abc import Callable

UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lambda data: unpack_lz4(data, 1 << 30),
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "gzip": gzip.decompress,
    "none": lambda data: data,
}
each = pytest.mark.parametrize("name", COMPRESSORS)


def compress(data: bytes, piece: int = 1 << 20, name: str = "lz4") -> bytes:
    buffer = io.BytesIO()
    packer = create_compressor(name, buffer)
    for start in range(0, len(data), piece):
        packer.write(data[start : start + piece])
    packer.close()
    return buffer.getvalue()


def sample(size: int) -> bytes:
    """Half noise and half zeros, so that blocks differ in length."""
    noise = random.Random(1)
    return b"".join(noise.randbytes(5000) + bytes(5000) for _ in range(-(-size // 10000)))[:size]


@each
@pytest.mark.parametrize(
    "size", [0, 1, GZIP_BLOCK, GZIP_BLOCK + 1, LZ4_BLOCK - 1, LZ4_BLOCK, 2 * LZ4_BLOCK + 7]
)
def test_compressed_data_is_decompressed_to_the_same_bytes(name: str, size: int) -> None:
    data = sample(size)

    assert UNPACK[name](compress(data, name=name)) == data


@each
def test_the_size_of_the_pieces_does_not_show(name: str) -> None:
    data = sample(LZ4_BLOCK + 12345)

    assert compress(data, 1000, name) == compress(data, len(data), name)


@each
def test_the_number_of_cores_does_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sample(5 * LZ4_BLOCK // 2)
    found = set()

    for cores in (None, 1, 2, 7):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        found.add(compress(data, name=name))

    assert len(found) == 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("lz4", marks=pytest.mark.debian("lz4")),
        pytest.param("zstd", marks=pytest.mark.debian("zstd")),
        "gzip",
    ],
)
def test_the_programs_of_these_names_read_them(name: str) -> None:
    program = need_program(name)
    data = sample(2 * LZ4_BLOCK + 99)
    packed = compress(data, name=name)

    done = subprocess.run([program, "-dc"], input=packed, capture_output=True, check=True)

    assert done.stdout == data


def test_gzip_is_one_member_without_a_time() -> None:
    packed = compress(sample(3 * GZIP_BLOCK), name="gzip")
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)

    decoder.decompress(packed)

    assert decoder.eof
    assert (packed[4:8], decoder.unused_data) == (bytes(4), b"")


def test_gzip_blocks_use_the_previous_block_as_dictionary() -> None:
    noise = random.Random(1).randbytes(GZIP_WINDOW // 2)
    data = noise * (4 * GZIP_BLOCK // len(noise))

    assert len(compress(data, name="gzip")) < 3 * len(noise)


def test_zstd_is_one_frame_with_a_window_that_the_kernel_allows() -> None:
    packed = compress(sample(20 << 20), name="zstd")
    decoder = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()

    decoder.decompress(packed)

    assert (decoder.eof, decoder.unused_data) == (True, b"")


def test_a_frame_that_unpacks_to_more_than_allowed_is_refused() -> None:
    with pytest.raises(ImageError, match="more than"):
        unpack_lz4(compress(bytes(2 << 20)), 1 << 20)


def test_padding_ends_a_frame() -> None:
    assert unpack_lz4(compress(b"abc") + bytes(8), 10) == b"abc"


@given(st.integers(0, 300), st.binary(min_size=1, max_size=20))
def test_a_damaged_frame_gives_bytes_or_an_image_error(offset: int, noise: bytes) -> None:
    data = bytearray(compress(b"some text, some text, some text" * 30))
    data[offset : offset + len(noise)] = noise

    with suppress(ImageError):
        assert len(unpack_lz4(bytes(data), 1 << 20)) <= 1 << 20


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(ImageError, match="'brotli'"):
        create_compressor("brotli", io.BytesIO())


def test_none_writes_through() -> None:
    buffer = io.BytesIO()
    data = os.urandom(100)

    packer = create_compressor("none", buffer)
    packer.write(data)
    packer.close()

    assert buffer.getvalue() == data
