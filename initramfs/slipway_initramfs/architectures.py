"""What Debian calls its directories and glibc its loader, by the names of architectures."""

from __future__ import annotations

from typing import Final

TRIPLETS: Final = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
"""The name of the directory for an architecture's libraries."""
LOADERS: Final = {"amd64": "lib64/ld-linux-x86-64.so.2", "arm64": "lib/ld-linux-aarch64.so.1"}
"""Where every program of glibc's names its loader."""
