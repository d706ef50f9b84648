from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.initrds import find_initrd
from support.stores import put_agent, put_image

if TYPE_CHECKING:
    from pathlib import Path

HOT = (
    "from slipway_initramfs.languages import catalogue\n"
    "from slipway_initramfs.store import initrds\n"
    "from slipway_initramfs.store.image_store import ImageStore\n"
    "store = ImageStore()\n"
    "catalogue.find_language_by_suffix('x.py')\n"
    "image, agent = store.image('python', 'amd64'), store.archive('agent', '1-amd64')\n"
    "initrds.find_initrd(store, image, None, agent.path)\n"
    "import sys; print(*sys.modules)\n"
)
MAKING = (
    "tarfile", "lzma", "hashlib", "lz4", "zstandard", "subprocess", "tempfile", "asyncio",
    "slipway_initramfs.store.garbage_collection", "slipway_initramfs.store.files",
)  # fmt: skip


@pytest.mark.parametrize("module", MAKING)
@pytest.mark.bare
def test_lookup_of_an_image_imports_no_build_modules(module: str, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "slipway")
    find_initrd(store, put_image(store, "python"), None, put_agent(store).path)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", HOT], capture_output=True, text=True, check=True, env=environment
    )

    assert module not in done.stdout.split()
