"""Descriptors of the gateway's loop, each with its handler."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE, ENDED = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR
# A descriptor that is watched for nothing still reports its end, by epoll_ctl(2), at each poll; by
# edges it does so once.
_IDLE = select.EPOLLET


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

    def poll(self, seconds: float | None) -> None:
        """Wait at most ``seconds``, and call the handlers of all descriptors with events."""
        for descriptor, events in self._epoll.poll(seconds):
            # An earlier handler may have removed it, and another may have got its number: a handler
            # takes an event that did not happen.
            if watched := self._watched.get(descriptor):
                watched[1](events)
