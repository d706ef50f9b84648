"""Coverage-guided fuzzing of what reads images, with atheris (libFuzzer).

    python tests/fuzz/coverage.py {layers|manifests|decompression|layout} [libFuzzer arguments]

Needs ``pip install atheris`` and a PYTHONPATH of tests and initramfs. It starts from seeds of its
own and ends with ``-max_total_time=600`` or ``-runs=100000``, or else never. Only ImageError may
come out of the readers (DamagedStream of the decompressors), within bounds of time and memory, and
whatever a layer is, its tree lies below the root.
"""

from __future__ import annotations

import gzip
import importlib
import io
import lzma
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_INPUT = 16 << 10
MAX_OUTPUT = 1 << 20


def layers(data: bytes) -> None:
    """Some layers of 512-byte blocks over one another; the first byte says which, and how."""
    if not data:
        return
    dialect: Any = "deb" if data[0] & 1 else "oci"
    archive = makers.with_checksums(data[1:]) if data[0] & 2 else data[1:]
    parts = archive.split(b"\xff" * 8) if data[0] & 4 else [archive]
    root = tree.Tree()
    with suppress(ImageError):
        for part in parts:
            layers_module.apply_layer(root, makers.spool(part), dialect)
        for path, node in root.walk():
            assert not {"", ".", ".."} & set(path.split("/"))
            if node.is_file:
                assert len(node.read(tree.MAX_HOLES + MAX_INPUT)) == node.size
        archived = io.BytesIO()
        assert cpio.write_tree(root, archived) == len(archived.getvalue())


def manifests(data: bytes) -> None:
    """A document of an unknown type, and a configuration; without a brace, edits of a sound one."""
    if not data.startswith(b"{"):
        data = makers.edited_document(data)
    document = repository.Document("", "sha256:" + "0" * 64, data)
    with suppress(ImageError):
        found = manifests_module.read_document(document)
        if isinstance(found, manifests_module.Index):
            platforms.choose_platform(found, "arm64")
        else:
            for layer in found.layers:
                manifests_module.find_layer_compression(layer)
    with suppress(ImageError):
        platforms.check_platform(manifests_module.parse_config(data), "amd64")


def decompression(data: bytes) -> None:
    """A compressed stream; the first byte says of what kind, and how much is read at a time."""
    if not data:
        return
    names = sorted(readers.READERS)
    size = (1, 1000, 1 << 20)[data[0] >> 4 & 1]
    reader = readers.READERS[names[data[0] % len(names)]](io.BytesIO(data[1:]))
    total = 0
    with suppress(readers.DamagedStream):
        while (out := reader.read(size)) and total < MAX_OUTPUT:
            assert len(out) <= size
            total += len(out)


def layout(data: bytes) -> None:
    """An archive with an image; the first byte says of which kind."""
    if not data:
        return
    opened = layout_module.open_archive if data[0] & 1 else layout_module.open_layout
    archive = makers.with_checksums(data[1:]) if data[0] & 2 else data[1:]
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file, suppress(ImageError):
        file.write(archive)
        file.flush()
        images = opened(Path(file.name), "")
        try:
            image = platforms.resolve_image(images, "amd64")
            for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
                with images.blob(layer) as chunks:
                    layer_unpacking.unpack_layer(chunks, layer, diff_id, limit=MAX_OUTPUT)
        finally:
            images.close()


def seeds(target: str) -> Iterable[bytes]:
    """Sound input of each kind, from which the search starts."""
    entries = (
        makers.directory("a/"),
        makers.file("a/" + "n" * 120, b"contents" * 90),
        makers.symlink("s", "a"),
        makers.hardlink("h", "a/" + "n" * 120),
        makers.Entry("null", b"3", device=(1, 3)),
        makers.file("a/.wh.old"),
        makers.file("a/.wh..wh..opq"),
    )
    tar = makers.tar_bytes(*entries)[:-8192]
    match target:
        case "layers":
            sparse = [makers.sparse_bytes(style) for style in makers.SPARSE_STYLES]
            both = tar + b"\xff" * 8 + tar
            yield from (bytes([how]) + part for how in (0, 2, 3) for part in (tar, *sparse))
            yield from (b"\6" + both, b"\7" + both)
        case "decompression":
            packed = (gzip.compress(tar), tar, lzma.compress(tar), makers.zstd_bytes(tar))
            yield from (
                bytes([number | how]) + part
                for number, part in enumerate(packed)
                for how in (0, 16)
            )
            yield b"\0" + packed[0] * 2 + bytes(512)
            yield b"\3" + packed[3] + b"\x50\x2a\x4d\x18\4\0\0\0skip" + packed[3]
        case "manifests":
            yield from makers.document_seeds()
            yield from (bytes([number, 1, 1, 7, 30]) for number in range(4))
        case _:
            yield b"\3" + makers.docker_archive_bytes([tar, gzip.compress(tar)])
            yield b"\2" + makers.layout_bytes([tar, gzip.compress(tar)])


def main() -> None:
    """Run the target that the command line names."""
    target: Callable[[bytes], None] = {
        "layers": layers,
        "manifests": manifests,
        "decompression": decompression,
        "layout": layout,
    }[sys.argv[1]]
    tree.MAX_HOLES = MAX_OUTPUT
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(sys.argv[1])):
            Path(corpus, str(number)).write_bytes(seed)
        options = [f"-max_len={MAX_INPUT}", "-timeout=20", "-rss_limit_mb=1024"]
        atheris.Setup([sys.argv[0], *options, *sys.argv[2:], corpus], target)
        atheris.Fuzz()


if __name__ == "__main__":
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["slipway_initramfs"]):
        from slipway_initramfs.compression import decompressors as readers
        from slipway_initramfs.errors import ImageError
        from slipway_initramfs.oci import layer_unpacking, platforms, repository
        from slipway_initramfs.oci import layout as layout_module
        from slipway_initramfs.oci import manifests as manifests_module
        from slipway_initramfs.rootfs import cpio, tree
        from slipway_initramfs.rootfs import layers as layers_module
    from support import layers as makers

    main()
