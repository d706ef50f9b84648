"""Gateway of one machine, as its parent process sees it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._model.network_use import MAX_DENIED, DeniedDestination, NetworkUse
from slipway._util.errors import HostError
from slipway._util.text import to_plain_line
from slipway._util.threads import run_shielded
from slipway.machine.child import build_error, open_pair
from slipway.machine.module_command import build_module_command
from slipway.machine.process import ChildProcess
from slipway.vmm.process import control

if TYPE_CHECKING:
    from typing import Self

    from slipway._model.published_ports import PublishedPort

# A host under so much load that this is too short could not run the guest either.
START_SECONDS = 60.0
# For the last report; the gateway may be busy with a batch of frames.
REPORT_SECONDS = 5.0
# The buffer of each direction, in bytes, as far as the kernel allows.
_LINK_BUFFER = 4 << 20
_MAX_WORD = 255


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Rules of a gateway, ports to publish, and limits.

    ``rules`` is the form of :mod:`slipway.machine.gateway.policy`. A port of 0 is chosen by the
    kernel. ``rate`` is in bytes a second and ``limit`` in bytes, both for both directions together,
    and 0 for no limit. Without ``checksums``, those of TCP are left out, for a device that vouches
    for its frames. ``names`` are those of the gateway whose guest was forked, see
    :meth:`GatewayHandle.fetch_names`.
    """

    rules: str = ""
    publish: tuple[PublishedPort, ...] = ()
    rate: int = 0
    limit: int = 0
    checksums: bool = True
    names: tuple[str, ...] = ()


