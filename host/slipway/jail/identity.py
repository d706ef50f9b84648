"""Identity of a process: a user and group id that no other process has.

The id is a first one plus the number of the process, which is unique while the process lives.
Nothing is leased, and nothing is left after a kill.
"""

from __future__ import annotations

import os

from slipway.jail import capabilities
from slipway.jail.namespaces import read_outer_id

# systemd's table of ids (UIDS-GIDS) leaves 1879048192 to 2147483647 unused, beyond the ids of
# users, of dynamic services, of containers and of foreign images.
FIRST_ID = 0x70000000
# One id for each number of a process: PID_MAX_LIMIT, include/linux/threads.h
COUNT = 1 << 22
# (uid_t)-1 means "unchanged", and many programs take ids as signed.
LARGEST_FIRST_ID = 0x7FFFFFFF - COUNT


def take_identity(first: int) -> int:
    """Give this process of root an id of its own, which is returned; capabilities stay.

    Raises:
        OSError: the kernel refuses.
    """
    identity = first + read_outer_id()
    with capabilities.keep_all():
        os.setgroups([])
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
    return identity
