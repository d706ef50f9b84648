"""Steps of confinement, alike for all processes that handle input of a guest."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress

from slipway._util.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38

# No core file, and no written file.
NO_FILES = {
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_MEMLOCK: 0,
}


def set_parent_death_signal(parent: int) -> None:
    """Let the kernel kill this process when ``parent`` dies; end at once if it is dead already.

    New privileges are ruled out as well. A change of the user id deletes the request (prctl(2)).
    """
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def forbid_inspection() -> None:
    """Protect the memory from processes of the same user, and prevent core files.

    From here on an ordinary user's process cannot open its own files in /proc.
    """
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def set_limits(limits: Mapping[int, int]) -> None:
    """Set each limit, soft and hard, by its number; a limit that cannot be raised is left."""
    for limit, value in limits.items():
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))
