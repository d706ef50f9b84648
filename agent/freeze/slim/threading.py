"""Stand-in for threading, with the lock of sliplib's configuration."""

from _thread import RLock

__all__ = ["RLock"]


def _shutdown():
    """Do nothing. The interpreter calls this at its end; the agent has one thread."""
