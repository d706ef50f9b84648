"""Stand-in for queue, for one thread: ``get`` never waits. sliplib's driver uses it."""

from _collections import deque


class Empty(Exception):
    """The queue is empty."""


class Queue:
    """First-in, first-out queue."""

    def __init__(self):
        self._items = deque()

    def put(self, item):
        """Append ``item``."""
        self._items.append(item)

    def get(self, _block=True, _timeout=None):
        """Return the oldest item.

        Raises:
            Empty: the queue is empty.
        """
        if not self._items:
            raise Empty
        return self._items.popleft()
