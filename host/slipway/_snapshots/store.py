"""Store of snapshots on disk.

A record (:mod:`slipway._snapshots.record`) is found by the name of its key, and used if the key's
``inputs`` match. Blobs of snapshots have holes and are named by
:func:`slipway._snapshots.sparse_files.digest`.

Each run looks for a snapshot: modules that only writers need are imported by the writers.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NoReturn

from slipway._run.image_errors import translated_image_errors
from slipway._snapshots.key import SnapshotKey, find_difference
from slipway._snapshots.record import KIND, build_manifest, decode_record
from slipway._util.errors import HostError, ImageError
from slipway.machine.model import Snapshot
from slipway_initramfs.errors import ImageError as BuildError
from slipway_initramfs.errors import UntrustedFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway._snapshots.stored_snapshot import StoredSnapshot
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Blob


class SnapshotStore:
    """Snapshots in an image store; errors of the store are :class:`slipway.ImageError`."""

    def __init__(self, images: ImageStore) -> None:
        self._images = images

    @property
    def root(self) -> Path:
        """Directory of the image store."""
        return self._images.root

    # -- looking up ------------------------------------------------------------------------------

    def find(self, key: SnapshotKey) -> StoredSnapshot | None:
        """Return the snapshot of ``key``, or None if no valid record matches."""
        stored = self._find(key.name)
        return stored if stored is not None and stored.key == key else None

    def find_difference(self, key: SnapshotKey) -> str:
        """Return why the snapshot of the name of ``key`` is stale; empty if missing or damaged."""
        stored = self._find(key.name)
        return "" if stored is None else find_difference(stored.key, key)

    def find_sound(
        self, key: SnapshotKey, progress: Callable[[str], None]
    ) -> StoredSnapshot | None:
        """Return the snapshot of ``key`` after a check of its files, or None.

        ``progress`` is called with the damage of a snapshot, which is forgotten then.

        Raises:
            HostError: the files cannot be checked.
        """
        stored = self.find(key)
        if stored is None:
            return None
        try:
            with self.open(stored) as snapshot:
                self.verify(stored, snapshot)
        except ImageError as error:
            progress(error.message)
            return None
        return stored

    def list(self) -> list[StoredSnapshot]:
        """Return all snapshots, sorted by name, without damaged records.

        Raises:
            ImageError: the store cannot be read.
        """
        with translated_image_errors():
            names = self._images.names(KIND)
        return [stored for name in names if (stored := self._find(name)) is not None]

    def _find(self, name: str) -> StoredSnapshot | None:
        try:
            if (record := self._images.reference(KIND, name)) is not None:
                return decode_record(self._images, name, record)
        except UntrustedFile as error:
            raise ImageError(error.message, error.hint) from error
        except BuildError:
            pass
        return None

    # -- using -----------------------------------------------------------------------------------

    def open(self, stored: StoredSnapshot) -> Snapshot:
        """Open the files of the store, read-only, and check their lengths.

        Raises:
            ImageError: a file is lost, or of another length; the snapshot is forgotten then.
        """
        with ExitStack() as opened:
            descriptors = []
            for blob in (stored.memory, stored.state):
                try:
                    with translated_image_errors():
                        descriptors.append(self._images.tree.open_file(blob.path))
                except OSError as error:
                    self._discard(stored, f"has lost a file: {error.strerror}")
                opened.callback(os.close, descriptors[-1])
                found = os.fstat(descriptors[-1])
                if found.st_size != blob.size:
                    self._discard(stored, f"has {found.st_size} bytes instead of {blob.size}")
            opened.pop_all()
        return _build_snapshot(stored.key, *descriptors)

    def verify(self, stored: StoredSnapshot, snapshot: Snapshot) -> None:
        """Check every byte of ``snapshot``, opened from ``stored``, once per boot of the host.

        Raises:
            ImageError: the snapshot is damaged, and is forgotten.
            HostError: the files cannot be checked.
        """
        from slipway._snapshots.verified_files import VerifiedFile

        pairs = ((stored.memory, snapshot.memory), (stored.state, snapshot.state))
        for blob, descriptor in pairs:
            memo = self._images.root / "verified" / blob.digest
            file = VerifiedFile(descriptor, self._images.tree, memo)
            with translated_image_errors():
                if file.is_verified:
                    continue
            self._check(stored, blob, descriptor)
            with translated_image_errors():
                file.remember()

    def load(self, stored: StoredSnapshot) -> Snapshot:
        """Return a verified copy of the snapshot in sealed memory (memfd_create(2)).

        Raises:
            ImageError: the snapshot is lost or damaged, and is forgotten.
            HostError: the host has too little memory.
        """
        from slipway.machine.memory_files import copy_sealed

        files = self.open(stored)
        try:
            with ExitStack() as copies:
                copied = []
                for blob, file in ((stored.memory, files.memory), (stored.state, files.state)):
                    copied.append(copy_sealed("slipway-snapshot", file))
                    copies.callback(os.close, copied[-1])
                    self._check(stored, blob, copied[-1])
                copies.pop_all()
        finally:
            files.close()
        return _build_snapshot(stored.key, *copied)

    def _check(self, stored: StoredSnapshot, blob: Blob, descriptor: int) -> None:
        from slipway._snapshots.sparse_files import digest

        try:
            found = digest(descriptor)
        except OSError as error:
            self._discard(stored, f"cannot be read: {error.strerror}")
        if found != blob.digest:
            self._discard(stored, "is damaged")

    # -- writing ---------------------------------------------------------------------------------

    def save(
        self, key: SnapshotKey, snapshot: Snapshot, budget: int | None = None
    ) -> StoredSnapshot:
        """Keep ``snapshot`` in place of the snapshot of the same name; the caller still owns it.

        The least recently used others are evicted for ``budget``, the disk space of all snapshots
        in bytes; see :mod:`slipway._snapshots.budget`.

        Raises:
            ImageError: the snapshot exceeds the budget, the disk is full, or the store cannot be
                written; nothing is left then.
            HostError: the snapshot is of another machine than ``key``, or cannot be read.
        """
        if snapshot != _build_snapshot(key, snapshot.memory, snapshot.state):
            raise HostError(f"the snapshot is of another machine than {key.name}")
        from slipway_initramfs.store.garbage_collection import try_tidy

        with translated_image_errors():
            try:
                self._make_room(key, snapshot, budget)
                with self._images.building(f"{KIND}-{key.name}"):
                    record = self._write(key, snapshot)
                    return decode_record(self._images, key.name, record)
            finally:
                # The next writer would remove what was replaced, evicted or not finished, but the
                # disk may be full now.
                with suppress(BuildError):
                    try_tidy(self._images)

    def check_room(self, key: SnapshotKey, needed: int, budget: int | None) -> None:
        """Check that a snapshot of ``key`` with ``needed`` bytes would fit; evict nothing.

        Raises:
            ImageError: the snapshot exceeds the budget, or the disk is full.
        """
        from slipway._snapshots.budget import choose_evicted
        from slipway_initramfs.disk.space import check_space

        evicted = choose_evicted(self.list(), self.root, key, needed, budget)
        more = max(needed - sum(each.disk_bytes for each in evicted), 0)
        with translated_image_errors():
            check_space(f"the snapshot {key.name}", (self._images.temporary, more))

    def _make_room(self, key: SnapshotKey, snapshot: Snapshot, budget: int | None) -> None:
        """Evict others for the budget, and check the disk's space.

        Raises:
            ImageError: of this package or of slipway_initramfs; there is not enough room.
        """
        from slipway._snapshots import sparse_files
        from slipway._snapshots.budget import choose_evicted
        from slipway_initramfs.disk.space import check_space
        from slipway_initramfs.store.garbage_collection import try_tidy

        files = snapshot.memory, snapshot.state
        needed = sum(sparse_files.count_data_bytes(file) for file in files)
        if evicted := choose_evicted(self.list(), self.root, key, needed, budget):
            for each in evicted:
                self._forget(each)
            try_tidy(self._images)
        check_space(f"the snapshot {key.name}", (self._images.temporary, needed))

    def _write(self, key: SnapshotKey, snapshot: Snapshot) -> str:
        from slipway._snapshots import sparse_files as _sparse_files

        blobs: dict[str, Blob] = {}
        for name, source in (("memory", snapshot.memory), ("state", snapshot.state)):
            blob = self._images.put_blob(
                lambda file, source=source: _sparse_files.copy(source, file.fileno()),  # type: ignore[misc]
                _sparse_files.digest,
            )
            blobs[name] = blob
        manifest = build_manifest(key, int(time.time()), blobs)
        return self._images.put_record(KIND, key.name, manifest)

    def remove(self, name: str) -> int:
        """Remove a snapshot and return the bytes freed; clones that exist go on.

        Raises:
            ImageError: ``name`` is unknown, or another process is writing to the store.
        """
        from slipway_initramfs.store.garbage_collection import remove_record

        with translated_image_errors():
            return remove_record(self._images, KIND, name)

    def forget(self, key: SnapshotKey) -> None:
        """Remove the record of the snapshot of ``key``, if found."""
        if (stored := self.find(key)) is not None:
            self._forget(stored)

    def _forget(self, stored: StoredSnapshot) -> None:
        """Remove a snapshot's record, unless replaced; garbage collection removes the files."""
        name = stored.key.name
        with suppress(BuildError, OSError):
            if self._images.reference(KIND, name) == stored.record:
                self._images.tree.remove_file(self._images.root / "refs" / KIND / name)

    def _discard(self, stored: StoredSnapshot, why: str) -> NoReturn:
        self._forget(stored)
        raise ImageError(
            f"the snapshot {stored.key.name} in the store {why}",
            f"Create it again: slipway image build {stored.key.image}",
        )


def _build_snapshot(key: SnapshotKey, memory: int, state: int) -> Snapshot:
    """Return the snapshot of ``key`` with its open files."""
    machine = key.hypervisor, key.architecture
    return Snapshot(*machine, key.memory_bytes, key.cpus, key.port, memory, state, key.network)
