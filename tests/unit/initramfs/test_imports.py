from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.store import ImageStore
from support.stores import put_image

if TYPE_CHECKING:
    from pathlib import Path

HOT = (
    "from slipway_initramfs import languages\n"
    "from slipway_initramfs.store import ImageStore\n"
    "languages.by_suffix('x.py')\n"
    "assert ImageStore().image('python', 'amd64')\n"
    "import sys; print(*sys.modules)\n"
)


@pytest.mark.parametrize(
    "module",
    ["tarfile", "lzma", "hashlib", "lz4", "zstandard", "subprocess", "tempfile", "asyncio"],
)
def test_looking_up_an_image_imports_nothing_of_its_making(module: str, tmp_path: Path) -> None:
    put_image(ImageStore(tmp_path / "slipway"), "python")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", HOT], capture_output=True, text=True, check=True, env=environment
    )

    assert module not in done.stdout.split()
