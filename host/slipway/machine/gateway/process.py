"""Process of a gateway, ``python -c ... PARENT CONTROL LINK``, started beside a machine.

The arguments are the parent's process id and inherited descriptors. The first message on the
control channel has the rules; the end of that channel, or of the link, is the end of the process.
"""

from __future__ import annotations

import _socket
import os
import sys
import time
from contextlib import suppress
from math import inf

from slipway._util.errors import HostError, InputError, SlipwayError
from slipway._util.libc import libc
from slipway.jail import privileges
from slipway.machine.gateway.confine import confine
from slipway.machine.gateway.connections import Connections
from slipway.machine.gateway.destinations import Destinations
from slipway.machine.gateway.frames import FrameHandler
from slipway.machine.gateway.link import Link
from slipway.machine.gateway.name_table import NameTable
from slipway.machine.gateway.names import NameServer
from slipway.machine.gateway.policy import Policy
from slipway.machine.gateway.poller import READ, WRITE, Poller
from slipway.machine.gateway.published import format_ports, open_listeners
from slipway.machine.gateway.report import Report
from slipway.machine.gateway.resolver import Resolver, ignore_search_domains
from slipway.vmm.process import control
from slipway.vmm.process.control import send_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from slipway.machine.gateway.published import Listener

# Characters of names in a message: with its verb, less than control.MAX_MESSAGE.
MAX_NAMES = 60_000
# malloc.h
_M_TRIM_THRESHOLD = -1
# Free memory that a busy process keeps: what a connection holds in both directions.
FREE_BYTES = 2 << 20


def main() -> NoReturn:
    """Serve one guest to the end of its machine."""
    parent, channel, link = map(int, sys.argv[-3:])
    privileges.set_parent_death_signal(parent)
    ignore_search_domains()
    try:
        gateway = prepare(channel, link)
        confine(parent)
        code = gateway.run()
    except SlipwayError as error:
        kind = "input" if isinstance(error, InputError) else "host"
        send_message(channel, control.FAILED, kind=kind, message=error.message, hint=error.hint)
        code = 1
    # Threads may be in a look-up: nobody waits for them.
    sys.stderr.flush()
    os._exit(code)


def prepare(channel: int, link: int) -> GatewayProcess:
    """Return the gateway that the parent requests, with its ports bound.

    Raises:
        HostError: the rules are invalid.
        InputError: a port cannot be bound.
    """
    verb, texts = control.decode(os.read(channel, control.MAX_MESSAGE))
    named, names = control.decode(os.read(channel, control.MAX_MESSAGE))
    if (verb, named) != (control.RULES, control.NAMES):
        os._exit(1)  # the parent died before its request
    try:
        policy = Policy(texts["rules"])
    except ValueError as error:
        raise HostError(f"the gateway cannot read its rules: {error}") from None
    return GatewayProcess(channel, link, policy, {**texts, **names})


def keep_free_memory() -> None:
    """Keep memory that is free for the next frames (glibc, mallopt(3)).

    Otherwise half of all large frames give pages back to the kernel and get them anew, zeroed.
    """
    with suppress(AttributeError):
        libc.mallopt(_M_TRIM_THRESHOLD, FREE_BYTES)


def return_memory() -> None:
    """Give memory that is free back to the kernel, after the last connection has ended (glibc)."""
    with suppress(AttributeError):
        libc.malloc_trim(0)


def _join_names(names: Sequence[str]) -> str:
    """Return the first names, one a line, as far as a message has room for them."""
    lines = "\n".join(names)
    return lines if len(lines) <= MAX_NAMES else lines[:MAX_NAMES].rpartition("\n")[0]


class GatewayProcess:
    """Loop of a gateway: link, sockets of the host, look-ups and the control channel."""

    def __init__(self, channel: int, link: int, policy: Policy, texts: dict[str, str]) -> None:
        """Make all that a running gateway needs, before it is confined."""
        now = time.monotonic()
        os.set_blocking(link, False)
        self._channel = channel
        self._ended = False
        self._report = Report()
        self._poller = Poller()
        self._link = Link(link, now, int(texts["rate"]))
        self._link_descriptor = link
        self._resolver = Resolver()
        self._names = NameTable(texts["names"].split("\n") if texts["names"] else ())
        destinations = Destinations(policy, self._names, self._report)
        self._connections = Connections(
            self._poller, self._link, self._resolver, destinations, self._report
        )
        self._report.limit = int(texts["limit"])
        self._connections.checksums = texts["checksums"] == "1"
        if texts["agent"]:
            stream = _socket.socket(fileno=int(texts["agent"]))
            stream.setblocking(False)
            self._connections.now = now
            self._connections.connect_agent(stream)
        names = NameServer(policy, self._names)
        self._frames = FrameHandler(self._link, self._connections, names, self._report)
        self._listeners = open_listeners(texts["publish"])
        self._poller.add(channel, READ, self._on_control)
        self._poller.add(link, READ, self._on_link)
        self._poller.add(self._resolver.wake, READ, lambda _: self._resolver.collect())
        for listener in self._listeners:
            self._poller.add(listener.fileno(), READ, self._build_acceptor(listener))

    def run(self) -> int:
        """Run until the parent or the machine has ended; return the exit status."""
        keep_free_memory()
        send_message(self._channel, control.PUBLISHED, ports=format_ports(self._listeners))
        was_busy = False
        while not self._ended:
            wait = self._compute_wait()
            if wait is None and was_busy:
                return_memory()
            was_busy = wait is not None
            happened = self._poller.wait(wait)
            now = self._connections.now = time.monotonic()
            self._poller.handle(happened)
            if now >= self._connections.deadline:
                self._connections.expire()
            if now >= self._resolver.deadline:
                self._resolver.expire(now)
            self._connections.move()
            self._link.update_pause(now)
            self._poller.change(self._link_descriptor, self._link.events)
            if self._link.ended and not self._ended:
                self._ended = True
                send_message(self._channel, control.ENDED, **self._report.format())
        return 0

    def _compute_wait(self) -> float | None:
        """Return the seconds until something happens by time alone; None if nothing does."""
        if self._connections.has_work:
            return 0
        due = min(self._connections.deadline, self._resolver.deadline)
        if self._link.pause:
            due = min(due, self._connections.now + self._link.pause)
        return None if due == inf else max(0.0, due - time.monotonic())

    def _build_acceptor(self, listener: Listener) -> Callable[[int], None]:
        return lambda _: self._connections.accept(listener)

    def _on_link(self, events: int) -> None:
        if events & WRITE:
            self._link.flush()
        else:
            self._link.receive(self._frames.handle)

    def _on_control(self, _: int) -> None:
        try:
            message = os.read(self._channel, control.MAX_MESSAGE)
        except OSError:
            message = b""
        verb, _texts = control.decode(message)
        if verb == control.REPORT:
            send_message(self._channel, control.REPORT, **self._report.format())
        elif verb == control.NAMES:
            send_message(self._channel, control.NAMES, names=_join_names(self._names.names))
        elif not verb:
            self._ended = True
