from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")
