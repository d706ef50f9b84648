"""Mode and owner of a server's sockets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# An owner or group that is not changed (chown(2)).
UNCHANGED = -1


@dataclass(frozen=True, slots=True)
class SocketAccess:
    """Mode, user id and group id of sockets."""

    mode: int = 0o600
    owner: int = UNCHANGED
    group: int = UNCHANGED

    @property
    def directory_mode(self) -> int:
        """Mode of the directories of sockets: others may pass only if the sockets are for others.

        Only the server's user can list the directories; names in them are secrets of 128 bits.
        """
        shared = self.mode & 0o077 or self.owner != UNCHANGED
        return 0o711 if shared else 0o700

    def apply(self, socket: Path) -> None:
        """Set mode and owner of ``socket``, before it listens.

        Raises:
            OSError: the owner may not be set, or the socket is missing.
        """
        if self.owner != UNCHANGED or self.group != UNCHANGED:
            os.chown(socket, self.owner, self.group, follow_symlinks=False)
        socket.chmod(self.mode)
