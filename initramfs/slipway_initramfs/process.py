"""What child processes of a build have in common."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec, where it is called, nothing may take a lock.
_libc = ctypes.CDLL(None)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill the calling process when the thread that started it ends (prctl(2)).

    ``parent`` is the process that started it; if that has ended already, end at once.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
