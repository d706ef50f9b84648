"""Garbage collection of the store: removed images, unreferenced files, remains of killed writers.

The collector holds the store's lock exclusively: new blobs of a writer have no reference yet.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway_initramfs.disk import build_directories, locks
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.store import files, manifests
from slipway_initramfs.store.reader import CHOICE_KIND
from slipway_initramfs.store.records import SMALL_KERNEL, build_kernel_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from slipway_initramfs.store.reader import StoreReader
    from slipway_initramfs.store.records import Kernel


def remove_image(store: StoreReader, name: str, architecture: str | None = None) -> int:
    """Remove an image by language or digest prefix; return the number of bytes freed.

    Raises:
        ImageError: the image is unknown, or another process is building.
    """
    image = store.image(name, architecture)
    if image is None:
        raise ImageError(f"unknown image {name!r}", "See: slipway image list")
    with _lock_store(store):
        language = image.language
        key = image.key
        files.remove_file(store, store.root / "refs" / "image" / key)
        was_last = not store.find_architectures(image.name)
        if was_last and store.is_choice(image.name, language):
            # Otherwise the choice would return with the next image of that name.
            files.remove_file(store, store.root / "refs" / "default" / language)
        if not any(other.language == language for other in store.images()):
            # The language file of imported images is removed with the last of them.
            files.remove_file(store, store.root / "refs" / "language" / language)
        return _collect_orphans(store)


def remove_record(store: StoreReader, kind: str, key: str) -> int:
    """Remove a record, intact or not, and the files that only it names; return the bytes freed.

    Raises:
        ImageError: the record is unknown, or another process is building.
    """
    if key not in store.names(kind):
        raise ImageError(f"unknown {kind} {key!r}", f"See: slipway {kind} list")
    with _lock_store(store):
        files.remove_file(store, store.root / "refs" / kind / key)
        return _collect_orphans(store)


def remove_kernel(store: StoreReader, architecture: str, name: str) -> int:
    """Remove a kernel, intact or not, and the choice of it; return the bytes freed.

    Raises:
        ImageError: the store has no such kernel, or another process is building.
    """
    if build_kernel_key(architecture, name) not in store.names("kernel"):
        raise ImageError(
            f"the store has no kernel {name!r} for {architecture}", "See: slipway kernel list"
        )
    with _lock_store(store):
        forget_kernel(store, architecture, name)
        return _collect_orphans(store)


def forget_kernel(store: StoreReader, architecture: str, name: str) -> None:
    """Remove a kernel's record, and the choice of it. Its files are orphans then."""
    chosen = ""
    with suppress(ImageCorrupted):
        chosen = store.kernel_choice(architecture)
    key = build_kernel_key(architecture, name)
    files.remove_file(store, store.root / "refs" / "kernel" / key)
    if chosen == name:
        files.remove_file(store, store.root / "refs" / CHOICE_KIND / architecture)


def prune(store: StoreReader) -> int:
    """Remove unreferenced files, stale kernels and downloads; return the number of bytes freed.

    Raises:
        ImageError: another process is building.
    """
    with _lock_store(store) as swept:
        for kernel in _find_stale_kernels(store):
            forget_kernel(store, kernel.architecture, kernel.name)
        return (
            swept + _collect_orphans(store) + _remove_files(store, _list_prunable_downloads(store))
        )


@dataclass(frozen=True, slots=True)
class PrunableFile:
    """A file that a prune would remove, with its disk use in bytes."""

    path: Path
    size: int


def find_prunable(
    store: StoreReader, without: Collection[tuple[str, str]] = ()
) -> list[PrunableFile]:
    """Return the files that ``prune`` would remove, were the records ``without`` (kind, key) gone.

    The store is not changed.

    Raises:
        ImageError: another process is building; its new files have no reference yet.
    """
    with _exclude_writers(store):
        stale = {("kernel", kernel.key) for kernel in _find_stale_kernels(store)}
        _, orphans = _find_orphans(store, stale.union(without))
        left = _list_files(store.tree, store.temporary)
        found = [*orphans, *left, *_list_prunable_downloads(store)]
        return [PrunableFile(path, allocated_bytes(path)) for path in found]


