"""Compiles the small kernel of this host twice, in two directories, and compares every byte.

``make kernel-twice``. It takes five minutes of two quiet processors each time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from slipway_initramfs.small_kernel_build import build_small_kernel
from slipway_initramfs.store.image_store import ImageStore


def main() -> None:
    """Compile in two empty stores that share downloads with the user's."""
    digests = []
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as directory:
            store = ImageStore(Path(directory))
            store.apt = ImageStore().apt
            kernel = build_small_kernel(store)
            print(f"{number}: Linux {kernel.version} {kernel.image.digest}", flush=True)
            digests.append((kernel.image.digest, kernel.digest))
    if digests[0] != digests[1]:
        sys.exit("the two kernels differ")
    print("both kernels are the same")


if __name__ == "__main__":
    main()
