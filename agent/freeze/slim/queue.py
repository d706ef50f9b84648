"""The queue of sliplib's driver, for one thread: whoever would have to wait finds it empty."""

from _collections import deque


class Empty(Exception):
    """There is nothing in the queue."""


class Queue:
    """First in, first out."""

    def __init__(self):
        self._items = deque()

    def put(self, item):
        """Append ``item``."""
        self._items.append(item)

    def get(self, _block=True, _timeout=None):
        """The oldest item."""
        if not self._items:
            raise Empty
        return self._items.popleft()
