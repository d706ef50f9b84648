"""Export of an image, with its kernel and agent, as a single file (image_archive.py)."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

from slipway_initramfs import image_archive
from slipway_initramfs.agent_sources import AgentSources
from slipway_initramfs.disk.spool import CHUNK
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.image_archive import ArchiveIndex, ArchiveMember
from slipway_initramfs.languages.catalogue import LANGUAGE_KIND
from slipway_initramfs.store import manifests

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Archive, Blob, Image


def export_image(
    store: ImageStore,
    image: Image,
    agent: Archive,
    output: BinaryIO,
    progress: Callable[[str], None],
) -> ArchiveIndex:
    """Write ``image``, the kernel of its architecture and ``agent``; return the index.

    All files are opened before the first byte is written: another process may replace or remove the
    image meanwhile. Digests are checked during the copy.

    Raises:
        ImageError: the kernel is missing, or bytes in the store are damaged.
        OSError: ``output`` cannot be written.
    """
    kernel = store.kernel(image.architecture)
    if kernel is None:
        raise ImageError(
            f"the store has no kernel for {image.architecture}",
            f"Build it: slipway image build {image.name}",
        )
    image.quick_check()
    kernel.quick_check()
    keys = {"image": image.key, "kernel": kernel.key}
    texts = {
        "image": manifests.encode_manifest("image", image.manifest),
        "kernel": manifests.encode_manifest("kernel", kernel.manifest),
    }
    if (language := store.record(LANGUAGE_KIND, image.language)) is not None:
        keys["language"] = image.language
        texts["language"] = manifests.encode_manifest("language", language)
    blobs = {
        blob.digest: blob
        for blob in (
            *store.blobs_of("image", image.manifest),
            *store.blobs_of("kernel", kernel.manifest),
            agent.blob,
        )
    }
    index = ArchiveIndex(
        keys,
        {
            kind: ArchiveMember(hashlib.sha256(text).hexdigest(), len(text))
            for kind, text in texts.items()
        },
        ArchiveMember(agent.blob.digest, agent.blob.size),
        AgentSources().digest(),
        tuple(ArchiveMember(blob.digest, blob.size) for blob in blobs.values()),
    )
    with ExitStack() as opened:
        sources = [(blob, opened.enter_context(_open_blob(blob))) for blob in blobs.values()]
        _write_member(output, image_archive.INDEX, index.encode())
        for kind, part in index.records.items():
            _write_member(output, f"manifests/{part.digest}", texts[kind])
        for number, (blob, file) in enumerate(sources, 1):
            progress(f"writing {number}/{len(sources)} {blob.digest[:12]}")
            _copy_blob(blob, file, output)
        output.write(bytes(2 * image_archive.BLOCK))
        output.flush()
    return index


def _open_blob(blob: Blob) -> BinaryIO:
    blob.quick_check()
    try:
        return blob.open()
    except OSError as error:
        raise ImageCorrupted(
            f"cannot read {blob.path.name[:16]} in the store: {error.strerror}"
        ) from error


def _write_member(output: BinaryIO, name: str, data: bytes) -> None:
    output.write(
        image_archive.build_header(name, len(data)) + data + image_archive.build_padding(len(data))
    )


def _copy_blob(blob: Blob, file: BinaryIO, output: BinaryIO) -> None:
    output.write(image_archive.build_header(f"blobs/{blob.digest}", blob.size))
    digest, left = hashlib.sha256(), blob.size
    while left:
        data = file.read(min(left, CHUNK))
        if not data:
            break
        digest.update(data)
        left -= len(data)
        output.write(data)
    if digest.hexdigest() != blob.digest:
        raise ImageCorrupted(
            f"{blob.digest[:16]} in the store is damaged", "Build the image again."
        )
    output.write(image_archive.build_padding(blob.size))
