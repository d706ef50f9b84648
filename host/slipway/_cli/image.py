"""``slipway image``: the language images and their store."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._assets import errors_told_to_callers
from slipway._cli.terminal import Progress, emit, say
from slipway._errors import InputError
from slipway._request import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.records import Image
    from slipway_initramfs.store import ImageStore


def command(arguments: list[str]) -> int:
    """Run one verb of ``slipway image``.

    Raises:
        SlipwayError: it could not be done.
    """
    from slipway_initramfs.store import ImageStore

    parsed = _parser().parse_args(arguments)
    verb: Callable[[argparse.Namespace, ImageStore], int] = parsed.verb
    with errors_told_to_callers():
        return verb(parsed, ImageStore(parsed.store))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--store", type=Path, metavar="DIR", help="the image store")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(
        prog="slipway image", description="Language images and their store.", allow_abbrev=False
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(name: str, verb: Callable[..., int], text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(verb=verb)
        return made

    build = add("build", _build, "make the images of these languages, the kernel and the agent")
    build.add_argument("languages", nargs="+", metavar="LANGUAGE", help="or 'all'")
    listing = add("list", _list, "what is there")
    listing.add_argument("--json", action="store_true", help="print records")
    inspect = add("inspect", _inspect, "all that is known of an image, as JSON")
    inspect.add_argument("image", metavar="IMAGE", help="a language, or the start of a digest")
    remove = add("remove", _remove, "remove images")
    remove.add_argument("images", nargs="+", metavar="IMAGE")
    add("prune", _prune, "remove downloads and what nothing refers to any more")
    return parser


def _build(parsed: argparse.Namespace, store: ImageStore) -> int:
    from slipway_initramfs import languages
    from slipway_initramfs.build import build_image, build_kernel
    from slipway_initramfs.freeze import agent
    from slipway_initramfs.store import machine_architecture

    names = list(languages.all_languages()) if parsed.languages == ["all"] else parsed.languages
    wanted = [languages.by_name(name) for name in names]  # all of them, before any work begins
    progress = Progress()
    try:
        kernel = build_kernel(store, progress=progress)
        frozen = agent(store, machine_architecture(), progress)
        for language in wanted:
            began = time.monotonic()
            image = build_image(language, store, progress=progress)
            # What a machine boots, so that a first run finds it, even in a store it cannot write.
            store.initrd(image, kernel, frozen.path)
            progress.done()
            seconds = time.monotonic() - began
            say(f"{image.name}: {_mib(image.root.size)} MiB, {image.digest[:12]}, {seconds:.1f} s")
    finally:
        progress.done()
    return 0


def _list(parsed: argparse.Namespace, store: ImageStore) -> int:
    images = store.images()
    if parsed.json:
        emit(json.dumps([_record(image) for image in images], indent=1) + "\n")
        return 0
    if not images:
        say("there are no images yet; make some: slipway image build python")
        return 0
    row = "{:<12} {:<6} {:<12} {:>8} {:>9} {:>8} {:>8}\n"
    emit(row.format("IMAGE", "ARCH", "DIGEST", "MIB", "UNPACKED", "MIN-MEM", "MEMORY"))
    for image in images:
        emit(
            row.format(
                image.name,
                image.architecture,
                image.digest[:12],
                _mib(image.root.size),
                _mib(image.manifest["root"]),
                _mib(image.minimum_memory),
                _mib(image.default_memory),
            )
        )
    return 0


def _inspect(parsed: argparse.Namespace, store: ImageStore) -> int:
    image = store.image(parsed.image)
    if image is None:
        raise InputError(f"there is no image {parsed.image!r}", "See: slipway image list")
    emit(json.dumps({**_record(image), **image.manifest}, indent=1) + "\n")
    return 0


def _remove(parsed: argparse.Namespace, store: ImageStore) -> int:
    for name in parsed.images:
        if store.image(name) is None:
            raise InputError(f"there is no image {name!r}", "See: slipway image list")
    freed = sum(store.remove(name) for name in parsed.images)
    say(f"{_mib(freed)} MiB freed")
    return 0


def _prune(_parsed: argparse.Namespace, store: ImageStore) -> int:
    say(f"{_mib(store.prune())} MiB freed")
    return 0


def _record(image: Image) -> dict[str, Any]:
    return {
        "name": image.name,
        "architecture": image.architecture,
        "digest": image.digest,
        "bytes": image.root.size,
        "minimum_memory": image.minimum_memory,
        "default_memory": image.default_memory,
    }


def _mib(size: int) -> int:
    return round(size / MIB)
