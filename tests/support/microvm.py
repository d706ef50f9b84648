"""Booted machine for tests: synchronous, for many jobs in turn."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from slipway._model.options import Options, check_source
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._run.launcher import ColdLauncher
from slipway._run.results import build_output_files, build_phase_results
from slipway._snapshots.create import capture_snapshot
from slipway._util.errors import UnknownOutcome
from slipway_initramfs.store.image_store import ImageStore
from slipway_protocol.messages import Phase, Stream
from support.listening import run_with
from support.programs import Outcome, Runner, load, patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway.machine.model import Template
    from slipway_initramfs.languages.language import Language

_T = TypeVar("_T")


class MicrovmJob:
    """Running job: output so far, and stdin."""

    def __init__(self, vm: Microvm, *, read_stdout: bool) -> None:
        self._vm = vm
        self._read_stdout = asyncio.Event()
        if read_stdout:
            self._read_stdout.set()
        self._stdin: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._captured: dict[tuple[Phase, Stream], bytearray] = {}
        self._changed = threading.Condition()
        self._outcome: asyncio.Task[Outcome]

    def output(self, stream: str = "stdout") -> bytes:
        """Return the output of ``stream`` so far."""
        return bytes(self._captured.get((Phase.RUN, Stream[stream.upper()]), b""))

    def until(self, text: bytes, stream: str = "stdout") -> None:
        """Wait until the program has written ``text``; an earlier end is a failure."""
        with self._changed:
            self._changed.wait_for(lambda: text in self.output(stream) or self._outcome.done())
        assert text in self.output(stream), f"no {text!r} came: {self.outcome()}"

    def read_stdout(self) -> None:
        """Begin to read stdout, where that was not done from the start."""
        self._vm.call_soon(self._read_stdout.set)

    def write(self, data: bytes) -> None:
        """More for the program's stdin."""
        self._vm.call_soon(self._stdin.put_nowait, data)

    def end_input(self) -> None:
        """End of file on the program's stdin."""
        self._vm.call_soon(self._stdin.put_nowait, None)

    def cancel(self) -> None:
        """Have the agent end the job."""
        self._vm.cancel_job()

    def outcome(self) -> Outcome:
        """Wait for the end.

        Raises:
            UnknownOutcome: the machine was lost.
        """

        async def wait_outcome() -> Outcome:
            return await self._outcome

        return self._vm.call(wait_outcome())

    async def begin(self, guest: Guest, source: bytes, options: Options) -> None:
        """Start the job on the machine's loop."""
        self._outcome = asyncio.create_task(self._run(guest, source, options))

    async def _run(self, guest: Guest, source: bytes, options: Options) -> Outcome:
        try:
            job = JobRequest(self._vm.language, source, options, self._input())
            report = await run_with(guest, job, self._sink)
        except UnknownOutcome:
            await self._vm.lose()
            raise
        finally:
            asyncio.current_task().add_done_callback(self._notify)  # type: ignore[union-attr]
        captured = {
            (phase.name.lower(), stream.name.lower()): bytes(data)
            for (phase, stream), data in self._captured.items()
        }
        results = {
            phase: result.with_output(phase.name.lower(), captured)
            for phase, result in build_phase_results(report).items()
        }
        files = {file.path: file for file in build_output_files(report, options.outputs)}
        return Outcome(results.get(Phase.BUILD), results.get(Phase.RUN), files)

    async def _sink(self, phase: Phase, stream: Stream, data: bytes) -> None:
        if stream is Stream.STDOUT:
            await self._read_stdout.wait()
        with self._changed:
            self._captured.setdefault((phase, stream), bytearray()).extend(data)
            self._changed.notify_all()

    async def _input(self) -> AsyncIterator[bytes]:
        while (data := await self._stdin.get()) is not None:
            yield data

    def _notify(self, _task: asyncio.Task[Outcome]) -> None:
        with self._changed:
            self._changed.notify_all()


