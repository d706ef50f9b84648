"""Builds of the images from Debian's packages: without a snapshot, and then the snapshot.

In a new store that has the default store's downloads: the network is not measured. Kernel and agent
are made before. Each row is one build; wall-clock seconds and processor seconds of the command with
its children, which a busy host distorts less. Machines end by themselves and are among them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from process_tree import measure
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from slipway_initramfs.store.records import Image

SCRIPTS = Path(sys.executable).parent
LANGUAGES = ("bash", "python", "c", "c++", "go", "javascript", "rust")
COLUMNS = "image downloaded root lz4 left-out entries build-s cpu-s snap-s cpu-s snap-MB min-MiB"
MEGABYTE = 1_000_000
MIB = 1 << 20


def make_store(directory: Path) -> ImageStore:
    """Make a store with downloads, kernel and agent, and no image."""
    store = ImageStore(directory / "slipway")
    shutil.copytree(ImageStore().root / "apt", store.root / "apt", symlinks=True)
    for action in (("build", "--no-snapshot"), ("remove",)):
        command = [SCRIPTS / "slipway", "image", *action, "--store", store.root, "bash"]
        subprocess.run(command, check=True)
    return store


def find_image(store: ImageStore, name: str) -> Image:
    """Return the image of a language."""
    return next(image for image in store.images() if image.name == name)


def measure_blobs(store: ImageStore) -> int:
    """Return the bytes of the disk that the store's blobs take."""
    blocks = {
        path.stat().st_ino: path.stat().st_blocks for path in (store.root / "blobs").iterdir()
    }
    return sum(blocks.values()) * 512


def build_row(store: ImageStore, name: str) -> str:
    """Build one image and its snapshot; return the row of the table."""
    command = [str(SCRIPTS / "slipway"), "image", "build", "--store", str(store.root)]
    built = measure([*command, "--no-snapshot", name])
    before = measure_blobs(store)
    taken = measure([*command, "--snapshot", name])
    image, added = find_image(store, name), measure_blobs(store) - before
    manifest = image.manifest
    downloaded = sum(package["size"] for package in manifest["packages"])
    sizes = (downloaded, manifest["root"], image.root.size, manifest["trimmed"])
    cells = [
        name,
        *(f"{size / MEGABYTE:.0f}" for size in sizes),
        str(manifest["files"]),
        *(f"{value:.1f}" for value in (built.wall, built.processor)),
        *(f"{value:.1f}" for value in (taken.wall, taken.processor)),
        f"{added / MEGABYTE:.0f}",
        f"{image.minimum_memory // MIB}",
    ]
    return "".join(f"{cell:>12}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("languages", nargs="*", default=LANGUAGES)
    parsed = parser.parse_args()
    os.environ["SLIPWAY_SOURCE"] = "debian"
    with tempfile.TemporaryDirectory(prefix="slipway-", dir=ImageStore().root.parent) as directory:
        store = make_store(Path(directory))
        load = os.getloadavg()[0]
        print(
            f"\nsizes in MB of 10^6 bytes, seconds by the clock and of processors; load {load:.1f}"
        )
        names = (
            "image downloaded root lz4 left-out entries build-s cpu-s snap-s cpu-s snap-MB min-MiB"
        )
        print("".join(f"{name:>12}" for name in names.split()), flush=True)
        for name in parsed.languages:
            print(build_row(store, name), flush=True)
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
