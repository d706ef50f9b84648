"""Store of the user if snapshots can be kept there; the lab's store is read-only."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway_initramfs.store.image_store import ImageStore
from support.stores import copy_store

if TYPE_CHECKING:
    from pathlib import Path


def writable_store(language: str, spare: Path) -> Path:
    """Return the root of the user's store, or of a copy at ``spare`` of the assets of ``language``.

    Snapshots are a cache: a later test uses those of an earlier test.
    """
    store = ImageStore()
    if os.access(store.root, os.W_OK):
        return store.root
    if not spare.exists():
        copy_store(find_assets(find_language(language), Options(), store, print), spare)
    return spare
