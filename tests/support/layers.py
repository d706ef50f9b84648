"""Makers of layers and packages for the tests of image making."""

from __future__ import annotations

import copy
import functools
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

import zstandard

from slipway_initramfs.disk.spool import Spool


@dataclass(frozen=True)
class Entry:
    """Entry of a tar archive; the type follows tarfile's names."""

    name: str
    type: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    device: tuple[int, int] = (0, 0)


def file(name: str, data: bytes = b"", mode: int = 0o644) -> Entry:
    return Entry(name, tarfile.REGTYPE, data, mode=mode)


def directory(name: str, mode: int = 0o755) -> Entry:
    return Entry(name, tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, tarfile.SYMTYPE, link=target)


def hardlink(name: str, target: str) -> Entry:
    return Entry(name, tarfile.LNKTYPE, link=target)


def tar_bytes(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.name)
            member.type = entry.type
            member.size = len(entry.data)
            member.linkname = entry.link
            member.mode = entry.mode
            member.uid, member.gid = entry.owner
            member.devmajor, member.devminor = entry.device
            archive.addfile(member, io.BytesIO(entry.data))
    return buffer.getvalue()


def spool(data: bytes) -> Spool:
    spooled = Spool()
    spooled.append(data)
    return spooled


def layer(*entries: Entry) -> Spool:
    return spool(tar_bytes(*entries))


def ar_bytes(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def raw_header(name: bytes, kind: bytes, size: int, **fields: bytes) -> bytes:
    """A header by the letter of POSIX; ``fields`` are bytes by ``at_`` and their offset."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    for place, value in fields.items():
        start = int(place.removeprefix("at_"))
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def with_checksums(archive: bytes) -> bytes:
    """Make all blocks that look like headers pass for some."""
    blocks = [bytearray(archive[start : start + 512]) for start in range(0, len(archive), 512)]
    for block in blocks:
        if block[257:262] == b"ustar" and len(block) == 512:
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def pad_block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax_header(*records: tuple[str, str], kind: bytes = b"x") -> bytes:
    """An extended header with its records, which may repeat."""
    data = b""
    for key, value in records:
        body = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        data += str(length).encode() + body
    return raw_header(b"pax", kind, len(data)) + pad_block(data)


SPARSE_CONTENT = bytes(1000) + b"begin" + bytes(5000) + b"end" + bytes(300)
SPARSE_STYLES = ("gnu", "0.0", "0.1", "1.0")


def sparse_bytes(style: str) -> bytes:
    """An archive with SPARSE_CONTENT under the name ``sparse``, in one of GNU tar's formats."""
    pairs = [(1000, 5), (6005, 3), (len(SPARSE_CONTENT), 0)]
    size = str(len(SPARSE_CONTENT))
    data = b"beginend"
    if style == "gnu":
        sparse_map = b"".join(b"%011o\0%011o\0" % pair for pair in pairs)
        real = b"%011o\0" % len(SPARSE_CONTENT)
        header = raw_header(
            b"sparse", b"S", len(data), at_257=b"ustar  \0", at_386=sparse_map, at_483=real
        )
        return header + pad_block(data) + bytes(1024)
    flat = [str(number) for pair in pairs for number in pair]
    if style == "1.0":
        data = pad_block("\n".join([str(len(pairs)), *flat, ""]).encode()) + data
        records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "sparse"),
            ("GNU.sparse.realsize", size),
        ]
    elif style == "0.1":
        records = [
            ("GNU.sparse.size", size),
            ("GNU.sparse.numblocks", str(len(pairs))),
            ("GNU.sparse.name", "sparse"),
            ("GNU.sparse.map", ",".join(flat)),
        ]
    else:
        names = ("GNU.sparse.offset", "GNU.sparse.numbytes") * len(pairs)
        records = [("GNU.sparse.size", size), *zip(names, flat, strict=True)]
    name = b"sparse" if style == "0.0" else b"GNUSparseFile.1/sparse"
    return pax_header(*records) + raw_header(name, b"0", len(data)) + pad_block(data) + bytes(1024)


