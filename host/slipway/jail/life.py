"""Bond between the lives of a process and its parent, across namespaces of process ids."""

from __future__ import annotations

import os
import select
from signal import SIGKILL

from slipway._util.libc import libc

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def bind_to(parent: int) -> None:
    """Let the kernel kill this process when its parent dies; end at once if it is dead already.

    ``parent`` is the parent's pidfd: in a pid namespace of its own, a process sees no id of its
    parent. A change of user ids or a gain of capabilities deletes the request (prctl(2)): this is
    the last step but the filters.
    """
    libc.prctl(PR_SET_PDEATHSIG, int(SIGKILL), 0, 0, 0)
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    if poll.poll(0):
        os._exit(1)


def forbid_privileges() -> None:
    """Let no program that this process starts have more rights than it."""
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
