"""Machine of the hypervisor ``kvm``: a process of Slipway's own VMM."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._util.errors import HostError, NoAnswer, SlipwayError
from slipway._util.text import to_plain_line
from slipway.machine import kvm_snapshot
from slipway.machine.child import ANSWER_SECONDS, START_SECONDS, ChildMachine, build_error
from slipway.machine.console import Console
from slipway.machine.kvm_parts import parse_seconds
from slipway.machine.model import PortKind, Snapshot
from slipway.vmm.process import control

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from slipway.machine.host_limits import HostLimits
    from slipway.machine.kvm_parts import VmmSockets
    from slipway.machine.model import Hypervisor
    from slipway.machine.process import ChildProcess
    from slipway.vmm.spec import VmConfig


# Messages for which nobody waits. A VMM sends one or two at its end.
MAX_UNASKED = 16


class KvmMachine(ChildMachine):
    """Process of a VMM, and the channel that controls it."""

    def __init__(
        self,
        process: ChildProcess,
        channel: socket.socket,
        config: VmConfig,
        hypervisor: Hypervisor,
        *,
        boot_log: bool,
        limits: HostLimits | None = None,
    ) -> None:
        """Take over all but the hypervisor."""
        port = PortKind(config.port)
        super().__init__(process, Console(echo=boot_log), hypervisor, port, limits)
        self._channel = channel
        self._config = config
        self._answers: dict[str, asyncio.Future[dict[str, str]]] = {}
        self._asking = asyncio.Lock()
        self._ending = ""
        self._unasked = 0
        self._killing: asyncio.Task[None] | None = None
        # Until the first KVM_RUN, in seconds: CPU time of the VMM's process, and for a clone the
        # time since its fork.
        self.start_cpu_seconds = 0.0
        self.start_seconds = 0.0

    @property
    def has_network(self) -> bool:
        """True if the machine has a network interface."""
        return self._config.network

    async def start_vm(self, sockets: VmmSockets, start: bytes = b"") -> None:
        """Wait until the VM runs; a VMM that is not a clone is sent the message ``start`` first.

        Raises:
            HostError: the VM did not start. Its process has ended then.
            InputError: the kernel is invalid, or does not fit into the memory.
        """
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            if self.limits is not None:
                self.limits.watch(self._process.pid)
            await self.connect(sockets.agents, sockets.console)
            await self._wait_running(start)
            undo.pop_all()

    async def _wait_running(self, start: bytes) -> None:
        """Send ``start``, if given, and wait until the VMM reports that its VM runs."""
        started = self._expect_answer(control.RUNNING)
        asyncio.get_running_loop().add_reader(self._channel, self._on_readable)
        if start:
            with suppress(OSError):  # the end of the VMM is noticed by the channel
                self._channel.send(start)
        texts = await self._wait_for_answer(started, START_SECONDS)
        self.start_cpu_seconds = parse_seconds(texts.get("cpu_us", ""))
        self.start_seconds = parse_seconds(texts.get("start_us", ""))

    def _expect_answer(self, verb: str) -> asyncio.Future[dict[str, str]]:
        future: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._answers[verb] = future
        return future

    async def _wait_for_answer(
        self, future: asyncio.Future[dict[str, str]], seconds: float
    ) -> dict[str, str]:
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise NoAnswer(f"the VMM did not answer within {seconds:g} s") from None
        except EOFError:
            words = await self._process.read_stderr() or "no message"
            raise HostError(f"the VMM ended before it answered: {words}") from None

    def _on_readable(self) -> None:
        """Handle a message of the VMM, or its end."""
        try:
            message = self._channel.recv(control.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        self._handle_message(message)

    def _handle_message(self, message: bytes) -> None:
        verb, texts = control.decode(message)
        if verb in self._answers:
            future = self._answers.pop(verb)
            if not future.done():
                future.set_result(texts)
            return
        if not message:
            self._close_channel()
            return
        self._unasked += 1
        if self._unasked > MAX_UNASKED:
            self._end_flood()
        elif verb == control.FAILED:
            self._fail_answers(build_error(texts))
        elif verb == control.ENDED and texts.get("wanted") != "1":
            lines = texts.get("text", "").split("\n")
            self._ending = "\n  ".join(to_plain_line(line) for line in lines)

    def _end_flood(self) -> None:
        """End a VMM that sends more than any does: its guest may have taken it over."""
        self._ending = f"its VMM sent more than {MAX_UNASKED} messages that nobody asked for"
        self._close_channel()
        self._killing = asyncio.ensure_future(self._process.kill())

    def _close_channel(self) -> None:
        """Close the control channel; a VMM that still runs ends then."""
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
        self._fail_answers(EOFError())

    def _fail_answers(self, error: SlipwayError | EOFError) -> None:
        for future in self._answers.values():
            if not future.done():
                future.set_exception(error)
        self._answers.clear()

    async def _request(self, verb: str, answer: str) -> dict[str, str]:
        async with self._asking:  # an answer does not name its request
            try:
                self._channel.send(control.encode(verb))
            except OSError:
                raise HostError("the VMM has ended") from None
            return await self._wait_for_answer(self._expect_answer(answer), ANSWER_SECONDS)

    async def snapshot(self) -> Snapshot:
        """Stop the vCPUs and return a snapshot; see :meth:`Machine.snapshot`."""
        config = self._config
        async with self._asking:
            loop = asyncio.get_running_loop()
            if self._channel.fileno() < 0:
                raise HostError("the VMM has ended")
            loop.remove_reader(self._channel)
            try:
                self._channel.send(control.encode(control.SNAPSHOT))
                memory, state = await kvm_snapshot.receive_snapshot(
                    self._channel, config, self._handle_message
                )
            except OSError:
                raise HostError("the VMM has ended") from None
            finally:
                if self._channel.fileno() >= 0:  # else it was stopped meanwhile
                    loop.add_reader(self._channel, self._on_readable)
        port = PortKind(config.port)
        return Snapshot(
            self.hypervisor.name,
            self.hypervisor.architecture,
            config.memory_bytes,
            config.cpus,
            port,
            memory,
            state,
            config.network,
            self.port if port is PortKind.AUTO else None,
        )

    async def read_working_set(self) -> list[tuple[int, int]]:
        """Return the parts of the RAM that this clone has written to: start and end, in bytes.

        Call it once, after the clone's first answer; for :meth:`add_working_set`.
        """
        text = (await self._request(control.TOUCHED, control.TOUCHED)).get("ranges", "")
        return kvm_snapshot.parse_ranges(text, self._config.memory_bytes)

    async def record_working_set(self, snapshot: Snapshot) -> Snapshot:
        """Add this clone's working set; see :meth:`Machine.record_working_set`."""
        return self.add_working_set(snapshot, await self.read_working_set())

    @staticmethod
    def add_working_set(snapshot: Snapshot, ranges: Sequence[tuple[int, int]]) -> Snapshot:
        """Return ``snapshot``, taken over, whose clones get the pages of ``ranges`` at their start.

        Raises:
            HostError: the snapshot or the ranges are invalid; then the snapshot is still open.
        """
        state = kvm_snapshot.add_working_set(snapshot.state, ranges)
        os.close(snapshot.state)
        return replace(snapshot, state=state)

    async def pause(self) -> None:
        """Stop the vCPUs between two instructions."""
        await self._request(control.PAUSE, control.PAUSED)

    async def resume(self) -> None:
        """Let the vCPUs continue."""
        await self._request(control.RESUME, control.RESUMED)

    async def count_exits(self) -> list[str]:
        """Return counts of exits and their causes, one a line, the most frequent first."""
        text = (await self._request(control.REPORT, control.REPORT)).get("exits", "")
        return [to_plain_line(line) for line in text.split("\n")]

    async def read_exit_report(self) -> str:
        """Return the reason of an end that the guest did not request; see :class:`Machine`."""
        complaint = await super().read_exit_report()
        if self._ending or complaint:
            return self._ending or complaint
        try:
            total, *places = await self.count_exits()
        except HostError:
            return ""
        return f"it goes on: {total}; most often {', '.join(places[:3])}"

    async def stop(self) -> None:
        """Kill the VMM and close its sockets."""
        await self._process.kill()
        self._close_channel()
        await super().stop()
