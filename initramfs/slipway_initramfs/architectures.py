"""Names of architectures: Debian's own, those of its library directories and of glibc's loader."""

from __future__ import annotations

import os

from slipway_initramfs.errors import ImageError

# Directory of the libraries of an architecture, below /lib and /usr/lib.
TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
# Path of the loader, as every program linked with glibc names it.
LOADERS = {"amd64": "lib64/ld-linux-x86-64.so.2", "arm64": "lib/ld-linux-aarch64.so.1"}

# Debian's name for what uname(2) reports.
_DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def machine_architecture() -> str:
    """Return Debian's name of this machine's architecture.

    Raises:
        ImageError: the architecture is unknown.
    """
    machine = os.uname().machine
    try:
        return _DEBIAN_NAMES[machine]
    except KeyError:
        raise ImageError(f"no images for the architecture {machine!r}") from None
