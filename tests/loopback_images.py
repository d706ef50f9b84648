"""Makes ``rust@loopback`` and ``go@loopback``: images like the official ones, from a real registry.

They lie in the user's store beside Debian's, for the behaviour suite. Docker Hub is not asked: a
registry on loopback serves images of the same layout, made of Debian's packages. With ``--arch``,
those of another architecture than this host's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from slipway_initramfs.architectures import TRIPLETS, machine_architecture
from slipway_initramfs.build import build_image
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.freeze import freeze_agent
from slipway_initramfs.kernel_build import build_kernel
from slipway_initramfs.languages import catalogue
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.source import SourceOptions
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.initrds import find_initrd
from support.alpine_recipes import alpine_go
from support.container_images import write_layout
from support.debian_layers import Packages
from support.image_recipes import debian_rust
from support.registries import docker_registry

RECIPES = {"rust@loopback": debian_rust, "go@loopback": alpine_go}


def say(line: str) -> None:
    print(f"loopback: {line}", file=sys.stderr, flush=True)


def main(architecture: str) -> None:
    """Build missing images, and images with an outdated recipe."""
    store = ImageStore()
    # The recipe's rustc for arm64 does not find its libraries: the RUNPATH is not set.
    names = [name for name in RECIPES if architecture == "amd64" or name != "rust@loopback"]
    wanted = [catalogue.find_language(name) for name in names]
    found = {language.image: store.image(language.image, architecture) for language in wanted}
    missing = [
        language
        for language in wanted
        if (image := found[language.image]) is None or not language.matches(image)
    ]
    if not missing:
        return
    packages = Packages(DebianArchive(store.apt, architecture, say))
    kernel = build_kernel(store, architecture=architecture, progress=say)
    frozen = freeze_agent(store, architecture, say)
    with (
        tempfile.TemporaryDirectory() as directory,
        docker_registry(Path(directory) / "registry") as registry,
    ):
        for language in missing:
            layout = Path(directory) / language.name
            say(f"writing a container image for {language.image}")
            write_layout(layout, [RECIPES[language.image](packages)])
            reference = Reference.parse(registry.push(layout, f"library/{language.name}:loopback"))
            choices = SourceOptions(reference=reference, architecture=architecture)
            image = build_image(language, store, choices, progress=BuildProgress(say, say))
            # What the lab boots, where the store cannot be written.
            find_initrd(store, image, kernel, frozen.path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", choices=TRIPLETS, default=machine_architecture())
    main(parser.parse_args().arch)