def create_link() -> tuple[socket.socket, socket.socket]:
    """Return the gateway's and the machine's end of a link: one Ethernet frame a packet."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINK_BUFFER)
    return ends


class GatewayHandle:
    """Process of a gateway, and the channel that controls it.

    As a context manager it is closed at the end. The gateway dies with this process, and ends when
    the machine's end of its link is closed.
    """

    def __init__(
        self, process: ChildProcess, channel: socket.socket, settings: GatewaySettings
    ) -> None:
        self._process = process
        self._channel = channel
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[str] = loop.create_future()
        self._answer: asyncio.Future[None] = loop.create_future()
        self._request_lock = asyncio.Lock()
        # Answers that are still to come; one may be late.
        self._due_answers = 0
        self._settings = settings
        self._names: tuple[str, ...] = ()
        self._is_bound = False
        # Numbers of a process that handles input of the guest.
        self.report = NetworkUse()
        # True if the process has ended without being closed, before its machine did.
        self.has_failed = False
        loop.add_reader(channel, self._on_readable)

    @classmethod
    def start(cls, settings: GatewaySettings, link: int, agent: int | None = None) -> Self:
        """Start a gateway on its end of a link, which the caller closes; call :meth:`wait_ready`.

        ``agent`` is a stream socket that the gateway joins to the agent's port, for a machine whose
        agent has none but that of the network; the caller closes it as well.

        Raises:
            HostError: the process cannot be started.
        """
        with ExitStack() as ours, ExitStack() as theirs:
            channel, other = open_pair(control.create_pair, ours, theirs)
            channel.setblocking(False)
            command = build_module_command("slipway.machine.gateway.process", (other, link))
            inherited = (other, link) if agent is None else (other, link, agent)
            process = ChildProcess.start(command, pass_fds=inherited, guarded=False)
            handle = cls(process, channel, settings)
            ours.pop_all()
        lines = (f"{one.guest} {one.host} {one.path or one.port}" for one in settings.publish)
        message = control.encode(
            control.RULES,
            rules=settings.rules,
            publish="\n".join(lines),
            rate=str(settings.rate),
            limit=str(settings.limit),
            checksums=str(int(settings.checksums)),
            agent="" if agent is None else str(agent),
        )
        with suppress(OSError):  # the end of the process is noticed by the channel
            channel.send(message)
            channel.send(control.encode(control.NAMES, names="\n".join(settings.names)))
        return handle

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def wait_ready(self) -> tuple[PublishedPort, ...]:
        """Wait until the gateway serves its guest; return the published ports.

        Raises:
            InputError: a port cannot be bound.
            HostError: the gateway did not start.
        """
        try:
            text = await asyncio.wait_for(asyncio.shield(self._ready), START_SECONDS)
        except TimeoutError:
            raise HostError(f"the gateway did not answer within {START_SECONDS:g} s") from None
        except EOFError:
            words = await self._process.read_stderr() or "no message"
            raise HostError(f"the gateway ended before it answered: {words}") from None
        self._is_bound = True
        # Only numbers are the gateway's: a path of its choice would be removed at the end.
        numbers = [_parse_number(word) for word in text.split()]
        return tuple(map(_set_port, self._settings.publish, numbers))

    async def fetch_report(self) -> NetworkUse:
        """Return the report as of now, or the last one if the gateway has ended or is silent.

        Nothing is waited for while the gateway starts: no frame has been read yet.
        """
        if self._has_started():
            await self._request(control.REPORT)
        return self.report

    async def fetch_names(self) -> tuple[str, ...]:
        """Return the names that have addresses, in their order, for the gateway of a fork.

        A fork knows the addresses of the first names, about 64 KiB of them; it may still look up
        the others. Empty if the gateway has ended or is silent.
        """
        if not self._has_started():
            return self._settings.names
        self._names = ()
        await self._request(control.NAMES)
        return self._names

    def _has_started(self) -> bool:
        """Return True after the gateway's first message, which it sends before it reads a frame."""
        if not self._ready.done() and self._channel.fileno() >= 0:
            self._on_readable()  # the message may be there, and the loop has not seen it yet
        return self._ready.done()

    async def _request(self, verb: str) -> None:
        """Send a request and wait for its answer, or for the end of the gateway."""
        async with self._request_lock:  # an answer does not name its request
            if self._channel.fileno() >= 0:
                self._answer = asyncio.get_running_loop().create_future()
                try:
                    self._channel.send(control.encode(verb))
                    self._due_answers += 1
                except BlockingIOError:  # it has not read earlier requests
                    return
                except OSError:
                    # It has ended, and the loop has not seen that yet: a last report may be there.
                    while self._channel.fileno() >= 0:
                        self._on_readable()
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._answer, REPORT_SECONDS)

    async def read_exit_report(self) -> str:
        """Return the text that the process wrote to stderr before its end; empty while it runs."""
        return await self._process.read_stderr()

    def _on_readable(self) -> None:
        """Handle a message of the gateway, or its end."""
        try:
            message = self._channel.recv(control.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        verb, texts = control.decode(message)
        if verb == control.PUBLISHED and not self._ready.done():
            self._ready.set_result(texts.get("ports", ""))
        elif verb == control.FAILED and not self._ready.done():
            self._ready.set_exception(build_error(texts))
            self._ready.exception()  # nobody may wait for it any more
        elif verb == control.ENDED:
            self.report = _parse_report(texts)
            self._close_channel()
        elif verb in (control.REPORT, control.NAMES) and self._due_answers:
            self._due_answers -= 1
            if verb == control.REPORT:
                self.report = _parse_report(texts)
            else:
                self._names = tuple(filter(str.isascii, texts.get("names", "").split()))
            self._set_answer()
        else:
            # The end, or a message that nobody asked for. A guest that has taken the process over
            # could send these without end, to keep this loop busy.
            self.has_failed = True
            self._close_channel()

    def _close_channel(self) -> None:
        """Close the control channel; a gateway that still runs ends then."""
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
        if not self._ready.done():
            self._ready.set_exception(EOFError())
            self._ready.exception()
        self._set_answer()

    def _set_answer(self) -> None:
        if not self._answer.done():
            self._answer.set_result(None)

    async def close(self) -> NetworkUse:
        """End the process, leave nothing of it, and return the last report. May be called again."""
        report = await self.fetch_report()
        self._close_channel()
        await self._process.kill()
        if self._is_bound:
            for published in self._settings.publish:
                if published.path:
                    with suppress(OSError):
                        Path(published.path).unlink()
        return report

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await run_shielded(self.close())


def _set_port(published: PublishedPort, port: int) -> PublishedPort:
    return replace(published, port=port)


def _parse_report(texts: dict[str, str]) -> NetworkUse:
    """Return the report of a message, which may have any content."""
    denied = []
    for line in texts.get("denied", "").split("\n")[:MAX_DENIED]:
        words = line.split(" ")
        if len(words) == 4:
            port, count = map(_parse_number, words[:2])
            name, reason = (to_plain_line(word)[:_MAX_WORD] for word in words[2:])
            denied.append(DeniedDestination(name, port, count, reason.replace("_", " ")))
    names = ("connections", "to_guest", "from_guest", "denials")
    connections, to_guest, from_guest, denials = (
        _parse_number(texts.get(name, "")) for name in names
    )
    return NetworkUse(connections, to_guest, from_guest, denials, tuple(denied))


def _parse_number(text: str) -> int:
    """Return a number of at most 18 digits; 0 for another text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else 0
