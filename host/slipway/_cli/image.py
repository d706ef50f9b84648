"""``slipway image``: language images and their store."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._cli.command_group import CommandGroup
from slipway._cli.image_build import add_build_options, build_images
from slipway._cli.image_space import prune_store, show_use
from slipway._cli.image_transfer import export_image, import_image
from slipway._cli.quantities import parse_file_name
from slipway._cli.snapshot_budget import add_snapshot_budget
from slipway._cli.tables import Column, format_table
from slipway._cli.terminal import print_text, write_line
from slipway._model.options import OPTIONS
from slipway._snapshots.store import SnapshotStore
from slipway._util.errors import InputError
from slipway._util.units import format_time, to_mebibytes
from slipway_initramfs.architectures import TRIPLETS, machine_architecture

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from slipway._cli.parser import Parser
    from slipway._snapshots.stored_snapshot import StoredSnapshot
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image

_IMAGE = "image: rust, rust@1.80, or the beginning of a digest"


def run_command(arguments: list[str], prog: str) -> int:
    """Run one command of ``slipway image``.

    Raises:
        SlipwayError: the command failed.
    """
    return _build_group(prog).run(arguments)


def build_parser(prog: str) -> Parser:
    """Return the parser of all commands."""
    return _build_group(prog).parser


def _build_group(prog: str) -> CommandGroup:
    group = CommandGroup(prog, "Language images and their store.")
    add = group.add
    build = add("build", build_images, "build images, with the kernel and agent that they boot")
    build.add_argument(
        "languages",
        nargs="*",
        metavar="LANGUAGE",
        help="language, such as rust or rust@1.80; 'all' for every known language",
    )
    add_build_options(build)
    listing = add("list", _list_images, "list images; * marks the default of a language")
    listing.add_argument("--json", action="store_true", help="print JSON records")
    inspect = add("inspect", _inspect_image, "print all facts about an image, as JSON")
    inspect.add_argument("image", metavar="IMAGE", help=_IMAGE)
    _add_architecture(inspect)
    default = add("default", _set_default, "set the image for the bare name of a language")
    default.add_argument(
        "image", metavar="IMAGE", help="image, such as rust@1.80; rust restores the default"
    )
    remove = add("remove", _remove_images, "remove images and their snapshots")
    remove.add_argument("images", nargs="+", metavar="IMAGE", help=_IMAGE)
    _add_architecture(remove)
    export = add("export", _export_image, "write an image with its kernel and agent to one file")
    export.add_argument("image", metavar="IMAGE", help=_IMAGE)
    export.add_argument(
        "file", type=parse_file_name, metavar="FILE", help="output file, or - for stdout"
    )
    _add_architecture(export)
    export.add_argument("--json", action="store_true", help="print a JSON record")
    importing = add("import", import_image, "read an exported image from a file")
    importing.add_argument(
        "file", type=parse_file_name, metavar="FILE", help="input file, or - for stdin"
    )
    importing.add_argument("--json", action="store_true", help="print a JSON record")
    use = add("du", show_use, "show the disk use of the store, and commands to reduce it")
    use.add_argument("--json", action="store_true", help="print JSON records")
    prune = add(
        "prune",
        prune_store,
        "remove downloads, unreferenced files, and snapshots that are stale or over the budget",
    )
    prune.add_argument("--dry-run", action="store_true", help="list the files, remove nothing")
    prune.add_argument("--json", action="store_true", help="print a JSON record")
    add_snapshot_budget(prune)
    return group


def _add_architecture(parser: Parser) -> None:
    parser.add_argument(
        "--arch",
        choices=OPTIONS["arch"].choices,
        default="auto",
        help="architecture of the image; auto is that of the host, or else another",
    )


def _list_images(parsed: argparse.Namespace, store: ImageStore) -> int:
    images = store.images()
    snapshots = SnapshotStore(store).list()
    if parsed.json:
        records = [
            {**_describe_image(image, store), "snapshots": _describe_snapshots(image, snapshots)}
            for image in images
        ]
        print_text(json.dumps(records, indent=1) + "\n")
        return 0
    if not images:
        write_line("no images yet; to build one: slipway image build python")
        return 0
    columns = (
        *(Column("IMAGE"), Column("TOOLCHAIN", cut=True), Column("ARCH"), Column("DIGEST")),
        *(
            Column(name, right=True)
            for name in ("MIB", "UNPACKED", "MIN-MEM", "MEMORY", "SNAPSHOTS")
        ),
        Column("SOURCE", cut=True),
    )
    rows = [
        (
            image.name + "*" * (store.default(image.language, image.architecture) == image.name),
            _find_toolchain(image, store) or "?",
            image.architecture,
            image.digest[:12],
            to_mebibytes(image.root.size),
            to_mebibytes(image.manifest["root"]),
            to_mebibytes(image.minimum_memory),
            to_mebibytes(image.default_memory),
            to_mebibytes(sum(each["bytes"] for each in _describe_snapshots(image, snapshots))),
            image.source.get("requested") or image.source.get("kind"),
        )
        for image in images
    ]
    print_text(format_table(columns, rows, sys.stdout))
    return 0


def _inspect_image(parsed: argparse.Namespace, store: ImageStore) -> int:
    image = _find_image(store, parsed.image, parsed.arch)
    record = {**_describe_image(image, store), "built": store.build_time(image), **image.manifest}
    print_text(json.dumps(record, indent=1))
    print_text("\n")
    return 0


def _set_default(parsed: argparse.Namespace, store: ImageStore) -> int:
    from slipway_initramfs.languages import catalogue

    language = catalogue.find_language(parsed.image, store)
    if language.version and not store.find_architectures(language.image):
        raise InputError(
            f"image {language.image!r} not found",
            f"Build it: slipway image build {language.image}",
        )
    store.set_default(language.image)
    default = language.image if language.version else "the version of its language file"
    write_line(f"default of {language.name}: {default}")
    return 0


def _remove_images(parsed: argparse.Namespace, store: ImageStore) -> int:
    from slipway_initramfs.store.garbage_collection import remove_image

    found = [_find_image(store, name, parsed.arch) for name in parsed.images]
    images = {image.digest: image for image in found}
    for digest, image in images.items():
        freed = to_mebibytes(remove_image(store, digest))
        write_line(f"removed {image.name} ({image.architecture}): {freed} MiB")
    return 0


def _export_image(parsed: argparse.Namespace, store: ImageStore) -> int:
    return export_image(parsed, _find_image(store, parsed.image, parsed.arch), store)


def _find_image(store: ImageStore, name: str, architecture: str) -> Image:
    """Return an image by its name, an alias of its language, or the beginning of its digest.

    With the ``architecture`` ``auto``, that of the host comes first.

    Raises:
        InputError: the image is unknown.
    """
    from slipway_initramfs.errors import UnknownLanguage
    from slipway_initramfs.languages import catalogue

    names = [name]
    with suppress(UnknownLanguage):
        names.append(catalogue.find_language(name, store).image)
    own = machine_architecture()
    wanted = [own, *TRIPLETS] if architecture == "auto" else [architecture]
    for each in wanted:
        for known in names:
            image = store.image(known, each)
            # A digest is found for any architecture.
            if image is not None and (architecture == "auto" or image.architecture == each):
                return image
    kind = "image" if architecture == "auto" else f"image for {architecture}"
    raise InputError(f"{kind} {name[:80]!r} not found", "See: slipway image list")


def _describe_image(image: Image, store: ImageStore) -> dict[str, Any]:
    return {
        "name": image.name,
        "toolchain": _find_toolchain(image, store),
        "architecture": image.architecture,
        "digest": image.digest,
        "bytes": image.root.size,
        "minimum_memory": image.minimum_memory,
        "default_memory": image.default_memory,
    }


def _describe_snapshots(image: Image, snapshots: Iterable[StoredSnapshot]) -> list[dict[str, Any]]:
    """Return a record for each snapshot of this build of an image."""
    return [
        {"key": each.key.name, "bytes": each.disk_bytes, "used": format_time(each.used)}
        for each in snapshots
        if dict(each.key.parts).get("image") == image.digest
    ]


def _find_toolchain(image: Image, store: ImageStore) -> str:
    """Return the compiler or interpreter of an image; "" if the language is unknown."""
    from slipway_initramfs.errors import UnknownLanguage
    from slipway_initramfs.languages import catalogue

    try:
        return catalogue.find_language(image.language, store).toolchain.of(image)
    except UnknownLanguage:
        return ""
