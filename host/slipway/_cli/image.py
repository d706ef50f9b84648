"""``slipway image``: the language images and their store."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._cli.image_build import add_build_options, build
from slipway._cli.image_space import prune, show_use
from slipway._cli.image_transfer import export_image, import_image
from slipway._cli.quantities import file_name, mebibytes
from slipway._cli.tables import Column, table
from slipway._cli.terminal import emit, say
from slipway._cli.verbs import Verbs
from slipway._model.errors import InputError

if TYPE_CHECKING:
    import argparse

    from slipway._cli.parsers import Parser
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image

_IMAGE = "rust, rust@1.80, or the start of a digest"


def command(arguments: list[str], prog: str) -> int:
    """Run one verb of ``slipway image``.

    Raises:
        SlipwayError: it could not be done.
    """
    return _verbs(prog).run(arguments)


def parser(prog: str) -> Parser:
    """Return the parser of the verbs."""
    return _verbs(prog).parser


def _verbs(prog: str) -> Verbs:
    verbs = Verbs(
        prog,
        "Language images and their store.",
    )
    add = verbs.add
    make = add("build", build, "make images, and what they boot with")
    make.add_argument(
        "languages",
        nargs="*",
        metavar="LANGUAGE",
        help="rust, or rust@1.80; or 'all' that are known",
    )
    add_build_options(make)
    listing = add("list", _list, "what is there; * marks what a language's bare name stands for")
    listing.add_argument("--json", action="store_true", help="print records")
    inspect = add("inspect", _inspect, "all that is known of an image, as JSON")
    inspect.add_argument("image", metavar="IMAGE", help=_IMAGE)
    default = add("default", _default, "let a language's bare name stand for one of its images")
    default.add_argument("image", metavar="IMAGE", help="rust@1.80; or rust, to take that back")
    remove = add("remove", _remove, "remove images, and the snapshots of them")
    remove.add_argument("images", nargs="+", metavar="IMAGE", help=_IMAGE)
    sending = add("export", _export, "write an image as one file, with all that it boots from")
    sending.add_argument("image", metavar="IMAGE", help=_IMAGE)
    sending.add_argument("file", type=file_name, metavar="FILE", help="what is written; -: stdout")
    sending.add_argument("--json", action="store_true", help="print a record")
    taking = add("import", import_image, "take an image that was exported, on another machine too")
    taking.add_argument("file", type=file_name, metavar="FILE", help="what is read; -: stdin")
    taking.add_argument("--json", action="store_true", help="print a record")
    use = add("du", show_use, "what takes space in the store, and how to remove it")
    use.add_argument("--json", action="store_true", help="print records")
    pruning = add("prune", prune, "remove downloads, stale snapshots and what nothing refers to")
    pruning.add_argument("--dry-run", action="store_true", help="only say what that would be")
    pruning.add_argument("--json", action="store_true", help="print a record")
    return verbs


def _list(parsed: argparse.Namespace, store: ImageStore) -> int:
    images = store.images()
    if parsed.json:
        emit(json.dumps([_record(image, store) for image in images], indent=1) + "\n")
        return 0
    if not images:
        say("there are no images yet; make some: slipway image build python")
        return 0
    defaults = {store.default(image.language) for image in images}
    columns = (
        *(Column("IMAGE"), Column("TOOLCHAIN", cut=True), Column("ARCH"), Column("DIGEST")),
        *(Column(name, right=True) for name in ("MIB", "UNPACKED", "MIN-MEM", "MEMORY")),
        Column("SOURCE", cut=True),
    )
    rows = [
        (
            image.name + "*" * (image.name in defaults),
            _toolchain(image, store) or "?",
            image.architecture,
            image.digest[:12],
            mebibytes(image.root.size),
            mebibytes(image.manifest["root"]),
            mebibytes(image.minimum_memory),
            mebibytes(image.default_memory),
            image.source.get("requested") or image.source.get("kind"),
        )
        for image in images
    ]
    emit(table(columns, rows, sys.stdout))
    return 0


def _inspect(parsed: argparse.Namespace, store: ImageStore) -> int:
    image = _find(store, parsed.image)
    told = {**_record(image, store), "built": store.build_time(image), **image.manifest}
    emit(json.dumps(told, indent=1))
    emit("\n")
    return 0


def _default(parsed: argparse.Namespace, store: ImageStore) -> int:
    from slipway_initramfs.languages import catalogue

    language = catalogue.find_language(parsed.image, store)
    if language.version and store.image(language.image) is None:
        raise InputError(
            f"there is no image {language.image!r}",
            f"Make it: slipway image build {language.image}",
        )
    store.set_default(language.image)
    stands_for = language.image if language.version else "the version of its language file"
    say(f"{language.name} stands for {stands_for} now")
    return 0


def _remove(parsed: argparse.Namespace, store: ImageStore) -> int:
    from slipway_initramfs.store.garbage_collection import remove_image

    images = {image.digest: image for image in (_find(store, name) for name in parsed.images)}
    for digest, image in images.items():
        freed = mebibytes(remove_image(store, digest))
        say(f"{image.name} ({image.architecture}): {freed} MiB freed")
    return 0


def _export(parsed: argparse.Namespace, store: ImageStore) -> int:
    return export_image(parsed, _find(store, parsed.image), store)


def _find(store: ImageStore, name: str) -> Image:
    """The image that a person means: by its name, a language's alias, or the start of a digest.

    Of one name this machine's architecture comes first.

    Raises:
        InputError: there is none.
    """
    from slipway_initramfs.errors import UnknownLanguage
    from slipway_initramfs.languages import catalogue

    names = [name]
    with suppress(UnknownLanguage):
        names.append(catalogue.find_language(name, store).image)
    for wanted in names:
        if (image := store.image(wanted)) is not None:
            return image
    for image in store.images():
        if image.name in names:
            return image
    raise InputError(f"there is no image {name[:80]!r}", "See: slipway image list")


def _record(image: Image, store: ImageStore) -> dict[str, Any]:
    return {
        "name": image.name,
        "toolchain": _toolchain(image, store),
        "architecture": image.architecture,
        "digest": image.digest,
        "bytes": image.root.size,
        "minimum_memory": image.minimum_memory,
        "default_memory": image.default_memory,
    }


def _toolchain(image: Image, store: ImageStore) -> str:
    """What compiles or interprets in it; "" where that is unknown, as of a forgotten language."""
    from slipway_initramfs.errors import UnknownLanguage
    from slipway_initramfs.languages import catalogue

    try:
        return catalogue.find_language(image.language, store).toolchain.of(image)
    except UnknownLanguage:
        return ""
