"""Compiled modules of Python, made on the host, since L1 cannot write them."""

from __future__ import annotations

import compileall
import re
import sys
from pathlib import Path

PACKAGES = ("protocol", "agent", "initramfs", "host", "tests", "bench")
# What runs in guests is wrong on purpose in part.
_SKIPPED = re.compile(r"/programs/")


def compile_modules(project: Path) -> None:
    """Compile outdated modules of the project and of this Python's environment."""
    for directory in (*(project / name for name in PACKAGES), Path(sys.prefix) / "lib"):
        # What cannot be compiled, or not be written, is left to whoever imports it.
        compileall.compile_dir(directory, quiet=2, rx=_SKIPPED)