class Microvm(Runner):
    """Guest of ``language`` on ``machine``, with an event loop in a separate thread.

    ``options`` are fields of :class:`slipway.Options` that hold for the machine (memory, cpus).
    """

    def __init__(self, language: str, machine: str = "qemu", **options: Any) -> None:
        super().__init__()
        self.language: Language = find_language(language)
        self._options = Options(machine=machine, **options)
        self.has_slow_port = self._options.port == "serial"
        self._guest: Guest | None = None
        self._loop = asyncio.new_event_loop()
        # A machine dies with the thread that started it: this one stays until the end.
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"microvm-{language}")
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the guest can take a job."""
        return self._guest is not None

    @property
    def guest(self) -> Guest:
        """The guest, a new object after each boot."""
        assert self._guest is not None, "the machine is not booted"
        return self._guest

    def boot(self, progress: Callable[[str], None] = print) -> None:
        """Boot, and wait for the agent; an image that is missing is made first."""
        assets = find_assets(self.language, self._options, ImageStore(), progress)
        try:
            self.call(self._boot(assets))
        except BaseException:
            self.halt()
            raise

    def begin(
        self,
        source: str | bytes | Path,
        *arguments: str,
        read_stdout: bool = True,
        **options: Any,
    ) -> MicrovmJob:
        """Start a program; see :meth:`Runner.begin`.

        Stdout is read at once, or else after :meth:`MicrovmJob.read_stdout`.
        """
        text, beside = load(source)
        checked = Options(**patient(arguments, beside, options))
        check_source(text)
        checked.check(self.language.source)
        job = MicrovmJob(self, read_stdout=read_stdout)
        self.call(job.begin(self.guest, text, checked))
        return job

    def halt(self) -> None:
        """End the guest; :meth:`boot` makes another."""
        self.call(self.lose())

    def fresh(self, progress: Callable[[str], None]) -> None:
        """Boot a guest unless a usable guest runs."""
        if not self.alive:
            self.boot(progress)

    def close(self) -> None:
        """End the guest and the thread."""
        self.halt()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(
        self,
        source: str | bytes | Path,
        arguments: tuple[str, ...],
        stdin: bytes,
        options: dict[str, Any],
    ) -> Outcome:
        job = self.begin(source, *arguments, **options)
        if stdin:
            job.write(stdin)
        job.end_input()
        return job.outcome()

    async def lose(self) -> None:
        """End the guest, which broke the rules."""
        if self._guest is not None:
            guest, self._guest = self._guest, None
            await guest.stop()

    def cancel_job(self) -> None:
        """Ask the agent to end the job that runs."""
        self.call(self.guest.cancel())

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run ``work`` on the machine's loop and return the result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def call_soon(self, function: Any, *arguments: Any) -> None:
        """Call ``function`` on the machine's loop."""
        self._loop.call_soon_threadsafe(function, *arguments)

    async def _boot(self, assets: Assets) -> None:
        self.language = assets.language
        self._guest = await ColdLauncher(ImageStore()).launch(assets, self._options)


class CloneVm(Microvm):
    """The same with a new clone for each program, as in a pool.

    The template belongs to this object and is not kept in the store.
    """

    _template: Template | None = None

    def fresh(self, progress: Callable[[str], None]) -> None:
        """End the last clone, and make another."""
        self.halt()
        self.boot(progress)

    def close(self) -> None:
        """End all."""
        if self._template is not None:
            self.call(self._template.close())
        super().close()

    async def _boot(self, assets: Assets) -> None:
        self.language = assets.language
        if self._template is None:
            store = ImageStore()
            snapshot = await capture_snapshot(assets, self._options, store, lambda line: None)
            self._template = await assets.hypervisor.open_template(snapshot)
        self._guest = Guest(await self._template.clone())
        await self._guest.adopt_clone()
        await self._guest.prestart(assets.language)
