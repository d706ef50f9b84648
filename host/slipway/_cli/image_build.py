"""``slipway image build``: build images from packages and registries."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._cli.downloads import Downloads
from slipway._cli.interruption import report_interruption
from slipway._cli.progress import Progress
from slipway._cli.quantities import parse_path
from slipway._cli.snapshot_budget import read_snapshot_budget
from slipway._cli.snapshot_creation import (
    SnapshotCreation,
    add_snapshot_options,
    read_snapshot_options,
)
from slipway._model.options import OPTIONS
from slipway._util.errors import InputError
from slipway._util.units import format_mib

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from slipway._cli.parser import Parser
    from slipway.machine.model import Hypervisor
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.source import SourceOptions
    from slipway_initramfs.store.image_store import ImageStore

_COMPRESSIONS = ("lz4", "zstd", "gzip", "none")


def add_build_options(parser: Parser) -> None:
    """Add the options of ``slipway image build``."""
    add = parser.add_argument
    add(
        "--source",
        choices=("auto", "registry", "debian"),
        help="source of the files (default: SLIPWAY_SOURCE, or auto)",
    )
    add(
        "--from", dest="reference", metavar="REFERENCE",
        help="container image: docker://HOST/NAME:TAG, oci:PATH[:TAG] or"
        " docker-archive:PATH[:NAME:TAG]",
    )  # fmt: skip
    add("--name", metavar="NAME", help="name for the language of --language-file")
    add("--language-file", type=parse_path, metavar="FILE", help="description of a new language")
    add(
        "--registry", metavar="HOST",
        help="registry in place of Docker Hub (default: SLIPWAY_REGISTRY)",
    )  # fmt: skip
    add("--insecure", action="store_true", help="allow plain http to a registry without TLS")
    add("--ca", type=parse_path, metavar="FILE", help="additional trusted certificates, in PEM")
    add("--compression", choices=_COMPRESSIONS, help="compression of the initramfs (default: lz4)")
    add(
        "--arch",
        choices=OPTIONS["arch"].choices,
        default="auto",
        help="architecture (default: that of this host)",
    )
    add("--refresh", action="store_true", help="look for a newer version at the source")
    add_snapshot_options(parser)


def build_images(parsed: argparse.Namespace, store: ImageStore) -> int:
    """Build the named images, and take a snapshot of each, except with --no-snapshot.

    Raises:
        InputError: arguments exclude each other.
        HostError: with --snapshot, a snapshot cannot be taken.
        ImageError: of :mod:`slipway_initramfs.errors`; an image cannot be built.
    """
    from slipway._run.image_warmup import create_warmer
    from slipway.machine.hypervisors import choose
    from slipway_initramfs.build import build_image
    from slipway_initramfs.freeze import freeze_agent
    from slipway_initramfs.kernel_build import build_kernel
    from slipway_initramfs.languages import catalogue, toml_file
    from slipway_initramfs.progress import BuildProgress
    from slipway_initramfs.store.initrds import find_initrd

    file: Path | None = parsed.language_file
    # Read once, so that the stored file is the one that the image was built from.
    text = b"" if file is None else toml_file.read_file(file)
    wanted = _find_languages(parsed, store, text)  # all languages, before any work begins
    best = choose("auto", store.root, parsed.arch)
    architecture = best.architecture
    choices = _read_source_options(parsed, wanted, best)
    snapshots = _prepare_snapshots(parsed, store, best)
    progress = Progress()
    with report_interruption(store, progress), Downloads(progress) as downloads:
        reports = BuildProgress(progress, downloads.show_notice, downloads.show_transfer)
        name = parsed.kernel or ""
        kernel = build_kernel(store, architecture=architecture, name=name, progress=progress)
        frozen = freeze_agent(store, architecture, progress)
        warmer = create_warmer(store, best, progress)
        for language in wanted:
            began = time.monotonic()
            image = build_image(language, store, choices, progress=reports, warmer=warmer)
            # The file that a machine boots: a first run finds it, even in a read-only store.
            find_initrd(store, image, kernel, frozen.path)
            for warning in image.manifest.get("warnings", []):
                downloads.show_notice(f"{image.name}: {warning}")
            seconds = time.monotonic() - began
            downloads.show_notice(
                f"{image.name}: {format_mib(image.root.size, 0)}, {image.digest[:12]},"
                f" {seconds:.1f} s"
            )
    if file is not None:
        # Last: a language without an image is not stored.
        catalogue.store_language(store, wanted[0].name, text)
    if snapshots is not None:
        snapshots.create_all(wanted)
    return 0


def _prepare_snapshots(
    parsed: argparse.Namespace, store: ImageStore, best: Hypervisor
) -> SnapshotCreation | None:
    """Return the creation of snapshots on ``best`` or on --machine; None with --no-snapshot.

    Raises:
        InputError: arguments exclude each other.
        HostError: with --snapshot, this host cannot run the machines.
    """
    from slipway.machine.hypervisors import choose

    options = read_snapshot_options(parsed)
    if options is None:
        return None
    budget = read_snapshot_budget(parsed)
    if options.machine != "auto":
        best = choose(options.machine, store.root, parsed.arch)
    creation = SnapshotCreation(store, best, options, budget, required=parsed.snapshot is True)
    creation.check_host()
    return creation


def _find_languages(parsed: argparse.Namespace, store: ImageStore, text: bytes) -> list[Language]:
    from slipway_initramfs.languages import catalogue

    if parsed.language_file is not None:
        if parsed.languages:
            raise InputError(
                "a language and --language-file exclude each other",
                "Leave out the language. --name gives that of the file another name.",
            )
        return [_read_language_file(parsed, text)]
    if parsed.name is not None:
        raise InputError(
            "--name without --language-file", "Leave out --name, or add --language-file FILE."
        )
    if not parsed.languages:
        raise InputError("missing LANGUAGE", "See: slipway image build --help")
    if "all" in parsed.languages:
        if len(parsed.languages) > 1:
            raise InputError(
                "'all' and other languages exclude each other", "Leave out the others."
            )
        return list(catalogue.known_languages(store).values())
    return [catalogue.find_language(name, store) for name in parsed.languages]


def _read_language_file(parsed: argparse.Namespace, text: bytes) -> Language:
    """Return the language of --language-file, with the name of --name."""
    from slipway_initramfs.languages import catalogue, toml_file

    language = toml_file.parse_language(text, parsed.language_file.name)
    if parsed.name is not None:
        if not toml_file.is_language_name(parsed.name):
            raise InputError(
                f"invalid --name {parsed.name[:40]!r}",
                "Use small letters, digits, '+', '#', '-' and '.'.",
            )
        language = replace(language, name=parsed.name)
    catalogue.check_new_name(language.name)
    return language


def _read_source_options(
    parsed: argparse.Namespace, wanted: list[Language], hypervisor: Hypervisor
) -> SourceOptions:
    from slipway_initramfs.oci.reference import Reference
    from slipway_initramfs.oci.registry import Access
    from slipway_initramfs.source import SourceOptions

    reference = None
    if parsed.reference is not None:
        if len(wanted) > 1:
            raise InputError("--from with several languages", "Build one language at a time.")
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
        architecture=hypervisor.architecture,
        refresh=parsed.refresh,
        emulated=hypervisor.is_emulated,
    )
