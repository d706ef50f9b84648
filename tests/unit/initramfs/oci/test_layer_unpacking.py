from __future__ import annotations

import gzip
import io
import random
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.oci.layer_unpacking import unpack_layer
from slipway_initramfs.oci.manifests import OCI_LAYER
from slipway_initramfs.oci.repository import Descriptor
from support.layers import digest, file, tar_bytes, zstd_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MEDIA_TYPES = {
    "plain": OCI_LAYER,
    "gzip": f"{OCI_LAYER}+gzip",
    "members": f"{OCI_LAYER}+gzip",
    "zstd": f"{OCI_LAYER}+zstd",
}
LIMIT = 64 << 20


@cache
def tar() -> bytes:
    noise = random.Random(1).randbytes(3 << 20)
    return tar_bytes(file("noise", noise), file("text", b"text " * 10_000))


@cache
def compress_tar() -> bytes:
    return gzip.compress(tar(), mtime=0)


@cache
def pack(kind: str) -> bytes:
    """The archive as a layer of a kind."""
    match kind:
        case "plain":
            return tar()
        case "gzip":
            return compress_tar()
        case "members":
            return gzip.compress(tar()[:9999]) + gzip.compress(tar()[9999:])
    return zstd_bytes(tar())


def pieces(data: bytes, size: int = 64 << 10) -> Iterator[bytes]:
    file = io.BytesIO(data)
    return iter(lambda: file.read(size), b"")


def describe(data: bytes, media_type: str = f"{OCI_LAYER}+gzip") -> Descriptor:
    return Descriptor(media_type, digest(data), len(data))


@pytest.mark.parametrize("kind", MEDIA_TYPES)
@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_a_layer_of_each_kind_is_unpacked(kind: str, size: int) -> None:
    media_type, data = MEDIA_TYPES[kind], pack(kind)

    spool = unpack_layer(
        pieces(data, size), describe(data, media_type), digest(tar()), limit=len(tar())
    )

    assert spool.read_at(0, len(tar()) + 1) == tar()


def test_size_and_digest_may_be_unsaid() -> None:
    spool = unpack_layer(
        pieces(compress_tar()), Descriptor(f"{OCI_LAYER}+gzip", "", -1), digest(tar()), limit=LIMIT
    )

    assert spool.size == len(tar())


def test_a_layer_of_another_digest_is_corrupted() -> None:
    other = Descriptor(f"{OCI_LAYER}+gzip", digest(b""), len(compress_tar()))

    with pytest.raises(ImageCorrupted, match=f"layer {digest(b'')[7:19]} has the digest"):
        unpack_layer(pieces(compress_tar()), other, digest(tar()), limit=LIMIT)


def test_damage_that_stops_the_decompressor_is_reported_by_the_digest() -> None:
    data = compress_tar()[:1000] + b"\xff" * 1000 + compress_tar()[2000:]

    with pytest.raises(ImageCorrupted, match="has the digest"):
        unpack_layer(pieces(data), describe(compress_tar()), digest(tar()), limit=LIMIT)


def test_damage_under_the_right_digest_is_reported_by_the_decompressor() -> None:
    data = compress_tar()[:-100]

    with pytest.raises(ImageCorrupted, match="truncated"):
        unpack_layer(pieces(data), describe(data), digest(tar()), limit=LIMIT)


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_a_layer_that_ends_early_is_corrupted(kind: str) -> None:
    media_type, data = MEDIA_TYPES[kind], pack(kind)

    with pytest.raises(ImageCorrupted, match=f"{len(data) - 9} bytes instead of {len(data)}"):
        unpack_layer(pieces(data[:-9]), describe(data, media_type), digest(tar()), limit=LIMIT)


def test_a_layer_that_goes_on_after_its_size_is_not_read_to_its_end() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield compress_tar()[: 1 << 20]

    with pytest.raises(ImageCorrupted, match="has more than"):
        unpack_layer(endless(), describe(compress_tar()), digest(tar()), limit=LIMIT)


def test_a_layer_of_another_diff_id_is_corrupted() -> None:
    with pytest.raises(ImageCorrupted, match="diff_id"):
        unpack_layer(
            pieces(compress_tar()), describe(compress_tar()), digest(compress_tar()), limit=LIMIT
        )


@pytest.mark.parametrize(("suffix", "pack"), [("+gzip", gzip.compress), ("+zstd", zstd_bytes)])
def test_a_bomb_is_stopped_at_the_limit(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    data = pack(bytes(40 << 20))
    media_type = OCI_LAYER + suffix

    with pytest.raises(ImageError, match="unpacks to more than 1 MiB"):
        unpack_layer(
            pieces(data), describe(data, media_type), digest(bytes(40 << 20)), limit=1 << 20
        )


def test_a_layer_that_is_not_compressed_as_it_says_is_corrupted() -> None:
    with pytest.raises(ImageCorrupted, match="the gzip stream is damaged"):
        unpack_layer(pieces(tar()), describe(tar()), digest(tar()), limit=LIMIT)


def test_an_error_of_the_source_comes_through() -> None:
    def fail_after_a_piece() -> Iterator[bytes]:
        yield compress_tar()[:100_000]
        raise ImageError("the registry has gone")

    with pytest.raises(ImageError, match="the registry has gone"):
        unpack_layer(fail_after_a_piece(), describe(compress_tar()), digest(tar()), limit=LIMIT)


def test_a_disk_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="cannot write below"):
        unpack_layer(
            pieces(compress_tar()),
            describe(compress_tar()),
            digest(tar()),
            directory=tmp_path / "missing",
            limit=LIMIT,
        )


def test_a_failed_unpacking_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageCorrupted):
        unpack_layer(
            pieces(compress_tar()),
            describe(compress_tar()),
            digest(b""),
            directory=tmp_path,
            limit=LIMIT,
        )

    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=3000), st.sampled_from(["", "+gzip", "+zstd"]), st.integers(1, 999))
def test_any_bytes_are_a_layer_or_an_image_error(data: bytes, suffix: str, size: int) -> None:
    try:
        spool = unpack_layer(
            pieces(data, size), describe(data, OCI_LAYER + suffix), digest(data), limit=LIMIT
        )
    except ImageError:
        return

    assert spool.size == len(data)
