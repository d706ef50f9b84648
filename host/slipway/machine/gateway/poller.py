"""Descriptors of the gateway's loop, each with its handler."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE, ENDED = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR
# Report an event once, when it begins.
EDGES = select.EPOLLET
# A descriptor that is watched for nothing still reports its end, by epoll_ctl(2), at each poll; by
# edges it does so once.
_IDLE = EDGES


class Poller:
    """Set of descriptors, and of the events that each waits for; level-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}

    def add(self, descriptor: int, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler`` with the events of ``descriptor``; it is watched until removed."""
        self._epoll.register(descriptor, events or _IDLE)
        self._watched[descriptor] = events, handler

    def change(self, descriptor: int, events: int) -> None:
        """Wait for ``events`` of a descriptor; for none, only its end is reported, and once."""
        watched, handler = self._watched[descriptor]
        if watched != events:
            self._epoll.modify(descriptor, events or _IDLE)
            self._watched[descriptor] = events, handler

    def remove(self, descriptor: int) -> None:
        """Watch ``descriptor`` no more; it is still open."""
        if self._watched.pop(descriptor, None):
            self._epoll.unregister(descriptor)

    def wait(self, seconds: float | None) -> list[tuple[int, int]]:
        """Wait at most ``seconds``; return descriptors and their events for :meth:`handle`."""
        return self._epoll.poll(seconds)

    def handle(self, happened: list[tuple[int, int]]) -> None:
        """Call the handlers of all descriptors with events."""
        for descriptor, events in happened:
            # An earlier handler may have removed it, and another may have got its number: a handler
            # takes an event that did not happen.
            if watched := self._watched.get(descriptor):
                watched[1](events)
