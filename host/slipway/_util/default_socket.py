"""Default path of a user's API socket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT = 0
_DIRECTORY = "slipway"
_SOCKET = "api"
# Where root's services have their sockets (hier(7)); a login of root has XDG_RUNTIME_DIR.
_SYSTEM = "/run"


def find_default_socket(environment: Mapping[str, str]) -> str | None:
    """Return ``$XDG_RUNTIME_DIR/slipway/api``, for root otherwise ``/run/slipway/api``.

    None if another user has no XDG_RUNTIME_DIR. Relative values are ignored, as the XDG base
    directory specification demands.
    """
    configured = environment.get("XDG_RUNTIME_DIR", "")
    if configured.startswith("/"):
        base = configured
    elif os.geteuid() == _ROOT:
        base = _SYSTEM
    else:
        return None
    return f"{base.rstrip('/')}/{_DIRECTORY}/{_SOCKET}"
