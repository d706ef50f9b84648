"""Parts of a jail, in the order in which a process gets them."""

from __future__ import annotations

import errno
from enum import Enum

# Lack of room: the same step may succeed later.
_MOMENTARY = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EUSERS})
_LIMITS = "/proc/sys/user"


class Part(Enum):
    """Parts of a jail; the values are the words for people and for JSON."""

    PID_NAMESPACE = "pid namespace"
    USER_ID = "user id of its own"
    USER_NAMESPACE = "user namespace"
    MOUNT_NAMESPACE = "mount namespace"
    NET_NAMESPACE = "net namespace"
    IPC_NAMESPACE = "ipc namespace"
    UTS_NAMESPACE = "uts namespace"
    CGROUP_NAMESPACE = "cgroup namespace"
    ROOT_TREE = "empty root"
    CAPABILITIES = "no capabilities"
    LANDLOCK = "Landlock"
    SECCOMP = "filter of system calls"


# Names of the limits of namespaces, /proc/sys/user/max_*_namespaces (namespaces(7)).
_NAMES = {
    Part.PID_NAMESPACE: "pid",
    Part.USER_NAMESPACE: "user",
    Part.MOUNT_NAMESPACE: "mnt",
    Part.NET_NAMESPACE: "net",
    Part.IPC_NAMESPACE: "ipc",
    Part.UTS_NAMESPACE: "uts",
    Part.CGROUP_NAMESPACE: "cgroup",
}


class JailRefusal(Exception):
    """Refusal of a part by the host."""

    def __init__(self, part: Part, error: OSError) -> None:
        super().__init__(f"{part.value}: {error.strerror or error}")
        self.part = part
        self.number = error.errno or 0
        self.reason = error.strerror or str(error)

    @property
    def is_momentary(self) -> bool:
        """True if the host lacks room now, and may have it later."""
        if self.number == errno.ENOSPC:  # the limit of namespaces, which may rule them out
            return _read_limit(self.part) != 0
        return self.number in _MOMENTARY

    @property
    def hint(self) -> str:
        """What helps against a lack of room; empty for another refusal."""
        if not self.is_momentary:
            return ""
        name = _NAMES.get(self.part)
        if self.number == errno.ENOSPC and name is not None:
            return f"Run fewer machines at once, or raise user.max_{name}_namespaces (sysctl)."
        return "Run fewer machines at once, or raise the limits of processes and open files."


def _read_limit(part: Part) -> int:
    """Return how many namespaces of a part a user may have; -1 if that is not told."""
    try:
        with open(f"{_LIMITS}/max_{_NAMES[part]}_namespaces", "rb") as file:
            return int(file.read())
    except (KeyError, OSError, ValueError):
        return -1
