"""Unpacking of a layer into a spool, with checks before and after decompression."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from slipway_initramfs.compression.decompressors import READERS, DamagedStream
from slipway_initramfs.disk.spool import CHUNK, Spool
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.oci.manifests import find_layer_compression

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slipway_initramfs.oci.repository import Descriptor

# Limit on chunks that wait to be hashed and written during the decompression.
_AHEAD = 4
_HINT = "It will be fetched again at the next try; if that does not help, the image is damaged."


def unpack_layer(
    chunks: Iterator[bytes],
    descriptor: Descriptor,
    diff_id: str,
    *,
    directory: Path | None = None,
    limit: int,
) -> Spool:
    """Decompress a layer into a spool in ``directory``, in one pass over its ``chunks``.

    The input must have the size and digest of ``descriptor`` (as far as stated), the output the
    digest ``diff_id``.

    Raises:
        ImageCorrupted: bytes do not match a size or digest, or the stream is damaged.
        ImageError: the output has more than ``limit`` bytes, or the media type is unknown.
    """
    source = _Incoming(chunks, descriptor)
    reader = READERS[find_layer_compression(descriptor)](source)
    spool = Spool(directory)
    digest = hashlib.sha256()

    def take(data: bytes) -> None:
        digest.update(data)
        spool.append(data)

    produced = 0
    pending: deque[Future[None]] = deque()
    # Hashing and writing take half as long as the decompression, and release the GIL too.
    with ThreadPoolExecutor(1, "layer") as pool:
        try:
            while data := reader.read(CHUNK):
                produced += len(data)
                if produced > limit:
                    raise ImageError(
                        f"layer {descriptor.label} unpacks to more than {limit >> 20} MiB"
                    )
                pending.append(pool.submit(take, data))
                if len(pending) > _AHEAD:
                    pending.popleft().result()
            source.finish()
            for future in pending:
                future.result()
        except DamagedStream as error:
            # A wrong digest is the better message: check it first.
            source.finish()
            raise ImageCorrupted(f"layer {descriptor.label}: {error}", _HINT) from error
        finally:
            pool.shutdown(cancel_futures=True)
    found = f"sha256:{digest.hexdigest()}"
    if found != diff_id:
        raise ImageCorrupted(
            f"layer {descriptor.label} unpacks to the digest {found[:19]}..., "
            f"not to the diff_id {diff_id[:19]}... of the image's configuration"
        )
    return spool


class _Incoming:
    """Compressed bytes, counted and hashed as they are read."""

    def __init__(self, chunks: Iterator[bytes], descriptor: Descriptor) -> None:
        self._chunks = chunks
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self._received = 0
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes.

        Raises:
            ImageCorrupted: the layer has more bytes than its descriptor states.
        """
        data = self._rest or memoryview(self._read_next())
        self._rest = data[size:]
        return bytes(data[:size])

    def finish(self) -> None:
        """Read the rest and compare size and digest.

        Raises:
            ImageCorrupted: size or digest differ.
        """
        while self._read_next():
            pass
        label, size = self._descriptor.label, self._descriptor.size
        if size not in (-1, self._received):
            raise ImageCorrupted(
                f"layer {label} has {self._received} bytes instead of {size}", _HINT
            )
        found = f"sha256:{self._digest.hexdigest()}"
        if self._descriptor.digest not in ("", found):
            raise ImageCorrupted(f"layer {label} has the digest {found[:19]}...", _HINT)

    def _read_next(self) -> bytes:
        for data in self._chunks:
            if data:
                self._received += len(data)
                if 0 <= self._descriptor.size < self._received:
                    raise ImageCorrupted(
                        f"layer {self._descriptor.label} has more than the "
                        f"{self._descriptor.size} bytes of its descriptor",
                        _HINT,
                    )
                self._digest.update(data)
                return data
        return b""
