from __future__ import annotations

import gzip
import io
import lzma
import random
import subprocess
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.compression import decompressors
from slipway_initramfs.compression.decompressors import READERS, DamagedStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.disk.spool import Readable

DATA = random.Random(1).randbytes(300_000) + b"text " * 100_000
SKIPPABLE = b"\x5f\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"extra"


def zstd(data: bytes, *, checksum: bool = True, size: bool = True) -> bytes:
    packer = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size)
    return packer.compress(data)


TEXT = b"some text and more of it; " * 500


@cache
def pack(name: str) -> bytes:
    """``DATA`` in a compression."""
    return PACKERS[name](DATA)


@cache
def pack_text(name: str) -> bytes:
    return PACKERS[name](TEXT)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstd,
    "xz": lzma.compress,
    "none": bytes,
}


class Trickle:
    """Gives at most ``most`` bytes at a time, as a network does."""

    def __init__(self, data: bytes, most: int) -> None:
        self._file = io.BytesIO(data)
        self._most = most

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._most))


def read(name: str, source: Readable, size: int = 1 << 20) -> bytes:
    reader = READERS[name](source)
    out = bytearray()
    while data := reader.read(size):
        assert len(data) <= size
        out += data
    return bytes(out)


def unpack(name: str, data: bytes) -> bytes:
    return read(name, io.BytesIO(data))


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("size", [997, 64 << 10, 1 << 20])
def test_each_compression_is_read_in_pieces_of_the_size_asked_for(name: str, size: int) -> None:
    assert read(name, io.BytesIO(pack(name)), size) == DATA


@pytest.mark.parametrize("name", PACKERS)
def test_input_may_come_in_any_pieces(name: str) -> None:
    assert read(name, Trickle(pack(name), 7)) == DATA


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz"])
@pytest.mark.parametrize("kept", [0, 1, 5, 12, 0.5, -1])
def test_a_stream_that_is_cut_short_is_damaged(name: str, kept: float) -> None:
    packed = pack(name)
    data = packed[: int(len(packed) * kept) if isinstance(kept, float) else int(kept)]

    with pytest.raises(DamagedStream, match="truncated"):
        unpack(name, data)


def test_gzip_members_follow_one_another() -> None:
    members = [gzip.compress(part) for part in (b"one ", b"", DATA, b"three")]

    assert unpack("gzip", b"".join(members)) == b"one " + DATA + b"three"


def test_zeros_may_follow_the_last_gzip_member() -> None:
    assert unpack("gzip", pack("gzip") + bytes(3 << 20)) == DATA


@pytest.mark.parametrize("garbage", [b"x", bytes(10) + b"x", b"\x1f\x8c"])
def test_anything_else_after_the_last_gzip_member_is_damage(garbage: bytes) -> None:
    with pytest.raises(DamagedStream):
        unpack("gzip", pack("gzip") + garbage)


def test_a_gzip_member_after_zeros_is_damage() -> None:
    with pytest.raises(DamagedStream):
        unpack("gzip", pack("gzip") + b"\0" + pack("gzip"))


@pytest.mark.parametrize("place", [-8, -4])
def test_a_wrong_checksum_or_length_of_a_gzip_member_is_damage(place: int) -> None:
    data = bytearray(pack("gzip"))
    data[place] ^= 1

    with pytest.raises(DamagedStream):
        unpack("gzip", bytes(data))


def test_zstd_frames_and_skippable_ones_follow_one_another() -> None:
    frames = [SKIPPABLE, zstd(b"one "), zstd(b"", checksum=False), SKIPPABLE]
    frames += [zstd(DATA, size=False), zstd(b"three", checksum=False), SKIPPABLE]

    assert unpack("zstd", b"".join(frames)) == b"one " + DATA + b"three"


def test_a_skippable_frame_that_is_cut_short_is_damage() -> None:
    with pytest.raises(DamagedStream, match="truncated"):
        unpack("zstd", pack("zstd") + SKIPPABLE[:-1])


def test_a_wrong_checksum_of_a_zstd_frame_is_damage() -> None:
    data = bytearray(pack("zstd"))
    data[-1] ^= 1

    with pytest.raises(DamagedStream):
        unpack("zstd", bytes(data))


@pytest.mark.parametrize("garbage", [b"garbage, garbage", b"\0" * 16])
def test_garbage_after_a_zstd_frame_is_damage(garbage: bytes) -> None:
    with pytest.raises(DamagedStream, match="not the start"):
        unpack("zstd", pack("zstd") + garbage)


def test_a_zstd_frame_with_a_huge_window_is_refused() -> None:
    # No single segment, no content size; a window of 2^(10+20) bytes; one empty last block.
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, 20 << 3]) + b"\1\0\0"

    with pytest.raises(DamagedStream, match="zstd"):
        unpack("zstd", frame)


def test_a_zstd_block_of_a_repeated_byte_respects_the_requested_size() -> None:
    block = (128 << 10) << 3 | 1 << 1
    blocks = block.to_bytes(3, "little") + b"x"
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, 10 << 3]) + blocks * 20 + b"\1\0\0"

    assert read("zstd", io.BytesIO(frame), 1000) == b"x" * (20 * (128 << 10))


@pytest.mark.parametrize(
    ("name", "piece"),
    [("gzip", gzip.compress(b"", mtime=0)), ("zstd", zstd(b"")), ("zstd", SKIPPABLE)],
)
def test_empty_pieces_are_limited_in_number(
    name: str, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompressors, "MAX_PIECES", 100)

    with pytest.raises(DamagedStream, match=r"members|small blocks"):
        unpack(name, piece * 200)


def test_empty_zstd_blocks_do_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompressors, "MAX_PIECES", 100)
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, 10 << 3]) + bytes(3) * 200 + b"\1\0\0"

    with pytest.raises(DamagedStream, match="small blocks"):
        unpack("zstd", frame)


@pytest.mark.debian("zstd")
@pytest.mark.parametrize("options", [["-19"], ["-1", "--long=27"], ["-3", "-T2", "--no-check"]])
def test_streams_of_the_zstd_program_are_read(options: list[str]) -> None:
    done = subprocess.run(["zstd", "-c", *options], input=DATA, capture_output=True, check=True)

    assert unpack("zstd", done.stdout) == DATA


@given(
    st.sampled_from(["gzip", "zstd", "xz"]), st.integers(0, 1200), st.binary(min_size=1, max_size=9)
)
def test_changed_bytes_are_damage_or_do_no_harm(name: str, offset: int, noise: bytes) -> None:
    data = bytearray(pack_text(name))
    data[offset : offset + len(noise)] = noise

    with suppress(DamagedStream):
        unpack(name, bytes(data))


@given(
    st.sampled_from(["gzip", "zstd"]),
    st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    st.integers(1, 50),
    st.integers(1, 50),
)
def test_any_members_are_read_in_any_pieces(
    name: str, parts: list[bytes], incoming: int, outgoing: int
) -> None:
    pack = gzip.compress if name == "gzip" else zstd
    data = b"".join(pack(part) for part in parts)

    assert read(name, Trickle(data, incoming), outgoing) == b"".join(parts)
