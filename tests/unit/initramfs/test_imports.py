from __future__ import annotations

import subprocess
import sys

import pytest

HOT = (
    "from slipway_initramfs import languages\n"
    "from slipway_initramfs.store import ImageStore\n"
    "languages.by_suffix('x.py')\n"
    "ImageStore().image('python', 'amd64')\n"
    "import sys; print(*sys.modules)\n"
)


@pytest.mark.parametrize(
    "module",
    ["tarfile", "lzma", "hashlib", "lz4", "zstandard", "subprocess", "tempfile", "asyncio"],
)
def test_looking_up_an_image_imports_nothing_of_its_making(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", HOT], capture_output=True, text=True, check=True)

    assert module not in done.stdout.split()
