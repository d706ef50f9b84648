"""Who may open a server's sockets, as far as the file system says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

UNCHANGED = -1
"""An owner or group that is left as it is (chown(2))."""


@dataclass(frozen=True, slots=True)
class Access:
    """The mode of sockets, and their owner and group as numbers."""

    mode: int = 0o600
    owner: int = UNCHANGED
    group: int = UNCHANGED

    @property
    def directory_mode(self) -> int:
        """Of the directories that lead to sockets: passable for others only where it is needed.

        Nobody but us can list them; the names in them are secrets of 128 bits.
        """
        shared = self.mode & 0o077 or self.owner != UNCHANGED
        return 0o711 if shared else 0o700

    def apply(self, socket: Path) -> None:
        """Give ``socket`` its mode and owner, before it listens. Raises OSError."""
        if self.owner != UNCHANGED or self.group != UNCHANGED:
            os.chown(socket, self.owner, self.group, follow_symlinks=False)
        socket.chmod(self.mode)
