"""The lock that sliplib's configuration holds; there is one thread only."""

from _thread import RLock

__all__ = ["RLock"]


def _shutdown():
    """Called by the interpreter when it ends: there are no threads to wait for."""