def zstd_bytes(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config_bytes(diff_ids: list[str], **fields: Any) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin", "A=b=c"], "WorkingDir": "/srv", "User": "1000"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "created": "2024-01-01T00:00:00Z",
            **fields,
        }
    ).encode()


def plain(layer_data: bytes) -> bytes:
    """Return the bytes of a layer, decompressed."""
    return gzip.decompress(layer_data) if layer_data[:2] == b"\x1f\x8b" else layer_data


def descriptor(media_type: str, data: bytes, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **fields}


def manifest_bytes(config: bytes, layers: list[bytes]) -> bytes:
    kind = "application/vnd.oci.image.layer.v1.tar"
    ends = ["+gzip" if data[:2] == b"\x1f\x8b" else "" for data in layers]
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                descriptor(kind + end, data) for end, data in zip(ends, layers, strict=True)
            ],
        }
    ).encode()


def layout_files(
    layers: list[bytes], names: tuple[str, ...] = ("latest",), **config_fields: Any
) -> dict[str, bytes]:
    """The files of an OCI layout with one image, under each of the names."""
    config = config_bytes([digest(plain(data)) for data in layers], **config_fields)
    manifest = manifest_bytes(config, layers)
    key = "org.opencontainers.image.ref.name"
    kind = "application/vnd.oci.image.manifest.v1+json"
    entries = [
        descriptor(kind, manifest, **({"annotations": {key: name}} if name else {}))
        for name in names
    ]
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
        **{
            f"blobs/sha256/{digest(data).removeprefix('sha256:')}": data
            for data in (config, manifest, *layers)
        },
    }


def layout_bytes(layers: list[bytes]) -> bytes:
    return tar_bytes(*(file(name, data) for name, data in layout_files(layers).items()))


def docker_archive_bytes(
    layers: list[bytes], tags: tuple[str, ...] = ("docker.io/library/x:1",)
) -> bytes:
    """What ``docker save`` writes; the first layer is there a second time as a link to it."""
    config = config_bytes([digest(plain(data)) for data in [*layers, layers[0]]])
    names = [f"{number}/layer.tar" for number in range(len(layers) + 1)]
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": names}]
    return tar_bytes(
        *(file(name, data) for name, data in zip(names, layers, strict=False)),
        symlink(names[-1], "../0/layer.tar"),
        file("config.json", config),
        file("manifest.json", json.dumps(manifest).encode()),
    )


@functools.cache
def document_seeds() -> tuple[bytes, ...]:
    config = config_bytes([digest(b"layer")])
    manifest = manifest_bytes(config, [b"layer"])
    kind = "application/vnd.oci.image.manifest.v1+json"
    entries = [
        descriptor(kind, manifest, platform={"os": "linux", "architecture": name, "variant": v})
        for name, v in (("amd64", ""), ("arm64", "v8"), ("arm", "v7"))
    ]
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return (config, manifest, index, b'{"schemaVersion": 1}')


ODD_VALUES: list[Any] = [
    None, True, 0, 1, 2, -1, 1 << 41, 10**400, 1.5, "", "x", "a\0b", "\ud800", "x" * 40_000,
    [], [1], {}, {"a": 1}, [[]] * 600, "sha256:" + "0" * 64, "sha512:" + "0" * 128, "linux",
    "arm64", "v8", "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
]  # fmt: skip


def edited_document(edits: bytes) -> bytes:
    """One of the seeds with fields changed, as the bytes say: which seed, which field, what to."""
    sources = document_seeds()
    document = json.loads(sources[edits[0] % len(sources)]) if edits else {}
    for place, value in zip(edits[1::2], edits[2::2], strict=False):
        slots: list[tuple[Any, Any]] = []
        pending = [document]
        for node in pending:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            slots += [(node, key) for key in keys]
            pending += [node[key] for key in keys if isinstance(node[key], dict | list)]
        if not slots:
            break
        node, key = slots[place % len(slots)]
        if value == 255:
            del node[key]
        else:
            node[key] = copy.deepcopy(ODD_VALUES[value % len(ODD_VALUES)])
    return json.dumps(document).encode()
