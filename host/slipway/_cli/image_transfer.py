"""``slipway image export`` and ``import``: transfer of an image as one file."""

from __future__ import annotations

import json
import os
import stat
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from slipway._cli.progress import Progress
from slipway._cli.terminal import print_text, write_line
from slipway._util.errors import HostError, InputError
from slipway._util.units import format_mib

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image

_STREAM = "-"


def export_image(parsed: argparse.Namespace, image: Image, store: ImageStore) -> int:
    """Write an image to a file or stdout.

    Raises:
        InputError: arguments exclude each other.
        HostError: the file cannot be written; a partial file is removed.
        ImageError: of :mod:`slipway_initramfs.errors`; a part of the image is missing.
    """
    from slipway_initramfs import freeze, image_export

    piped = parsed.file == _STREAM
    if piped and parsed.json:
        raise InputError("--json and an image on stdout exclude each other", "Name a file.")
    if piped and sys.stdout.isatty():
        raise InputError("cannot write an image to a terminal", "Name a file, or use a pipe.")
    progress = Progress()
    try:
        agent = freeze.freeze_agent(store, image.architecture, progress, verify=True).archive
        with _open_output(parsed.file) as output:
            index = image_export.export_image(store, image, agent, output, progress)
    finally:
        progress.clear()
    size = sum(part.size for part in index.blobs)
    if parsed.json:
        print_text(
            json.dumps({**_describe_image(image), "bytes": size, "file": parsed.file}) + "\n"
        )
    else:
        where = "stdout" if piped else parsed.file
        write_line(
            f"{image.name} ({image.architecture}), {image.digest}: {format_mib(size, 0)} to {where}"
        )
    return 0


def import_image(parsed: argparse.Namespace, store: ImageStore) -> int:
    """Read an image from a file or stdin into the store.

    Raises:
        HostError: the file cannot be read.
        ImageError: of :mod:`slipway_initramfs.errors`; the image is damaged or does not fit.
    """
    from slipway_initramfs import freeze, image_import
    from slipway_initramfs.errors import ImageError
    from slipway_initramfs.store.initrds import find_initrd

    progress = Progress()
    try:
        with _open_input(parsed.file) as file:
            try:
                found = image_import.import_image(store, file, progress)
            except ImageError as error:
                where = "stdin" if parsed.file == _STREAM else parsed.file
                raise ImageError(f"{where}: {error.message}", error.hint) from error
        image = found.image
        if found.agent:
            # The file that a machine boots: a first run finds it, even in a read-only store.
            agent = freeze.freeze_agent(store, image.architecture, progress)
            find_initrd(store, image, store.kernel(image.architecture), agent.path)
    finally:
        progress.clear()
    if parsed.json:
        print_text(
            json.dumps({**_describe_image(image), "replaced": found.replaced, "agent": found.agent})
            + "\n"
        )
        return 0
    write_line(
        f"{image.name} ({image.architecture}), {image.digest}: {format_mib(image.root.size, 0)}"
        + (", replaced another image" if found.replaced else "")
    )
    if not found.agent:
        write_line(
            "its agent is from another version of Slipway; the first run builds a new agent"
            " from Debian packages"
        )
    return 0


def _describe_image(image: Image) -> dict[str, object]:
    return {"name": image.name, "architecture": image.architecture, "digest": image.digest}


@contextmanager
def _open_output(name: str) -> Iterator[BinaryIO]:
    """Yield the output; a file gets its name when it is complete."""
    try:
        if name == _STREAM:
            with os.fdopen(os.dup(1), "wb") as file:
                yield file
        elif _is_device(Path(name)):
            with Path(name).open("wb") as file:
                yield file
        else:
            with _create_file(Path(name)) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"cannot write {name}: {error.strerror or error}") from None


def _is_device(path: Path) -> bool:
    """Return True for an existing device or pipe, such as /dev/stdout."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _create_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file without a name (nothing remains of it after SIGKILL), then name it."""
    if path.is_dir():
        raise InputError(f"{path} is a directory", "Name a file.")
    aside = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        named = False
    except OSError:
        # The file system does not support O_TMPFILE.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(aside, flags, 0o666)
        named = True
    with ExitStack() as undo:
        undo.callback(_remove_file, aside)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not named:
                # With src_dir_fd, Python follows the link (linkat(2), AT_SYMLINK_FOLLOW).
                place = f"/proc/self/fd/{file.fileno()}"
                os.link(place, aside, src_dir_fd=file.fileno(), follow_symlinks=True)
        aside.replace(path)
        undo.pop_all()


def _remove_file(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def _open_input(name: str) -> Iterator[BinaryIO]:
    try:
        descriptor = os.dup(0) if name == _STREAM else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        file = os.fdopen(descriptor, "rb")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise InputError(f"cannot read {name[:200]!r}: {reason}") from None
    with file:
        yield file
