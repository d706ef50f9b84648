"""``slipway image build``: images from packages and registries."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._cli.downloads import Downloads
from slipway._cli.interruption import interruption_told
from slipway._cli.quantities import file_path, mebibytes
from slipway._cli.terminal import Progress, say
from slipway._model.errors import InputError
from slipway.machine.hypervisors import HYPERVISORS

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from slipway._cli.parsers import Parser
    from slipway._model.options import Options
    from slipway_initramfs.languages.catalogue import Language
    from slipway_initramfs.source import SourceOptions
    from slipway_initramfs.store.image_store import ImageStore

_COMPRESSIONS = ("lz4", "zstd", "gzip", "none")
_ARCHITECTURES = ("amd64", "arm64")


def add_build_options(parser: Parser) -> None:
    """Add what can be chosen."""
    add = parser.add_argument
    add(
        "--source",
        choices=("auto", "registry", "debian"),
        help="(default: SLIPWAY_SOURCE, or auto)",
    )
    add(
        "--from", dest="reference", metavar="REFERENCE",
        help="docker://HOST/NAME:TAG, oci:PATH[:TAG] or docker-archive:PATH[:NAME:TAG]",
    )  # fmt: skip
    add("--name", metavar="NAME", help="of the language that --language-file describes")
    add("--language-file", type=file_path, metavar="FILE", help="describes a language of one's own")
    add(
        "--registry", metavar="HOST",
        help="instead of Docker Hub where a language names that (default: SLIPWAY_REGISTRY)",
    )  # fmt: skip
    add("--insecure", action="store_true", help="let a registry without TLS speak plain http")
    add("--ca", type=file_path, metavar="FILE", help="certificates to trust as well, PEM")
    add("--compression", choices=_COMPRESSIONS, help="of the archive (default: lz4)")
    add("--arch", choices=_ARCHITECTURES, help="(default: this machine's)")
    add("--refresh", action="store_true", help="ask the source for something newer")
    add(
        "--snapshot",
        action="store_true",
        help="also make a snapshot, for runs to begin in clones of",
    )
    add("--machine", choices=("auto", *HYPERVISORS), help="of the snapshot (default: auto)")


def build(parsed: argparse.Namespace, store: ImageStore) -> int:
    """Make the images that the arguments ask for.

    Raises:
        InputError: the arguments do not fit together.
        HostError: a snapshot cannot be made.
        ImageError: of :mod:`slipway_initramfs.errors`; an image cannot be made.
    """
    from slipway._run.image_warmup import warmer
    from slipway.machine.hypervisors import choose
    from slipway_initramfs.build import build_image, build_kernel
    from slipway_initramfs.freeze import freeze_agent
    from slipway_initramfs.languages import catalogue, toml_file
    from slipway_initramfs.progress import BuildProgress
    from slipway_initramfs.store.image_store import machine_architecture
    from slipway_initramfs.store.initrds import find_initrd

    file: Path | None = parsed.language_file
    # Read once: what is stored at the end is to be what the image was made by.
    text = b"" if file is None else toml_file.read_file(file)
    wanted = _languages(parsed, store, text)  # all of them, before any work begins
    emulated = choose("auto", store.root).is_emulated
    choices = _choices(parsed, wanted, emulated=emulated)
    architecture = choices.architecture or machine_architecture()
    snapshot_options = _snapshot_options(parsed, store, architecture)
    progress = Progress()
    with interruption_told(store, progress), Downloads(progress) as downloads:
        reports = BuildProgress(progress, downloads.notice, downloads.transfer)
        kernel = build_kernel(store, architecture=architecture, progress=progress)
        frozen = freeze_agent(store, architecture, progress)
        for language in wanted:
            began = time.monotonic()
            image = build_image(
                language, store, choices, reports=reports, warmer=warmer(store, progress)
            )
            # What a machine boots, so that a first run finds it, even in a store it cannot write.
            find_initrd(store, image, kernel, frozen.path)
            for warning in image.manifest.get("warnings", []):
                downloads.notice(f"{image.name}: {warning}")
            seconds = time.monotonic() - began
            downloads.notice(
                f"{image.name}: {mebibytes(image.root.size)} MiB, {image.digest[:12]},"
                f" {seconds:.1f} s"
            )
    if file is not None:
        # Last: a language whose image cannot be made is not to be there.
        catalogue.store_language(store, wanted[0].name, text)
    if snapshot_options is not None:
        for language in wanted:
            _make_snapshot(language, snapshot_options, store)
    return 0


def _snapshot_options(
    parsed: argparse.Namespace, store: ImageStore, architecture: str
) -> Options | None:
    """What the snapshots are to be of, if they are wanted; checked before any work begins.

    Raises:
        InputError: the arguments do not fit together.
        HostError: this host cannot run that machine.
    """
    from slipway._model.options import Options
    from slipway.machine.hypervisors import choose
    from slipway_initramfs.store.image_store import machine_architecture

    if not parsed.snapshot:
        if parsed.machine is not None:
            raise InputError("--machine is given without --snapshot", "No image depends on it.")
        return None
    if architecture != machine_architecture():
        raise InputError(
            f"--snapshot is given for {architecture}, and this host is {machine_architecture()}",
            "Snapshots are made where they are used. Leave out --snapshot or --arch.",
        )
    options = Options(machine=parsed.machine or "auto")
    choose(options.machine, store.root).check()
    return options


def _make_snapshot(language: Language, options: Options, store: ImageStore) -> None:
    """Make the snapshot of the image that is in the store, and say so."""
    from slipway._run.find_assets import find_assets
    from slipway._snapshots.create import make_snapshot

    progress = Progress()
    began = time.monotonic()
    try:
        assets = find_assets(language, options, store, progress)
        stored = make_snapshot(assets, options, store, progress)
    finally:
        progress.done()
    seconds = time.monotonic() - began
    say(f"snapshot {stored.shape.key}: {mebibytes(stored.disk_bytes)} MiB, {seconds:.1f} s")


def _languages(parsed: argparse.Namespace, store: ImageStore, text: bytes) -> list[Language]:
    from slipway_initramfs.languages import catalogue

    if parsed.language_file is not None:
        if parsed.languages:
            raise InputError(
                "a language and a --language-file are given",
                "The file's language is built; --name gives it another name.",
            )
        return [_described(parsed, text)]
    if parsed.name is not None:
        raise InputError(
            "--name is given without a --language-file", "It is for a language of your own."
        )
    if not parsed.languages:
        raise InputError("no language is given", "See: slipway image build --help")
    if "all" in parsed.languages:
        if len(parsed.languages) > 1:
            raise InputError("'all' is given beside other languages", "It stands for all of them.")
        return list(catalogue.known_languages(store).values())
    return [catalogue.find_language(name, store) for name in parsed.languages]


def _described(parsed: argparse.Namespace, text: bytes) -> Language:
    """The language of --language-file, under the name of --name."""
    from slipway_initramfs.languages import catalogue, toml_file

    language = toml_file.parse_language(text, parsed.language_file.name)
    if parsed.name is not None:
        if not toml_file.is_language_name(parsed.name):
            raise InputError(
                f"--name {parsed.name[:40]!r} is no name of a language",
                "Use small letters, digits, '+', '#', '-' and '.'.",
            )
        language = replace(language, name=parsed.name)
    catalogue.check_new_name(language.name)
    return language


def _choices(
    parsed: argparse.Namespace, wanted: list[Language], *, emulated: bool
) -> SourceOptions:
    from slipway_initramfs.oci.reference import Reference
    from slipway_initramfs.oci.registry import Access
    from slipway_initramfs.source import SourceOptions

    reference = None
    if parsed.reference is not None:
        if len(wanted) > 1:
            raise InputError("--from is given for several languages", "Build one at a time.")
        if parsed.source == "debian":
            raise InputError(
                "--from and --source debian exclude each other", "Leave out one of them."
            )
        reference = Reference.parse(parsed.reference)
    return SourceOptions.from_environment(
        os.environ,
        kind=parsed.source,
        reference=reference,
        access=Access(insecure=parsed.insecure, ca=parsed.ca),
        registry=parsed.registry,
        compression=parsed.compression or "",
        architecture=parsed.arch or "",
        refresh=parsed.refresh,
        emulated=emulated,
    )
