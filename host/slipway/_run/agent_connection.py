"""Connection to the agent of one machine: a handshake, then one job after the other."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._run.guest_log import GuestLog
from slipway._run.job_exchange import JobExchange
from slipway._run.message_counts import MessageCounts
from slipway._util.errors import HostError, UnknownOutcome
from slipway._util.text import to_plain_line
from slipway.machine.gateway import addresses
from slipway.machine.model import PortKind
from slipway_protocol import messages as m
from slipway_protocol.channel import Channel
from slipway_protocol.connection import Violation
from slipway_protocol.framing import BadFrame
from slipway_protocol.joining import JOINED_FILES
from slipway_protocol.packing import PACKED
from slipway_protocol.schema import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.input_file import InputFile
    from slipway._run.job_report import JobReport
    from slipway._run.output_sink import JobObserver, OutputSink
    from slipway.machine.model import Machine
    from slipway_protocol.messages import HostMessage, Message

# Upper bound on the error of a clone's clock, in seconds. On a busy host a greeting may take
# longer, and the next ones as well.
CLOCK_SECONDS = 0.010
MAX_GREETINGS = 3
# Capabilities of this host.
CAPABILITIES = (JOINED_FILES,)
# Capability in Ready of an agent that understands Connect.
NETWORK = "network"


class AgentConnection:
    """Messages to and from the agent in ``machine``."""

    def __init__(self, machine: Machine, channel: Channel | None = None) -> None:
        """Take ``channel``, or open one over the stream of ``machine``."""
        self._machine = machine
        transport = machine.transport
        self._channel = channel or Channel(transport.reader, transport.writer)
        self._jobs = 0
        self._is_heard = False
        self._exchange: JobExchange | None = None
        self._counts = MessageCounts()
        self._log = GuestLog()
        self.awake_at: float | None = None
        # Whether the agent understands Files, by its last Ready.
        self.joins_files = False

    async def handshake(self) -> m.Ready:
        """Greet the agent of a guest that boots, and wait until the agent is ready.

        Raises:
            HostError: the guest ended, or the agent refuses.
        """
        return await self._greet(clone=False)

    async def adopt_clone(self) -> m.Ready:
        """Greet the agent of a new clone, which gets the time and a random state of its own.

        The first greeting was sent before the clone existed, so the time in it is late. Each of the
        others makes the clock better and never worse, and more than one is rarely needed.

        Raises:
            HostError, UnknownOutcome: as :meth:`resync`.
        """
        ready = await self._greet(clone=True)
        for _ in range(MAX_GREETINGS):
            began = time.monotonic()
            ready = await self.resync()
            if time.monotonic() - began <= CLOCK_SECONDS:
                break
        return ready

    async def resync(self) -> m.Ready:
        """Greet an agent that is ready: set its clock, and stir its random state.

        Raises:
            HostError: the guest ended without a job, or the agent refuses.
            UnknownOutcome: the guest ended after a job.
        """
        return await self._greet(clone=False)

    async def _greet(self, *, clone: bool) -> m.Ready:
        self._counts.begin()
        await self._send_hello(clone)
        while True:
            message = await self.receive()
            match message:
                case m.Awake(version=version):
                    self.awake_at = time.monotonic()
                    if version != VERSION:
                        raise HostError(
                            f"the agent speaks protocol {version}, this host {VERSION}",
                            "Rebuild the agent: slipway image prune",
                        )
                    # A serial port loses bytes that come before the agent opens it.
                    await self._send_hello(clone)
                case m.Ready():
                    self.awake_at = self.awake_at or time.monotonic()
                    self.joins_files = JOINED_FILES in message.capabilities
                    if self._machine.port is PortKind.SERIAL and PACKED in message.capabilities:
                        self._channel.pack_messages()
                    return replace(
                        message,
                        agent_version=to_plain_line(message.agent_version),
                        kernel=to_plain_line(message.kernel),
                    )
                case m.Log():
                    self.log_line(message)
                case m.Fault(text=text):
                    raise HostError(f"the agent cannot start: {to_plain_line(text)}")
                case _:
                    raise HostError(f"{type(message).__name__} came before the agent was ready")

    async def _send_hello(self, clone: bool) -> None:
        await self.send(m.Hello(VERSION, CAPABILITIES, time.time_ns(), os.urandom(32), clone))

    async def connect_network(self, ready: m.Ready) -> m.Connected:
        """Have the agent bring up the network interface, before the first job.

        ``ready`` is the answer to the handshake. A clone has the interface of its template.

        Raises:
            HostError: the guest ended, or cannot bring the interface up.
        """
        if NETWORK not in ready.capabilities:
            raise HostError(
                "the agent in the guest knows no network", "Rebuild the agent: slipway image prune"
            )
        await self.send(
            m.Connect(
                addresses.GUEST,
                addresses.GATEWAY,
                addresses.PREFIX_BITS,
                addresses.MTU,
                addresses.GATEWAY_MAC,
            )
        )
        while True:
            message = await self.receive()
            match message:
                case m.Connected():
                    return message
                case m.Log():
                    self.log_line(message)
                case m.Ready():
                    pass  # the answer to the second Hello of the handshake
                case m.Fault(text=text):
                    raise HostError(
                        f"the guest has no network: {to_plain_line(text)}",
                        "A kernel of your own needs the driver virtio_net built in.",
                    )
                case _:
                    raise HostError(f"{type(message).__name__} came before the network was up")

    async def prestart(self, program: m.Prestart) -> None:
        """Start a program before its job comes, up to the point where it opens its script.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        await self.send(program)

    async def run(
        self,
        job: m.Job,
        files: tuple[InputFile, ...],
        sink: OutputSink,
        stdin: AsyncIterator[bytes] | None = None,
        observer: JobObserver | None = None,
    ) -> JobReport:
        """Run ``job``, whose number is set here, and pass its output to ``sink`` as it comes.

        Raises:
            UnknownOutcome: the machine ended, or broke the protocol.
        """
        self._jobs += 1
        self._counts.begin()
        self._exchange = JobExchange(self, self._jobs, job, sink, observer)
        try:
            return await self._exchange.run(files, stdin)
        finally:
            self._exchange = None  # it holds the files of the job, and this connection
            self._log.end_job()

    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program of the phase that runs.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        await self.send(m.Signal(self._jobs, number))

    async def resize(self, size: m.Tty) -> None:
        """Resize the terminal of the job's program.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._exchange is not None:
            await self._exchange.resize(size)

    async def cancel(self) -> None:
        """Have the agent end the job.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._exchange is not None:
            await self._exchange.cancel()

    async def close(self) -> None:
        """Close the stream to the agent."""
        self._log.end_job()
        await self._channel.close()

    async def send(self, message: HostMessage) -> None:
        """Send ``message``; wait while the guest does not read.

        Raises:
            HostError: the machine ended before its first job.
            UnknownOutcome: the machine ended after that.
        """
        try:
            await self._channel.send(message)
        except OSError:
            raise await self._build_loss_error() from None

    def post(self, *messages: HostMessage) -> None:
        """Send small ``messages`` without waiting; a machine that has ended gets none."""
        self._channel.post(*messages)

    async def receive(self) -> Message:
        """Return the next message; noise between the frames is dropped.

        Raises:
            HostError: the machine ended before its first job.
            UnknownOutcome: the machine ended after that, or broke the protocol: by a violation, or
                by too many messages of a kind.
        """
        while True:
            event = await self._channel.receive()
            if event is None:
                raise await self._build_loss_error()
            if isinstance(event, Violation):
                raise UnknownOutcome(f"the guest broke the protocol: {event.reason}")
            self._counts.count(type(event))
            if isinstance(event, BadFrame):
                # Before the agent does, the kernel may write to a serial port, or echo a Hello.
                level = logging.INFO if self._is_heard else logging.DEBUG
                self._log.write(level, f"dropped {event.size} bytes from the guest: {event.reason}")
                continue
            self._is_heard = True
            return event

    async def _build_loss_error(self) -> UnknownOutcome | HostError:
        """Build the error for a machine that ended, with the last lines of its console."""
        await self._machine.console.wait_drained()
        if loss := self._machine.describe_loss():
            return HostError(*loss) if not self._jobs else UnknownOutcome(*loss)
        lines = self._machine.console.get_last_lines(6)
        details = (
            "its console said last:\n  " + "\n  ".join(lines) if lines else "its console is empty"
        )
        if report := await self._machine.read_exit_report():
            details = f"it reported: {report}; {details}"
        ended = "the machine"
        if self._machine.port is PortKind.TCP:
            ended = "the machine, or the gateway between host and agent,"
        message = f"{ended} ended by itself"
        if not self._jobs:
            return HostError(f"{message} before the agent was ready; {details}")
        return UnknownOutcome(f"{message} while it had a job; {details}")

    def log_line(self, message: m.Log) -> None:
        """Log a line of the agent."""
        self._log.write(int(message.level), message.text)
