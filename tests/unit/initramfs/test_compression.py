from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.compression import LZ4_BLOCK, compressor, unpack_lz4
from slipway_initramfs.errors import ImageError


def compress(data: bytes, piece: int = 1 << 20) -> bytes:
    buffer = io.BytesIO()
    packer = compressor("lz4", buffer)
    for start in range(0, len(data), piece):
        packer.write(data[start : start + piece])
    packer.close()
    return buffer.getvalue()


def sample(size: int) -> bytes:
    """Half noise and half zeros, so that blocks differ in length."""
    noise = random.Random(1)
    return b"".join(noise.randbytes(5000) + bytes(5000) for _ in range(-(-size // 10000)))[:size]


@pytest.mark.parametrize("size", [0, 1, LZ4_BLOCK - 1, LZ4_BLOCK, LZ4_BLOCK + 1, 3 * LZ4_BLOCK + 7])
def test_a_legacy_frame_gives_back_what_went_in(size: int) -> None:
    data = sample(size)

    assert unpack_lz4(compress(data), size) == data


def test_the_size_of_the_pieces_does_not_show() -> None:
    data = sample(LZ4_BLOCK + 12345)

    assert compress(data, 1000) == compress(data, len(data))


@pytest.mark.skipif(shutil.which("lz4") is None, reason="lz4 is not installed")
def test_the_lz4_program_reads_the_frame() -> None:
    data = sample(2 * LZ4_BLOCK + 99)

    done = subprocess.run(["lz4", "-dc"], input=compress(data), capture_output=True, check=True)

    assert done.stdout == data


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
        compressor("brotli", io.BytesIO())


def test_none_writes_through() -> None:
    buffer = io.BytesIO()
    data = os.urandom(100)

    packer = compressor("none", buffer)
    packer.write(data)
    packer.close()

    assert buffer.getvalue() == data
