"""Record of a snapshot in the image store.

A record of kind ``snapshot`` has the key and names two blobs: the guest's memory, and the state of
all else.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from slipway._model.options import MAX_CPUS, MAX_MEMORY
from slipway._snapshots.key import SnapshotKey
from slipway._snapshots.stored_snapshot import StoredSnapshot
from slipway._util.units import MIB
from slipway.machine.model import PortKind
from slipway_initramfs.errors import ImageCorrupted
from slipway_initramfs.store import manifests
from slipway_initramfs.store.records import DEBIAN_KERNEL, KERNELS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Blob

KIND = "snapshot"
MAX_STATE = 256 * MIB
# Last second of the year 9999, which ISO 8601 can write with four digits.
_LATEST = 253402300799


def build_manifest(key: SnapshotKey, made: int, blobs: Mapping[str, Blob]) -> dict[str, Any]:
    """Return the manifest of a snapshot.

    ``made`` is the time of its creation in seconds since 1970; ``blobs`` are ``memory`` and
    ``state``.
    """
    parts = dict(key.parts)
    return {
        **{each.name: getattr(key, each.name) for each in fields(key)},
        "parts": parts,
        "image_digest": parts.get("image", ""),
        "made": made,
        **{name: {"digest": blob.digest, "size": blob.size} for name, blob in blobs.items()},
    }


def decode_record(images: ImageStore, name: str, record: str) -> StoredSnapshot:
    """Return the snapshot ``name`` of the store, by the digest of its record.

    Raises:
        ImageCorrupted: the record is invalid.
    """
    manifest = images.manifest(KIND, record)
    made = manifests.get_count(manifest, "made")
    parts = manifest.get("parts")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise ImageCorrupted("a snapshot in the store has no valid parts")
    image, architecture, hypervisor, inputs = (
        manifests.get_text(manifest, name)
        for name in ("image", "architecture", "hypervisor", "inputs")
    )
    memory_bytes, cpus = (manifests.get_count(manifest, name) for name in ("memory_bytes", "cpus"))
    network = manifest.get("network")
    if type(network) is not bool:
        raise ImageCorrupted("a snapshot in the store does not say if it has a network")
    port = _find_port(manifests.get_text(manifest, "port"))
    pairs = tuple(parts.items())
    machine = architecture, hypervisor
    kernel = manifest.get("kernel", DEBIAN_KERNEL)
    if kernel not in KERNELS:
        raise ImageCorrupted("a snapshot in the store has an unknown kernel")
    key = SnapshotKey(image, *machine, memory_bytes, cpus, inputs, pairs, network, port, kernel)
    memory, state = (_build_blob(images, manifest, name) for name in ("memory", "state"))
    if (
        key.name != name
        or (port is PortKind.TCP and not network)
        or not 1 <= key.cpus <= MAX_CPUS
        or not 0 < memory.size == key.memory_bytes <= MAX_MEMORY
        or not 0 < state.size <= MAX_STATE
        or made > _LATEST
    ):
        raise ImageCorrupted("a snapshot in the store contradicts itself")
    disk = _get_disk_bytes(memory) + _get_disk_bytes(state)
    reference = images.root / "refs" / KIND / name
    used = _get_change_time(reference, made)
    return StoredSnapshot(key, memory, state, made, used, disk, record, reference)


def _build_blob(images: ImageStore, manifest: dict[str, Any], name: str) -> Blob:
    entry = manifest.get(name)
    if not isinstance(entry, dict):
        raise ImageCorrupted(f"a snapshot in the store has no {name}")
    return images.blob(manifests.get_text(entry, "digest"), manifests.get_count(entry, "size"))


def _find_port(text: str) -> PortKind:
    try:
        port = PortKind(text)
    except ValueError:
        port = PortKind.AUTO
    if port is PortKind.AUTO:  # its kernel is the caller's, and no snapshot of that is stored
        raise ImageCorrupted("a snapshot in the store has an unknown port")
    return port


def _get_change_time(path: Path, default: int) -> int:
    """Return the time of a file's last change in seconds since 1970, or ``default``."""
    try:
        return min(max(int(path.lstat().st_mtime), 0), _LATEST)
    except OSError:
        return default


def _get_disk_bytes(blob: Blob) -> int:
    """Return the bytes that a file takes on its disk; 0 if it is lost."""
    try:
        return blob.tree.examine_file(blob.path).st_blocks * 512
    except OSError:
        return 0
