"""Container images made without docker, as OCI layout directories that skopeo pushes.

Layers are written as streams: a layer of 400 MB costs no memory, and equal input gives equal bytes.
For the content of images see :mod:`support.image_recipes`.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import zstandard

from support.layer_writer import LayerWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."
_MEDIA_TYPES = {
    False: {
        "index": f"{_OCI}index.v1+json",
        "manifest": f"{_OCI}manifest.v1+json",
        "config": f"{_OCI}config.v1+json",
        "none": f"{_OCI}layer.v1.tar",
        "gzip": f"{_OCI}layer.v1.tar+gzip",
        "zstd": f"{_OCI}layer.v1.tar+zstd",
    },
    True: {
        "index": f"{_DOCKER}distribution.manifest.list.v2+json",
        "manifest": f"{_DOCKER}distribution.manifest.v2+json",
        "config": f"{_DOCKER}container.image.v1+json",
        "none": f"{_DOCKER}image.rootfs.diff.tar",
        "gzip": f"{_DOCKER}image.rootfs.diff.tar.gzip",
        "zstd": f"{_DOCKER}image.rootfs.diff.tar.zstd",
    },
}


class Sink(Protocol):
    """Where the uncompressed bytes of a layer go."""

    def write(self, data: bytes, /) -> int: ...

    def tell(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Layer:
    """``write`` gives the uncompressed bytes, each time the same."""

    write: Callable[[Sink], None]
    compression: str = "gzip"
    """``gzip``, ``zstd`` or ``none``."""

    @classmethod
    def of_bytes(cls, data: bytes, compression: str = "gzip") -> Layer:
        """A layer of any bytes at all, such as a broken archive's."""

        def write(sink: Sink) -> None:
            sink.write(data)

        return cls(write, compression)

    @classmethod
    def of_members(cls, fill: Callable[[LayerWriter], None], compression: str = "gzip") -> Layer:
        """A layer that ``fill`` adds the members of."""

        def write(sink: Sink) -> None:
            with tarfile.open(
                fileobj=_WriteOnly(sink),  # type: ignore[call-overload]
                mode="w",
                format=tarfile.PAX_FORMAT,
                copybufsize=1 << 20,
            ) as archive:
                fill(LayerWriter(archive))

        return cls(write, compression)


class _WriteOnly:
    """The part of a file that tarfile needs for writing."""

    def __init__(self, sink: Sink) -> None:
        self.write = sink.write
        self.tell = sink.tell


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """Image of an architecture: layers from the lowest up, and the configuration."""

    layers: tuple[Layer, ...]
    environment: tuple[str, ...] = (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )
    working_directory: str = ""
    user: str = ""
    command: tuple[str, ...] = ()
    architecture: str = "amd64"
    variant: str = ""

    @property
    def platform(self) -> dict[str, str]:
        platform = {"architecture": self.architecture, "os": "linux"}
        return {**platform, "variant": self.variant} if self.variant else platform


@dataclass(frozen=True, slots=True)
class Style:
    """How the documents are written.

    The program skopeo takes only OCI's media types from a layout; it pushes docker's for
    ``--format v2s2``.
    """

    docker: bool = False
    """Media types of docker's schema 2 instead of OCI's."""
    manifest_type: bool = True
    """Whether manifests and indexes say their own media type, which OCI leaves open."""
    media_types: dict[str, str] = field(default_factory=dict)
    """Other media types: of ``index``, ``manifest``, ``config``, ``none``, ``gzip``, ``zstd``."""

    def media_type(self, kind: str) -> str:
        return self.media_types.get(kind) or _MEDIA_TYPES[self.docker][kind]


def write_layout(
    directory: Path,
    images: Sequence[ContainerImage],
    tag: str = "latest",
    style: Style = Style(),
) -> dict[str, Any]:
    """Write the images under ``tag``, below an index if there are several; return its descriptor.

    A layout that is there gets one more tag.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    manifests = [
        {**_write_image(blobs, image, style), "platform": image.platform} for image in images
    ]
    top = manifests[0]
    if len(manifests) > 1:
        top = _write_document(blobs, _document(style, "index", manifests=manifests), style, "index")
    top = {**top, "annotations": {"org.opencontainers.image.ref.name": tag}}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = directory / "index.json"
    others = json.loads(index.read_text())["manifests"] if index.exists() else []
    others = [other for other in others if other["annotations"] != top["annotations"]]
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*others, top]}, indent=1))
    return top


def _write_image(blobs: Path, image: ContainerImage, style: Style) -> dict[str, Any]:
    # Two at a time: zlib and hashlib let go of the interpreter's lock.
    with ThreadPoolExecutor(2) as pool:
        layers = list(pool.map(lambda layer: _write_layer(blobs, layer), image.layers))
    configuration = {
        **image.platform,
        "created": "2023-11-14T22:13:20Z",
        "config": {
            "Env": list(image.environment),
            **({"WorkingDir": image.working_directory} if image.working_directory else {}),
            **({"User": image.user} if image.user else {}),
            **({"Cmd": list(image.command)} if image.command else {}),
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, _, diff_id in layers]},
        "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
    }
    manifest = _document(
        style,
        "manifest",
        config=_write_document(blobs, configuration, style, "config"),
        layers=[
            {"mediaType": style.media_type(layer.compression), "digest": digest, "size": size}
            for layer, (digest, size, _) in zip(image.layers, layers, strict=True)
        ],
    )
    return _write_document(blobs, manifest, style, "manifest")


def _document(style: Style, kind: str, **members: Any) -> dict[str, Any]:
    said = {"mediaType": style.media_type(kind)} if style.manifest_type else {}
    return {"schemaVersion": 2, **said, **members}


def _write_document(blobs: Path, document: Any, style: Style, kind: str) -> dict[str, Any]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": style.media_type(kind), "digest": f"sha256:{digest}", "size": len(data)}


def _write_layer(blobs: Path, layer: Layer) -> tuple[str, int, str]:
    """Return the blob's digest and size, and the digest of the unpacked bytes."""
    with tempfile.NamedTemporaryFile(dir=blobs, delete=False) as file:
        sink = _Compressor(file, layer.compression)
        layer.write(sink)
        digest = sink.finish()
    Path(file.name).rename(blobs / digest)
    return f"sha256:{digest}", sink.compressed, f"sha256:{sink.diff_id.hexdigest()}"


class _Coder(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


# The lowest levels: tests wait for it.
_CODERS: dict[str, Callable[[], _Coder]] = {
    "gzip": lambda: zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS),
    "zstd": lambda: zstandard.ZstdCompressor(1).compressobj(),
    "none": _Plain,
}


class _Compressor:
    """Compresses what is written, and hashes both sides."""

    def __init__(self, file: BinaryIO | Any, compression: str) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._coder = _CODERS[compression]()
        self._pending = bytearray()
        self.diff_id = hashlib.sha256()
        self.compressed = 0
        self._position = 0

    def tell(self) -> int:
        return self._position

    def write(self, data: bytes) -> int:
        # Headers come one at a time, and each call would cost more than what it does.
        self._pending += data
        self._position += len(data)
        if len(self._pending) >= 1 << 20:
            self._flush()
        return len(data)

    def finish(self) -> str:
        self._flush()
        self._emit(self._coder.flush())
        return self._digest.hexdigest()

    def _flush(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        self.diff_id.update(data)
        self._emit(self._coder.compress(data))

    def _emit(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.compressed += len(data)