def allocated_bytes(path: Path) -> int:
    """Return the disk use of a file in bytes, without holes; 0 if the file is missing."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, found.st_blocks * 512)


def list_downloads(store: StoreReader) -> list[Path]:
    """Return downloaded files, complete and partial, which can be fetched again."""
    # Several stores may share the downloads of one, by a link.
    apt = TrustedTree(store.apt)
    places = [store.apt / "downloads", *sorted(store.apt.glob("*/partial"))]
    return [
        *_list_files(store.tree, store.layers),
        *(path for place in places for path in _list_files(apt, place)),
    ]


def tidy(store: StoreReader) -> None:
    """Remove remains of killed writers and replaced files. The caller holds the exclusive lock."""
    _sweep_temporary(store)
    _collect_orphans(store)


def try_tidy(store: StoreReader) -> None:
    """Do the same as :func:`tidy`, unless another process is writing.

    Raises:
        ImageError: the store cannot be read.
    """
    with locks.open_lock(store.tree, store.root / "lock") as lock:
        if locks.try_lock_exclusive(lock):
            tidy(store)


@contextmanager
def _lock_store(store: StoreReader) -> Iterator[int]:
    """Lock out builders; yield the number of bytes that killed writers had left."""
    files.make_directory(store, store.temporary)
    with locks.open_lock(store.tree, store.root / "lock") as lock:
        if not locks.try_lock_exclusive(lock):
            raise _make_busy_error()
        yield _sweep_temporary(store)


@contextmanager
def _exclude_writers(store: StoreReader) -> Iterator[None]:
    """Lock out builders without changing a file; a store that is read-only for us needs no lock."""
    path = store.root / "lock"
    if not os.access(path, os.W_OK):
        yield
        return
    with locks.open_lock(store.tree, path) as lock:
        if not locks.try_lock_exclusive(lock):
            raise _make_busy_error()
        yield


def _make_busy_error() -> ImageError:
    return ImageError("another process is building an image", "Try again when it has finished.")


def _sweep_temporary(store: StoreReader) -> int:
    """Remove remains of killed writers. The caller holds the exclusive lock."""
    for path in _list_files(store.tree, store.root / "locks"):
        # Whoever creates a snapshot holds its lock for long, and locks the store only to write.
        locks.remove_unheld(store.tree, path)
    left = _list_files(store.tree, store.temporary)
    return build_directories.sweep(store.temporary) + _remove_files(store, left)


def _collect_orphans(store: StoreReader) -> int:
    """Remove unreferenced manifests, blobs and initrds; return the number of bytes freed."""
    references, orphans = _find_orphans(store)
    for path in references:
        files.remove_file(store, path)
    return _remove_files(store, orphans)


def _find_stale_kernels(store: StoreReader) -> list[Kernel]:
    """Return the small kernels that no run boots: another version of Slipway has compiled them.

    A stale kernel of Debian's is replaced by the next run.
    """
    return [k for k in store.kernels() if k.name == SMALL_KERNEL and not k.is_current]


def _find_orphans(
    store: StoreReader, without: Collection[tuple[str, str]] = ()
) -> tuple[list[Path], list[Path]]:
    """Return useless references, and files without a reference."""
    digests: set[str] = set()
    blobs: set[str] = set()
    dead: list[Path] = []
    # Sorted: images come before snapshots, which are useless without them.
    for kind in sorted(_list_directory(store.tree, store.root / "refs")):
        for key in store.names(kind):
            digest = store.reference(kind, key)
            try:
                manifest = store.manifest(kind, digest) if digest else None
            except ImageCorrupted:
                manifest = None
            if (
                # Damaged, or in the format of another version: its blobs are not kept.
                manifest is None
                or (kind == "snapshot" and f"{manifest.get('image_digest')}.json" not in digests)
                or (kind, key) in without
            ):
                dead.append(store.root / "refs" / kind / key)
                continue
            digests.add(f"{digest}.json")
            blobs |= manifests.find_digests(manifest)
    parts = {blob[:32] for blob in blobs}
    keepers: dict[str, Callable[[str], bool]] = {
        "manifests": digests.__contains__,
        "blobs": blobs.__contains__,
        "verified": blobs.__contains__,
        "initrds": lambda name: parts.issuperset(name.split("-")),
    }
    orphans = [
        path
        for directory, keep in keepers.items()
        for path in _list_files(store.tree, store.root / directory)
        if not keep(path.name)
    ]
    return dead, orphans


def _list_prunable_downloads(store: StoreReader) -> list[Path]:
    """Return the downloads of this store, without those of a linked store."""
    own = not store.apt.is_symlink()
    return [path for path in list_downloads(store) if own or path.parent == store.layers]


def _remove_files(store: StoreReader, paths: Iterable[Path]) -> int:
    """Remove files of the store; return the number of bytes freed."""
    freed = 0
    for path in paths:
        freed += allocated_bytes(path)
        files.remove_file(store, path)
    return freed


def _list_files(tree: TrustedTree, directory: Path) -> list[Path]:
    """Return the plain files in a directory of the store, without links."""
    return [directory / name for name in _list_directory(tree, directory, files=True)]


def _list_directory(tree: TrustedTree, directory: Path, *, files: bool = False) -> list[str]:
    try:
        return tree.list_directory(directory, files=files)
    except OSError as error:
        raise ImageError(f"cannot read the image store: {error}") from error
