"""Default directory of the image store."""

from __future__ import annotations

import os
from pathlib import Path


def default_root() -> Path:
    """Return ``$XDG_CACHE_HOME/slipway``, or ``~/.cache/slipway``."""
    # The XDG base directory specification ignores relative values.
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    return base / "slipway"
