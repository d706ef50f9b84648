"""A session with an agent: one hello, then jobs, one after the other."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._model.errors import HostError, UnknownOutcome
from slipway._run.job_exchange import Conversation
from slipway._util.text import to_plain_line
from slipway_protocol import messages as m
from slipway_protocol.channel import Channel
from slipway_protocol.connection import Violation
from slipway_protocol.framing import BadFrame
from slipway_protocol.schema import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.input_file import InputFile
    from slipway._run.job_report import JobReport
    from slipway._run.output_sink import JobObserver, OutputSink
    from slipway.machine.model import Machine
    from slipway_protocol.messages import HostMessage, Message

log = logging.getLogger("slipway.agent")
# Whoever wants the agent's log asks for it: by default nothing of a guest's reaches a terminal.
log.addHandler(logging.NullHandler())


class Session:
    """Talks to the agent in ``machine``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        transport = machine.transport
        self._channel = Channel(transport.reader, transport.writer)
        self._jobs = 0
        self._conversation: Conversation | None = None
        self.awake_at: float | None = None

    async def hello(self, *, clone: bool = False) -> m.Ready:
        """Open the conversation; waits until the guest has booted.

        ``clone``: the machine has been cloned, and this is the first that it hears. Without it, to
        a guest that is ready already, it only sets the clock and stirs the random state.

        Raises:
            HostError: the guest ended, or the agent in it refuses.
        """
        await self.send(self._greeting(clone))
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
                    # A serial port forgets what came before it was opened.
                    await self.send(self._greeting(clone))
                case m.Ready():
                    self.awake_at = self.awake_at or time.monotonic()
                    return replace(
                        message,
                        agent_version=to_plain_line(message.agent_version),
                        kernel=to_plain_line(message.kernel),
                    )
                case m.Log():
                    self.log(message)
                case m.Fault(text=text):
                    raise HostError(f"the agent cannot start: {to_plain_line(text)}")
                case _:
                    raise HostError(f"{type(message).__name__} came before the agent was ready")

    def _greeting(self, clone: bool) -> m.Hello:
        return m.Hello(VERSION, (), time.time_ns(), os.urandom(32), clone)

    async def prepare(self, prestart: m.Prestart) -> None:
        """Have a program started ahead of its job, up to where it reads its script.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        await self.send(prestart)

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
        self._conversation = Conversation(self, self._jobs, job, sink, observer)
        return await self._conversation.run(files, stdin)

    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program of the phase that runs.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        await self.send(m.Signal(self._jobs, number))

    async def resize(self, size: m.Tty) -> None:
        """Give the terminal of the job's program another size.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._conversation is not None:
            await self._conversation.resize(size)

    async def cancel(self) -> None:
        """Have the agent end the job.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._conversation is not None:
            await self._conversation.cancel()

    async def close(self) -> None:
        """Close our end."""
        await self._channel.close()

    async def send(self, message: HostMessage) -> None:
        """Send ``message``; waits while the guest does not read.

        Raises:
            HostError: the machine has ended before it had a job.
            UnknownOutcome: it has ended.
        """
        try:
            await self._channel.send(message)
        except OSError:
            raise await self._lost() from None

    def post(self, message: HostMessage) -> None:
        """Send a small ``message`` without waiting; a machine that has ended gets none."""
        self._channel.post(message)

    async def receive(self) -> Message:
        """The next message; noise and violations are dealt with here."""
        while True:
            event = await self._channel.receive()
            if event is None:
                raise await self._lost()
            if isinstance(event, Violation):
                raise UnknownOutcome(f"the guest broke the protocol: {event.reason}")
            if isinstance(event, BadFrame):
                log.info("dropped %d bytes from the guest: %s", event.size, event.reason)
                continue
            return event

    async def _lost(self) -> UnknownOutcome | HostError:
        """The machine went away; say so with what it and its console showed last."""
        await self._machine.console.wait_drained()
        lines = self._machine.console.last_lines(6)
        said = (
            "its console said last:\n  " + "\n  ".join(lines) if lines else "its console is empty"
        )
        if words := await self._machine.read_exit_report():
            said = f"it complained: {words}; {said}"
        message = "the machine ended by itself"
        if not self._jobs:
            return HostError(f"{message} before the agent was ready; {said}")
        return UnknownOutcome(f"{message} while it had a job; {said}")

    @staticmethod
    def log(message: m.Log) -> None:
        """Pass a line of the agent's on to our log, as one line."""
        log.log(int(message.level), "%s", message.text.encode("unicode_escape").decode("ascii"))
