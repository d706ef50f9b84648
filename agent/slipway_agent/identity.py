"""Identity of a guest among those of its image: host name and boot id."""

from __future__ import annotations

import os
import socket

from slipway_agent.mounts import IDENTITY
from slipway_agent.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, mount

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NEW_ID = "/proc/sys/kernel/random/uuid"
_HOSTS = "/etc/hosts"
_HOST_NAME = "/etc/hostname"
_OPTIONS = "size=64k,nr_inodes=16,mode=755"


class Identity:
    """Host name, and files mounted over those of image and kernel by :meth:`set_up`."""

    def __init__(self) -> None:
        self._has_name = False
        self._covered: set[str] = set()

    def set_up(self, *, clone: bool) -> None:
        """Set a host name at the first call; for a ``clone``, a new host name and boot id.

        Call this after the random state was made unique.

        Raises:
            OSError: the kernel refuses.
        """
        if self._has_name and not clone:
            return
        name = f"slipway-{os.urandom(4).hex()}"
        socket.sethostname(name)
        self._cover_file(_HOSTS, f"127.0.0.1 localhost {name}\n::1 localhost\n".encode())
        self._cover_file(_HOST_NAME, f"{name}\n".encode())
        if clone:
            # The kernel makes the boot id at its first read, which may have been in the template.
            with open(_NEW_ID, "rb", buffering=0) as file:
                self._cover_file(_BOOT_ID, file.read(64))
        self._has_name = True

    def _cover_file(self, path: str, text: bytes) -> None:
        """Mount a file with ``text`` over ``path``, if that is a regular file."""
        if not os.path.isfile(path) or os.path.islink(path):
            return
        if not self._covered:
            mount("tmpfs", IDENTITY, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, _OPTIONS)
        own = f"{IDENTITY}/{os.path.basename(path)}"
        with open(own, "wb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o444)
            file.write(text)
        if path not in self._covered:
            mount(own, path, "", MS_BIND)
            self._covered.add(path)
