"""Leases of stored snapshots, and the times of their last use.

A process that has a template open holds a shared lock (flock(2)) on the file of the snapshot's
memory, and a snapshot with such a lock is not evicted. The kernel releases the locks of a process
that ends. The time of the last use is that of the reference in the store.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from slipway_initramfs.errors import UntrustedFile

if TYPE_CHECKING:
    from slipway._snapshots.stored_snapshot import StoredSnapshot

# Seconds after which a further use is noted.
_NOTE_SECONDS = 60.0


class SnapshotLease:
    """Lease of a stored snapshot, from its creation to :meth:`close`, and notes of its use.

    Without a lock, as of a lost file or on a file system that has none, nothing is kept: a run
    whose snapshot is evicted meanwhile boots.
    """

    def __init__(self, stored: StoredSnapshot) -> None:
        self._reference = stored.reference
        self._descriptor = -1
        self._noted_at = 0.0
        self.note_use()
        with suppress(OSError, UntrustedFile):
            self._descriptor = stored.memory.tree.open_file(stored.memory.path)
            # An evicting process holds its lock for a moment only, and a lost lease does no harm.
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def note_use(self) -> None:
        """Set the time of the last use to now, at most once a minute.

        Nothing is noted in a store that is read-only for us.
        """
        now = time.monotonic()
        if self._noted_at and now - self._noted_at < _NOTE_SECONDS:
            return
        self._noted_at = now
        with suppress(OSError):
            os.utime(self._reference, follow_symlinks=False)

    def close(self) -> None:
        """End the lease; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_leased(stored: StoredSnapshot) -> bool:
    """Return whether a process has a lease of ``stored``, or may have one."""
    from slipway_initramfs.disk import locks

    try:
        # For writing: NFS locks nothing exclusively that is open for reading only (flock(2)).
        descriptor = stored.memory.tree.open_file(stored.memory.path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except (OSError, UntrustedFile):
        return True
    try:
        return not locks.try_lock_exclusive(descriptor)
    except OSError:
        return True
    finally:
        os.close(descriptor)
