"""``slipway image export`` and ``import``: an image as one file, to be carried elsewhere."""

from __future__ import annotations

import json
import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from slipway._cli.quantities import mebibytes
from slipway._cli.terminal import Progress, emit, say
from slipway._model.errors import HostError, InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image

_STREAM = "-"


def export_image(parsed: argparse.Namespace, image: Image, store: ImageStore) -> int:
    """Write an image to the file of the arguments.

    Raises:
        InputError: the arguments do not fit together.
        HostError: the file cannot be written; nothing is left of it then.
        ImageError: of :mod:`slipway_initramfs.errors`; the store lacks something.
    """
    from slipway_initramfs import freeze, image_export

    piped = parsed.file == _STREAM
    if piped and parsed.json:
        raise InputError("--json is given, and the image goes to stdout", "Name a file.")
    if piped and sys.stdout.isatty():
        raise InputError("an image does not go to a terminal", "Name a file, or send it on: | ...")
    progress = Progress()
    try:
        agent = freeze.freeze_agent(store, image.architecture, progress, verify=True).archive
        with _output(parsed.file) as output:
            index = image_export.export_image(store, image, agent, output, progress)
    finally:
        progress.done()
    size = sum(part.size for part in index.blobs)
    if parsed.json:
        emit(json.dumps({**_record(image), "bytes": size, "file": parsed.file}) + "\n")
    else:
        where = "stdout" if piped else parsed.file
        say(
            f"{image.name} ({image.architecture}), {image.digest}: {mebibytes(size)} MiB to {where}"
        )
    return 0


def import_image(parsed: argparse.Namespace, store: ImageStore) -> int:
    """Take an image from the file of the arguments.

    Raises:
        HostError: the file cannot be read.
        ImageError: of :mod:`slipway_initramfs.errors`; it is no sound image, or does not fit.
    """
    from slipway_initramfs import freeze, image_import
    from slipway_initramfs.errors import ImageError
    from slipway_initramfs.store.initrds import find_initrd

    progress = Progress()
    try:
        with _input(parsed.file) as file:
            try:
                found = image_import.import_image(store, file, progress)
            except ImageError as error:
                where = "stdin" if parsed.file == _STREAM else parsed.file
                raise ImageError(f"{where}: {error.message}", error.hint) from error
        image = found.image
        if found.agent:
            # What a machine boots, so that a first run finds it, even in a store it cannot write.
            agent = freeze.freeze_agent(store, image.architecture, progress)
            find_initrd(store, image, store.kernel(image.architecture), agent.path)
    finally:
        progress.done()
    if parsed.json:
        emit(
            json.dumps({**_record(image), "replaced": found.replaced, "agent": found.agent}) + "\n"
        )
        return 0
    say(
        f"{image.name} ({image.architecture}), {image.digest}: {mebibytes(image.root.size)} MiB"
        + (", in place of another" if found.replaced else "")
    )
    if not found.agent:
        say(
            "its agent is of another version of Slipway: the first run makes one, of packages"
            " that it fetches from Debian"
        )
    return 0


def _record(image: Image) -> dict[str, object]:
    return {"name": image.name, "architecture": image.architecture, "digest": image.digest}


@contextmanager
def _output(name: str) -> Iterator[BinaryIO]:
    """Give what is written to; a file appears under its name when all is in it."""
    try:
        if name == _STREAM:
            with os.fdopen(os.dup(1), "wb") as file:
                yield file
        elif _is_device(Path(name)):
            with Path(name).open("wb") as file:
                yield file
        else:
            with _file(Path(name)) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"cannot write {name}: {error.strerror or error}") from None


def _is_device(path: Path) -> bool:
    """Whether it is there and neither a file nor a directory: /dev/stdout, a named pipe."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    """Give a file without a name, which even a killed process leaves nothing of; then name it."""
    if path.is_dir():
        raise InputError(f"{path} is a directory", "Name a file.")
    aside = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        named = False
    except OSError:
        # Not every file system has such files.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(aside, flags, 0o666)
        named = True
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not named:
                # A directory's descriptor is what makes Python follow the link (linkat(2)).
                place = f"/proc/self/fd/{file.fileno()}"
                os.link(place, aside, src_dir_fd=file.fileno(), follow_symlinks=True)
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


@contextmanager
def _input(name: str) -> Iterator[BinaryIO]:
    try:
        descriptor = os.dup(0) if name == _STREAM else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        file = os.fdopen(descriptor, "rb")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise InputError(f"cannot read {name[:200]!r}: {reason}") from None
    with file:
        yield file
