"""Blobs of registries on this machine's disk, shared by all images.

    <hex>           a whole blob, its size and digest checked when it came
    <hex>.partial   what has come so far; who writes it holds a lock on it

The kernel drops the locks of a killed process; the next one goes on where it stopped. Nothing is
synced: whoever unpacks a blob checks its digest again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO

from slipway_initramfs.disk.spool import CHUNK, make_disk_error
from slipway_initramfs.errors import DiskFull, ImageCorrupted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from slipway_initramfs.oci.repository import Descriptor, Repository, Transfers

# Bytes between two reports of a transfer.
REPORT = 256 << 10
# Seconds that threads are given to stop when another one has failed or the user wants no more.
GRACE = 1.0


class BlobCache:
    """A directory of blobs; methods raise ImageError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def fetch(self, descriptor: Descriptor, repository: Repository, transfers: Transfers) -> Path:
        """Return the file of a blob, fetched from ``repository`` if it is not there.

        While another process fetches the same blob, wait for it. ``transfers`` is told of what
        comes. Raises ImageCorrupted for other bytes than those of ``descriptor``, BuildFailed for a
        disk that is full, and what the repository raises.
        """
        return self._fetch(descriptor, repository, transfers, Event())

    def fetch_all(
        self,
        descriptors: Sequence[Descriptor],
        repository: Repository,
        transfers: Transfers,
        workers: int = 3,
    ) -> list[Path]:
        """Fetch several blobs at a time and return their files, in the order of ``descriptors``.

        ``transfers`` is called from several threads. The first error is raised as soon as it
        occurs, like an interruption of the calling thread; whatever is under way then stops by
        itself and can be resumed.
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

        # Not an executor: the interpreter would wait at its end for threads that read from a
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
        """Return the bytes of those blobs that are not there as a whole."""
        return sum(
            descriptor.size
            for descriptor in {descriptor.digest: descriptor for descriptor in descriptors}.values()
            if not _is_whole(self._find_path(descriptor), descriptor)
        )

    def discard(self, descriptor: Descriptor) -> None:
        """Remove a blob that has turned out to be damaged."""
        with _translate_disk_errors(self._directory):
            self._find_path(descriptor).unlink(missing_ok=True)

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
                        # Half a blob that does not fit is not to keep the disk full.
                        partial.unlink(missing_ok=True)
                        raise
                    with _translate_disk_errors(self._directory):
                        partial.replace(path)
                elif _is_current(file, partial):
                    # Made by opening it, just after somebody else had the whole blob.
                    partial.unlink(missing_ok=True)
        transfers(descriptor.label, descriptor.size, descriptor.size)
        return path

    @contextmanager
    def _open_locked(self, partial: Path) -> Iterator[BinaryIO]:
        """Open a file and wait for its lock."""
        with _translate_disk_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield file


class _Stopped(Exception):
    """Nobody waits for this transfer any more."""


@dataclass(frozen=True, slots=True)
class _Download:
    """One blob on its way into a file that nobody else writes."""

    descriptor: Descriptor
    repository: Repository
    transfers: Transfers
    stop: Event
    file: BinaryIO
    directory: Path

    def run(self) -> None:
        """Complete the file; raises ImageCorrupted if its bytes cannot be had."""
        if os.fstat(self.file.fileno()).st_size:
            try:
                self._complete_file()
            except ImageCorrupted:
                # What an earlier try left may be what is wrong.
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
        """Return the digest so far, and the bytes that are in the file."""
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
    """Say in words what goes wrong on the disk; around nothing that others implement."""
    try:
        yield
    except OSError as error:
        raise make_disk_error(error, directory) from error


def _is_whole(path: Path, descriptor: Descriptor) -> bool:
    try:
        return path.stat().st_size == descriptor.size
    except OSError:
        return False


def _is_current(file: BinaryIO, path: Path) -> bool:
    """Whether a file that was opened under a name still has it, now that it is locked."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
