"""Cache of registries' blobs on this machine's disk, shared by all images.

    <hex>           a complete blob; size and digest were checked on arrival
    <hex>.partial   the received part; the writer holds a lock on the file

The kernel releases the locks of a killed process, and the next process resumes the download. Files
are not synced: the digest is checked again before a blob is unpacked.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO

from slipway_initramfs.disk import locks
from slipway_initramfs.disk.spool import CHUNK, make_disk_error
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.errors import DiskFull, ImageCorrupted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from slipway_initramfs.oci.repository import Descriptor, Repository, Transfers

# Bytes between two reports of a transfer.
REPORT = 256 << 10
# Seconds for threads to stop after an error or an interruption.
GRACE = 1.0


class BlobCache:
    """Directory of blobs, which is no link; methods raise ImageError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tree = TrustedTree(directory.parent)

    def fetch(self, descriptor: Descriptor, repository: Repository, transfers: Transfers) -> Path:
        """Return the file of a blob; fetch it from ``repository`` if it is missing.

        If another process is fetching the same blob, wait for it. ``transfers`` receives the
        progress. Errors of the repository are passed on.

        Raises:
            ImageCorrupted: the bytes do not match ``descriptor``.
            BuildFailed: the disk is full, or writing fails.
        """
        return self._fetch(descriptor, repository, transfers, Event())

    def fetch_all(
        self,
        descriptors: Sequence[Descriptor],
        repository: Repository,
        transfers: Transfers,
        workers: int = 3,
    ) -> list[Path]:
        """Fetch several blobs at a time; return their files in the order of ``descriptors``.

        ``transfers`` is called from several threads. The first error, or an interruption of the
        calling thread, is raised at once; other transfers then stop and can be resumed.
        """
        stop = Event()
        paths: dict[int, Path] = {}
        waiting: SimpleQueue[tuple[int, Descriptor]] = SimpleQueue()
        for job in enumerate(descriptors):
            waiting.put(job)
        endings: SimpleQueue[BaseException | None] = SimpleQueue()

        def work() -> None:
            ending: BaseException | None = None
            try:
                while not stop.is_set():
                    try:
                        number, descriptor = waiting.get_nowait()
                    except Empty:
                        break
                    paths[number] = self._fetch(descriptor, repository, transfers, stop)
            except BaseException as error:  # the caller's thread raises it, whatever it is
                ending = error
            endings.put(ending)

        # Not an executor: at exit the interpreter would wait for threads that read from a
        # server that has fallen silent.
        threads = [
            Thread(target=work, name="fetch", daemon=True)
            for _ in range(min(workers, len(descriptors)))
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                if (error := endings.get()) is not None:
                    raise error
        finally:
            stop.set()
            end = monotonic() + GRACE
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, end - monotonic()))
        return [paths[number] for number in range(len(descriptors))]

    def missing(self, descriptors: Sequence[Descriptor]) -> int:
        """Return the bytes of all blobs that are not complete in the cache."""
        return sum(
            descriptor.size
            for descriptor in {descriptor.digest: descriptor for descriptor in descriptors}.values()
            if not _is_whole(self._find_path(descriptor), descriptor)
        )

    def discard(self, descriptor: Descriptor) -> None:
        """Remove a damaged blob."""
        with _translate_disk_errors(self._directory):
            self._tree.remove_file(self._find_path(descriptor))

    def _find_path(self, descriptor: Descriptor) -> Path:
        return self._directory / descriptor.digest.removeprefix("sha256:")

    def _fetch(
        self, descriptor: Descriptor, repository: Repository, transfers: Transfers, stop: Event
    ) -> Path:
        path = self._find_path(descriptor)
        partial = path.with_name(f"{path.name}.partial")
        while not _is_whole(path, descriptor):
            with self._open_locked(partial) as file:
                if _is_current(file, partial) and not _is_whole(path, descriptor):
                    download = _Download(
                        descriptor, repository, transfers, stop, file, self._directory
                    )
                    try:
                        download.run()
                    except (ImageCorrupted, DiskFull):
                        # A partial blob must not keep the disk full.
                        self._tree.remove_file(partial)
                        raise
                    with _translate_disk_errors(self._directory):
                        partial.replace(path)
                elif _is_current(file, partial):
                    # Created by our open, just after another process had completed the blob.
                    self._tree.remove_file(partial)
        transfers(descriptor.label, descriptor.size, descriptor.size)
        return path

    @contextmanager
    def _open_locked(self, partial: Path) -> Iterator[BinaryIO]:
        """Open a file and wait for the lock on it."""
        with _translate_disk_errors(self._directory):
            self._tree.make_directory(self._directory)
            descriptor = self._tree.open_file(partial, os.O_RDWR | os.O_CREAT)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            locks.lock_exclusive(descriptor, "fetching a layer", lambda _: None)
            yield file


class _Stopped(Exception):
    """The result of this transfer is no longer needed."""


@dataclass(frozen=True, slots=True)
class _Download:
    """Download of a blob into a locked file."""

    descriptor: Descriptor
    repository: Repository
    transfers: Transfers
    stop: Event
    file: BinaryIO
    directory: Path

    def run(self) -> None:
        """Complete the file.

        Raises:
            ImageCorrupted: the received bytes do not match the descriptor.
        """
        if os.fstat(self.file.fileno()).st_size:
            try:
                self._complete_file()
            except ImageCorrupted:
                # The part of an earlier attempt may be damaged.
                self._truncate()
            else:
                return
        self._complete_file()

    def _complete_file(self) -> None:
        label, size = self.descriptor.label, self.descriptor.size
        digest, received = self._hash_received()
        if received < size:
            reported = -REPORT
            with self.repository.blob(self.descriptor, received) as chunks:
                for data in chunks:
                    self._check_stop()
                    received += len(data)
                    if received > size:
                        raise ImageCorrupted(f"layer {label} has more than its {size} bytes")
                    digest.update(data)
                    self._write(data)
                    if received - reported >= REPORT:
                        self.transfers(label, received, size)
                        reported = received
        if received != size:
            raise ImageCorrupted(f"layer {label} has {received} bytes instead of {size}")
        found = f"sha256:{digest.hexdigest()}"
        if found != self.descriptor.digest:
            raise ImageCorrupted(
                f"layer {label} comes with the digest {found[:19]}... from the registry",
                "Try again; if that does not help, the registry's copy is damaged.",
            )

    def _hash_received(self) -> tuple[hashlib._Hash, int]:
        """Return the digest and the number of the bytes in the file."""
        if os.fstat(self.file.fileno()).st_size > self.descriptor.size:
            self._truncate()
        digest, known = hashlib.sha256(), 0
        with _translate_disk_errors(self.directory):
            self.file.seek(0)
            while data := self.file.read(CHUNK):
                self._check_stop()
                digest.update(data)
                known += len(data)
        return digest, known

    def _truncate(self) -> None:
        with _translate_disk_errors(self.directory):
            self.file.truncate(0)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with _translate_disk_errors(self.directory):
            while view:
                view = view[self.file.write(view) :]

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise _Stopped


@contextmanager
def _translate_disk_errors(directory: Path) -> Iterator[None]:
    """Turn OSError into BuildFailed; use around file operations only, not around callbacks."""
    try:
        yield
    except OSError as error:
        raise make_disk_error(error, directory) from error


def _is_whole(path: Path, descriptor: Descriptor) -> bool:
    try:
        return path.lstat().st_size == descriptor.size
    except OSError:
        return False


def _is_current(file: BinaryIO, path: Path) -> bool:
    """Check whether the name of a locked file still leads to this file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
