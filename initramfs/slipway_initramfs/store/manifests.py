"""Manifests of records: their encoding, and checked access to their fields.

Every run imports this module: its own imports are fast.
"""

from __future__ import annotations

import json
from typing import Any

from slipway_initramfs.errors import ImageCorrupted

# Version of the format of manifests. Manifests of other versions count as missing.
FORMAT = 2
MAX_MANIFEST = 4 << 20
_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.+-_@#")


def encode_manifest(kind: str, manifest: dict[str, Any]) -> bytes:
    """Return the bytes of a record's manifest; their digest is the record's name."""
    whole = {**manifest, "format": FORMAT, "kind": kind}
    return json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"


def find_digests(manifest: dict[str, Any]) -> set[str]:
    """Return the digests of all blobs that a record of any kind names."""
    entries = (entry for entry in manifest.values() if isinstance(entry, dict))
    return {entry["digest"] for entry in entries if isinstance(entry.get("digest"), str)}


def parse_manifest(data: bytes, kind: str) -> dict[str, Any]:
    """Return the manifest in ``data``.

    Raises:
        ImageCorrupted: the data is damaged, or of another kind or format.
    """
    if len(data) > MAX_MANIFEST:
        raise ImageCorrupted("a manifest in the store is too long")
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageCorrupted(f"a manifest in the store is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ImageCorrupted("a manifest in the store has another format")
    if manifest.get("kind") != kind:
        raise ImageCorrupted(f"a manifest in the store is not of the kind {kind!r}")
    return manifest


def get_text(manifest: dict[str, Any], key: str) -> str:
    """Return the string at ``key``.

    Raises:
        ImageCorrupted: the value is missing or not a string.
    """
    value = manifest.get(key)
    if not isinstance(value, str):
        raise ImageCorrupted(f"a manifest in the store lacks the text {key!r}")
    return value


def get_count(manifest: dict[str, Any], key: str) -> int:
    """Return the non-negative integer at ``key``.

    Raises:
        ImageCorrupted: the value is missing or not such a number.
    """
    value = manifest.get(key)
    if type(value) is not int or not 0 <= value < 1 << 50:
        raise ImageCorrupted(f"a manifest in the store lacks the number {key!r}")
    return value


def is_digest(value: str) -> bool:
    """Check whether ``value`` is a SHA-256 in lower-case hexadecimal digits."""
    return len(value) == 64 and not value.strip("0123456789abcdef")


def is_key(name: str) -> bool:
    """Check whether ``name`` can be a file name of the store: no separators, no hidden files."""
    return 0 < len(name) <= 160 and name[0] != "." and _KEY_CHARACTERS.issuperset(name)
