"""What Debian calls its directories and glibc its loader, by the names of architectures."""

from __future__ import annotations

# The name of the directory for an architecture's libraries.
TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
# Where every program of glibc's names its loader.
LOADERS = {"amd64": "lib64/ld-linux-x86-64.so.2", "arm64": "lib/ld-linux-aarch64.so.1"}
