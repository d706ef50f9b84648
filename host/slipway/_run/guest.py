"""Guest: a machine with a ready agent, which takes one job after the other."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from slipway._model.network import Network
from slipway._model.options import Options
from slipway._run.agent_connection import AgentConnection
from slipway._run.deadline_pause import DeadlinePause
from slipway._run.job_message import Surroundings, build_job_message
from slipway._run.job_request import JobRequest
from slipway._run.output_sink import OutputTail
from slipway._run.port_choice import wait_for_port
from slipway._run.start_info import StartInfo
from slipway._run.start_machine import start_machine
from slipway._sources import keep_names
from slipway._util.errors import HostError, ImageError, NoAnswer, UnknownOutcome
from slipway._util.text import to_plain_line
from slipway._util.threads import call_shielded, run_shielded
from slipway._util.units import MIB
from slipway.machine.model import PortKind
from slipway_protocol import messages as m

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import Any

    from slipway._model.input_file import InputFile
    from slipway._run.assets import Assets
    from slipway._run.guest_network import GuestNetwork
    from slipway._run.job_report import JobReport
    from slipway._run.output_sink import JobObserver, OutputSink
    from slipway.machine.model import Machine
    from slipway_initramfs.languages.language import Language

# A loaded host that emulates a guest in software needs most of this; an idle one a few seconds.
BOOT_SECONDS = 180.0
# A clone's agent answers within a second on a loaded host. One that takes longer hangs.
RESTORE_SECONDS = 60.0
# The agent ends a phase that reached its limit. If the agent hangs, the host ends the machine after
# this time.
GRACE_SECONDS = 20.0
# Lower bounds on the speed of files into a guest, in bytes a second. A loaded host that emulates is
# ten times as fast.
TRANSFER_RATE = MIB
SERIAL_RATE = 2048
# Sources up to this size are parsed in the event loop, which takes milliseconds.
MAX_READ_AT_ONCE = 64 * 1024
# Bytes of a failed sample's output that are shown.
SHOWN_OUTPUT = 2000


class Guest:
    """A machine, the connection to its agent, and the agent's report when it was ready.

    As a context manager it stops the machine at the end.
    """

    def __init__(
        self,
        machine: Machine,
        start_info: StartInfo | None = None,
        network: GuestNetwork | None = None,
    ) -> None:
        """Take over ``machine`` and its ``network``."""
        self.machine = machine
        self.network = network
        if network is not None:
            network.release_machine_end()
        self.start_info = start_info or StartInfo()
        # When the machine's process existed: the end of all preparation, by the monotonic clock.
        self.began = time.monotonic()
        self.ready: m.Ready | None = None
        # True while the guest can take a job: none is under way, and none was left unfinished.
        self.idle = True
        # True if the sample has run in this machine's process, or in that which it was forked from.
        self.is_rehearsed = False
        self.boot_seconds = 0.0
        self.agent_seconds = 0.0
        self.ready_seconds = 0.0
        self.restore_seconds = 0.0
        # Made at its first use: an agent whose port is TCP has no stream before its gateway.
        self._agent: AgentConnection | None = None
        # Memory for jobs by the agent's first report. Later reports differ a little, and the
        # command of a prestarted program has to be that of its job.
        self._memory = 0
        # Names of files that the session's runs have brought; see keep_names.
        self._names: frozenset[str] = frozenset()
        # Terminal size that came while a job was being prepared.
        self._size: m.Tty | None = None

    @classmethod
    async def start(cls, assets: Assets, options: Options) -> Self:
        """Start a machine; :meth:`wait_ready` waits for its agent.

        Raises:
            HostError: this host cannot run the machine.
        """
        return cls(await start_machine(assets, options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await run_shielded(self.stop())

    async def start_gateway(self, network: Network) -> None:
        """Start the gateway of a guest whose machine has a network.

        Raises:
            InputError: a port cannot be published.
            HostError: the gateway did not start.
        """
        assert self.network is not None
        began = time.monotonic()
        checksums = not self.machine.hypervisor.declares_checksums
        await self.network.start_gateway(network, checksums=checksums)
        await self._adopt_gateway()
        await self._use_stream()
        if self.restore_seconds:  # a machine that boots does so meanwhile
            self.restore_seconds += time.monotonic() - began

    async def _adopt_gateway(self) -> None:
        """Let the gateway's process be one of the machine's."""
        assert self.network is not None
        if (process := self.network.gateway_pid) is not None:
            await self.machine.adopt_gateway(process)

    async def start_closed_gateway(self) -> None:
        """Start a gateway that lets nothing out, for an agent whose port is TCP.

        Raises:
            HostError: the gateway did not start.
        """
        await self.start_gateway(Network())

    async def _use_stream(self) -> None:
        """Talk to the agent by the stream of a new gateway, if it has one."""
        assert self.network is not None
        stream = self.network.take_stream()
        if stream is None:
            return
        await self.machine.use_stream(stream)
        self._agent = None
        if self.ready is not None:
            await self.resync()

    @property
    def _connection(self) -> AgentConnection:
        if self._agent is None:
            self._agent = AgentConnection(self.machine)
        return self._agent

    # --- Greetings --------------------------------------------------------------------------

    async def wait_ready(self) -> m.Ready:
        """Wait until the agent of a machine that boots is ready, and its network, if any, is up.

        Raises:
            HostError: the agent is not ready in time, or the machine ended.
        """
        try:
            async with asyncio.timeout(BOOT_SECONDS):
                if self.machine.port is PortKind.AUTO:
                    channel = await wait_for_port(self.machine)
                    self._agent = AgentConnection(self.machine, channel)
                self.ready = await self._connection.handshake()
                if self.machine.has_network:
                    await self._connection.connect_network(self.ready)
        except TimeoutError:
            lines = "\n  ".join(self.machine.console.get_last_lines(6))
            raise HostError(
                f"the agent was not ready after {BOOT_SECONDS:g} s"
                + await self._read_exit_report()
                + (f"; its console said:\n  {lines}" if lines else "; its console is empty"),
                "See how far the guest boots: slipway run --boot-log",
            ) from None
        self._memory = self._memory or self.ready.memory_bytes
        assert self._connection.awake_at is not None
        awake = self._connection.awake_at - self.began
        # A guest may report any time.
        self.agent_seconds = min(self.ready.start_us / 1e6, awake)
        self.boot_seconds = awake - self.agent_seconds
        self.ready_seconds = time.monotonic() - self._connection.awake_at
        return self.ready

    async def adopt_clone(self) -> m.Ready:
        """Greet the agent of a new clone; see :meth:`AgentConnection.adopt_clone`.

        Raises:
            HostError: the agent does not answer in time, or the machine ended.
        """
        return await self._await_greeting(self._connection.adopt_clone())

    async def resync(self) -> m.Ready:
        """Set the clock of a guest that stood still or waited, and stir its random state.

        Raises:
            HostError: the agent does not answer in time, or the machine ended.
        """
        return await self._await_greeting(self._connection.resync())

    async def _await_greeting(self, greeting: Coroutine[Any, Any, m.Ready]) -> m.Ready:
        try:
            async with asyncio.timeout(RESTORE_SECONDS):
                self.ready = await greeting
        except TimeoutError:
            raise NoAnswer(
                f"the agent did not continue within {RESTORE_SECONDS:g} s after it was cloned"
                + await self._read_exit_report()
            ) from None
        except UnknownOutcome as error:  # after earlier jobs; none is under way
            raise HostError(error.message, error.hint) from None
        self._memory = self._memory or self.ready.memory_bytes
        self.restore_seconds = time.monotonic() - self.began
        return self.ready

    async def _read_exit_report(self) -> str:
        report = await self.machine.read_exit_report()
        return f" ({report})" if report else ""

    # --- Preparation ------------------------------------------------------------------------

    async def run_sample(self, language: Language) -> None:
        """Run the sample of ``language``, if it has one: a second run of the same code is faster.

        Raises:
            HostError: the guest ended.
            ImageError: the sample failed.
        """
        if not language.sample:
            return
        tail = OutputTail(SHOWN_OUTPUT)
        try:
            report = await self.run(JobRequest(language, language.sample.encode(), Options()), tail)
        except UnknownOutcome as error:
            raise HostError(f"the sample program of {language.name}: {error.message}") from None
        if not report.succeeded:
            words = " ".join(to_plain_line(tail.data.decode("utf-8", "replace")).split())
            raise ImageError(
                f"the sample program of {language.name} fails: {words or 'no output'}",
                "See its output: slipway run; it is 'sample' of the language file.",
            )

    async def prestart(self, language: Language) -> None:
        """Start the interpreter of ``language`` for the next job, if it can wait for its script.

        Raises:
            HostError: the guest ended.
            ImageError: the sample failed.
        """
        # Emulation translates code when it runs first.
        if self.machine.hypervisor.is_emulated and not self.is_rehearsed:
            await self.rehearse(language)
        await self._send_prestart(language)

    async def rehearse(self, language: Language) -> None:
        """Run the sample as a prestarted job: all code of such a job has run once then.

        Raises:
            HostError: the guest ended.
            ImageError: the sample failed.
        """
        await self._send_prestart(language)
        await self.run_sample(language)
        await self.resync()
        self.is_rehearsed = True

    async def _send_prestart(self, language: Language) -> None:
        if not language.run.prestart:
            return
        job, _ = build_job_message(
            JobRequest(language, b"", Options()), Surroundings(memory=self._memory)
        )
        program = m.Prestart(job.run, language.source, language.run.prestart_unless)
        try:
            await self._connection.prestart(program)
        except UnknownOutcome as error:
            raise HostError(error.message, error.hint) from None

    def mark_taken(self, start_info: StartInfo) -> None:
        """Begin the time of a run that takes an idle guest."""
        self.began = time.monotonic()
        self.start_info = start_info
        self.boot_seconds = self.agent_seconds = self.ready_seconds = 0.0
        self.restore_seconds = 0.0

    async def fork(self) -> Guest:
        """Return a clone that continues from the state between two jobs.

        Raises:
            HostError: the guest cannot be cloned; the guest may have ended as well.
        """
        with ExitStack() as undo:
            snapshot = await self.machine.snapshot()
            undo.callback(snapshot.close)
            await self.machine.resume()
            undo.pop_all()  # the template takes the snapshot over
        async with AsyncExitStack() as undo_clone:
            template = await self.machine.hypervisor.open_template(snapshot)
            async with AsyncExitStack() as after_cloning:
                after_cloning.push_async_callback(call_shielded, template.close)
                network = link = None
                if self.network is not None:
                    from slipway._run.guest_network import open_network

                    network = open_network(undo_clone, self.machine.port)
                    link = network.machine_end
                start_info = replace(self.start_info, start="session")
                clone = Guest(await template.clone(network=link), start_info, network)
                await undo_clone.enter_async_context(clone)
            clone._names = self._names
            if self.network is not None and clone.network is not None:
                await clone.network.start_fork(self.network)
                await clone._adopt_gateway()
                await clone._use_stream()
            await clone.adopt_clone()
            undo_clone.pop_all()
        return clone

    # --- Jobs -------------------------------------------------------------------------------

    async def run(
        self, job: JobRequest, sink: OutputSink, observer: JobObserver | None = None
    ) -> JobReport:
        """Run ``job``, and return the agent's report at its end.

        Raises:
            InputError: reading stdin failed, and the program was ended.
            UnknownOutcome: the guest ended, or misbehaved.
        """
        self._size = None
        message, files = await self._build_message(job)
        if self._size is not None:  # another size came meanwhile
            message = replace(message, run=replace(message.run, tty=self._size))
        if job.keep_files:
            self._names = keep_names(self._names, job.language, job.options.files)
        commands = (message.build, message.run)
        walls = [command.limits.wall_ms / 1000 for command in commands if command is not None]
        is_serial = self.machine.port is PortKind.SERIAL
        rate = SERIAL_RATE if is_serial else TRANSFER_RATE
        transfer = sum(len(file.data) for file in files) / rate
        self.idle = False
        try:
            async with asyncio.timeout(sum(walls) + transfer + GRACE_SECONDS) as deadline:
                with DeadlinePause(sink, deadline) as paused:
                    report = await self._connection.run(message, files, paused, job.stdin, observer)
        except TimeoutError:
            raise UnknownOutcome(
                f"the job did not end within its time limits and {GRACE_SECONDS:g} s more",
                "The output until then has been passed on. Allow more time, or more memory.",
            ) from None
        self.idle = True
        if report.failure is not None:
            raise report.failure
        return report

    async def _build_message(self, job: JobRequest) -> tuple[m.Job, tuple[InputFile, ...]]:
        """Build the message of the job and its files; large sources are parsed in a thread."""
        options = job.options
        cpus = self.ready.cpus if self.ready is not None else options.cpus
        architecture = self.machine.hypervisor.architecture
        surroundings = Surroundings(cpus, self._memory, self._names, architecture)
        size = len(job.source) + sum(len(file.data) for file in options.files)
        if job.language.rules and size > MAX_READ_AT_ONCE:
            return await asyncio.to_thread(build_job_message, job, surroundings)
        return build_job_message(job, surroundings)

    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program that runs.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        await self._connection.signal(number)

    async def resize(self, size: m.Tty) -> None:
        """Resize the program's terminal.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        self._size = size
        await self._connection.resize(size)

    async def cancel(self) -> None:
        """Have the agent end the job.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        await self._connection.cancel()

    async def stop(self) -> None:
        """Stop the machine at once, and leave nothing of it."""
        try:
            await self.machine.stop()
            if self._agent is not None:
                await self._agent.close()
        finally:
            if self.network is not None:
                await self.network.close()
