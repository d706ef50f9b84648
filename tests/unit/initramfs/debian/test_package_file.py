from __future__ import annotations

import gzip
import hashlib
import io
import lzma
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.debian import package_file
from slipway_initramfs.debian.package_file import read_data, unpack
from slipway_initramfs.errors import ImageCorrupted, ImageError
from support.layers import ar_bytes, file, tar_bytes

if TYPE_CHECKING:
    from pathlib import Path

TAR = tar_bytes(file("./usr/bin/x", b"contents " * 400))
PACKED = {
    ".xz": lzma.compress(TAR),
    ".gz": gzip.compress(TAR, mtime=0),
    ".zst": zstandard.ZstdCompressor().compress(TAR),
    "": TAR,
}


def package(suffix: str, data: bytes) -> bytes:
    control = b"abc"  # of odd length: the next header is padded
    return ar_bytes(
        ("debian-binary", b"2.0\n"), ("control.tar.xz", control), (f"data.tar{suffix}", data)
    )


def read(data: bytes) -> bytes:
    spool = read_data(io.BytesIO(data), "test.deb")
    return spool.read_at(0, spool.size)


@pytest.mark.parametrize("suffix", PACKED)
def test_every_compression_of_deb_files_is_read(suffix: str) -> None:
    assert read(package(suffix, PACKED[suffix])) == TAR


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_stream_that_is_cut_short_is_corrupted(suffix: str, part: float) -> None:
    data = PACKED[suffix][: int(len(PACKED[suffix]) * part)]

    with pytest.raises(ImageCorrupted):
        read(package(suffix, data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"!<arch>\n",
        b"no archive at all",
        package(".xz", PACKED[".xz"])[:100],
        package(".xz", PACKED[".xz"])[:-500],
        package(".bz3", b"x"),
        ar_bytes(("debian-binary", b"2.0\n")),
        ar_bytes(*[("member", b"")] * 40),
    ],
)
def test_a_truncated_or_invalid_package_is_corrupted(data: bytes) -> None:
    with pytest.raises(ImageCorrupted):
        read(data)


def test_a_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_file, "MAX_UNPACKED", 1 << 20)

    with pytest.raises(ImageError, match="more than 1 MiB"):
        read(package(".xz", lzma.compress(bytes(8 << 20))))


def test_a_file_of_another_digest_is_corrupted(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(package(".xz", PACKED[".xz"]))
    right = hashlib.sha256(path.read_bytes()).hexdigest()

    assert unpack(path, right).size == len(TAR)
    with pytest.raises(ImageCorrupted, match="digest"):
        unpack(path, "0" * 64)


@given(st.sampled_from(sorted(PACKED)), st.integers(0, 1000), st.binary(min_size=1, max_size=40))
def test_changed_bytes_give_the_data_or_an_image_error(
    suffix: str, offset: int, noise: bytes
) -> None:
    data = bytearray(package(suffix, PACKED[suffix]))
    data[offset : offset + len(noise)] = noise

    with suppress(ImageError):
        read(bytes(data))
