"""What tells the machine from others of its image: host name and boot id."""

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
    """Files that lie over those of the image and the kernel, once :meth:`set_up` was called."""

    def __init__(self) -> None:
        self._taken = False
        self._covered: set[str] = set()

    def set_up(self, *, clone: bool) -> None:
        """Take a name, unless there is one; a ``clone`` has nothing of its own yet.

        The random state has to be the machine's own already.

        Raises:
            OSError: the kernel refuses.
        """
        if self._taken and not clone:
            return
        name = f"slipway-{os.urandom(4).hex()}"
        socket.sethostname(name)
        self._cover_file(_HOSTS, f"127.0.0.1 localhost {name}\n::1 localhost\n".encode())
        self._cover_file(_HOST_NAME, f"{name}\n".encode())
        if clone:
            # The kernel makes it once, when it is first read: that may have been in the template.
            with open(_NEW_ID, "rb", buffering=0) as file:
                self._cover_file(_BOOT_ID, file.read(64))
        self._taken = True

    def _cover_file(self, path: str, text: bytes) -> None:
        """Have ``text`` stand at ``path``, where there is a file."""
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
