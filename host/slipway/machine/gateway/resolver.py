"""Look-up of names by the host's resolver, in few threads beside the loop."""

from __future__ import annotations

import _socket
import _thread
import os
from _queue import SimpleQueue
from collections import deque
from math import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    LookUp = Callable[[bytes], list[str]]
    """Function that returns the addresses of a name as text; raises OSError without any."""
    Answer = Callable[[list[str]], None]
    """Function that takes the addresses, or an empty list."""

MAX_THREADS = 2
MAX_LOOKUPS = 64
MAX_ADDRESSES = 8
# Two attempts of glibc's resolver take 10 s; a guest's connection gives up by then.
SECONDS = 10.0


def ignore_search_domains() -> None:
    """Look names up as they are from now on, and not below the host's domains (resolv.conf(5)).

    A rule names a host, and no other one there. A dot at the end of each name would also have this
    effect, but is unknown to /etc/hosts.
    """
    os.putenv("LOCALDOMAIN", ".")


def look_up(name: bytes) -> list[str]:
    """Return the addresses of ``name``, in the order in which they should be tried (RFC 6724).

    Raises:
        OSError: no address is known.
    """
    # As bytes, a name goes to the C library without a codec, which would have to be imported.
    found = _socket.getaddrinfo(name, None, 0, _socket.SOCK_STREAM, 0, _socket.AI_ADDRCONFIG)
    return [str(address[0]) for *_, address in found]


class Resolver:
    """Look-ups under way. Threads start when needed; the end of the process ends them."""

    def __init__(self, look_up: LookUp = look_up) -> None:
        self._look_up = look_up
        self._requests: SimpleQueue[bytes] = SimpleQueue()
        self._results: deque[tuple[bytes, list[str]]] = deque()
        self._waiting: dict[bytes, tuple[float, list[Answer]]] = {}
        # Names that a thread has, or is about to get: a look-up cannot be cancelled.
        self._pending: set[bytes] = set()
        self._threads = 0
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def deadline(self) -> float:
        """The time of the next :meth:`expire` that has an effect, or infinity."""
        return min((end for end, _ in self._waiting.values())) if self._waiting else inf

    def start(self, name: bytes, answer: Answer, now: float) -> bool:
        """Look ``name`` up and call ``answer`` from :meth:`collect`; False if too many are waiting.

        Requests for the same name share one look-up.
        """
        if name in self._waiting:
            self._waiting[name][1].append(answer)
            return True
        if name not in self._pending:
            if len(self._pending) >= MAX_LOOKUPS or not self._ensure_thread():
                return False
            self._pending.add(name)
            self._requests.put(name)
        self._waiting[name] = now + SECONDS, [answer]
        return True

    def _ensure_thread(self) -> bool:
        """Start a thread if all are busy; return False if there is none at all."""
        if self._threads < min(MAX_THREADS, len(self._pending) + 1):
            try:
                _thread.start_new_thread(self._run, ())
            except RuntimeError:  # the host has no room for a thread
                return self._threads > 0
            self._threads += 1
        return True

    def _run(self) -> None:
        while True:
            name = self._requests.get()
            try:
                addresses = self._look_up(name)
            except (OSError, ValueError, MemoryError):
                addresses = []
            self._results.append((name, addresses[:MAX_ADDRESSES]))
            os.eventfd_write(self.wake, 1)

    def collect(self) -> None:
        """Answer the requests whose look-ups have ended."""
        try:
            os.eventfd_read(self.wake)
        except BlockingIOError:
            return
        while self._results:
            name, addresses = self._results.popleft()
            self._pending.discard(name)
            self._answer(name, addresses)

    def expire(self, now: float) -> None:
        """Answer the requests that have waited too long."""
        for name in [name for name, (end, _) in self._waiting.items() if end <= now]:
            self._answer(name, [])

    def _answer(self, name: bytes, addresses: list[str]) -> None:
        _, answers = self._waiting.pop(name, (0.0, ()))
        for answer in answers:
            answer(addresses)
