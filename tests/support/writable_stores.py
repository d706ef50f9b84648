"""The user's store where snapshots can be kept in it; the lab's is read-only."""

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
    """The root of the user's store, or of a copy at ``spare`` of what ``language`` boots from.

    Snapshots are a cache: what one test has made serves the next.
    """
    store = ImageStore()
    if os.access(store.root, os.W_OK):
        return store.root
    if not spare.exists():
        copy_store(find_assets(find_language(language), Options(), store, print), spare)
    return spare
