"""Options of a runtime for ready machines, and their validation."""

from __future__ import annotations

from dataclasses import dataclass

from slipway._util.errors import InputError


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Options of ready machines, by the names that SDK and command line share.

    ``pool`` is the maximum number of idle clones of each language, 0 for no pool. ``cold`` boots a
    machine for each run, without snapshots. ``warm`` are languages to prewarm. ``snapshot_budget``
    is the disk space of all snapshots in bytes, None for the default.
    """

    pool: int = 0
    cold: bool = False
    warm: tuple[str, ...] = ()
    snapshot_budget: int | None = None

    def check(self) -> None:
        """Check that the options go together.

        Raises:
            InputError: the options exclude each other.
        """
        if self.cold and self.pool:
            raise InputError(
                f"cold and pool={self.pool} exclude each other: a pool needs snapshots",
                "Leave out one of them.",
            )
        if self.warm and self.cold:
            raise InputError(
                "cold and warm exclude each other: warm languages wait in a pool of snapshots",
                "Leave out one of them.",
            )
        if self.warm and not self.pool:
            raise InputError(
                "warm and pool=0 exclude each other: warm languages wait in a pool",
                "Leave out warm, or give pool=1 or more.",
            )
