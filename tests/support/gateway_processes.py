"""Processes of gateways, by the process that has started them."""

from __future__ import annotations

from pathlib import Path


def find_gateways(parent: int) -> list[int]:
    """Return the gateways that name ``parent`` as theirs, also after its end."""
    wanted = str(parent).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if any(b"slipway.machine.gateway.process" in word for word in words) and wanted in words:
            found.append(int(path.parent.name))
    return found
