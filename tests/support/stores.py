"""Image stores of a test's own."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._assets import Assets


def copy_store(assets: Assets, target: Path) -> None:
    """Copy what is booted from, without the initrd that is made of it, nor any downloads.

    The layout is that of :mod:`slipway_initramfs.store`.
    """
    architecture = assets.image.architecture
    references = {
        f"refs/image/{assets.image.name}-{architecture}": assets.image.digest,
        f"refs/kernel/{architecture}": assets.kernel.digest,
        f"refs/archive-agent/{assets.agent.archive.key}": assets.agent.archive.digest,
    }
    for reference, digest in references.items():
        manifest = f"manifests/{digest}.json"
        entries = json.loads((assets.state / manifest).read_bytes()).values()
        blobs = [e["digest"] for e in entries if isinstance(e, dict) and "digest" in e]
        for name in (reference, manifest, *(f"blobs/{digest}" for digest in blobs)):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(assets.state / name, target / name)
