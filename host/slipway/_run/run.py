"""One run from request to result."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from slipway._model.arguments import call_listener
from slipway._model.errors import InputError, UnknownOutcome
from slipway._model.options import check_source
from slipway._run.launcher import DamagedImage
from slipway._run.output_queue import Watcher
from slipway._run.sizing import check_room
from slipway._sources import check_source_names
from slipway._util.threads import call_in_daemon, uninterrupted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.arguments import OnOutput
    from slipway._model.options import Options, Tty
    from slipway._model.result import Result
    from slipway._run.assets import Assets, Progress
    from slipway._run.guest import Guest
    from slipway._run.job_report import JobReport
    from slipway._run.launcher import Launcher
    from slipway_initramfs.languages.catalogue import Language
    from slipway_protocol.messages import Phase, Stream

    Capture = dict[tuple[Phase, Stream], bytearray]


class RunWatcher(Watcher, Protocol):
    """Hears of a run's steps as well; no method may wait."""

    def booted(self, machine: str) -> None:
        """The machine, ``kvm`` or ``qemu``, has booted and its agent is ready."""


class Run:
    """A checked request and the steps to its result."""

    def __init__(
        self,
        language: Language,
        source: bytes,
        options: Options,
        launcher: Launcher,
        *,
        progress: Progress | None = None,
        began: float | None = None,
        keep: bool = False,
    ) -> None:
        """``keep``: its files stay for the next run in the same guest."""
        check_source(source)
        options.check(language.source)
        check_source_names(language, options.files)
        self.language = language
        self._source = source
        self.options = options
        self._size: Tty | None = None
        self._launcher = launcher
        self._keep = keep
        self.progress: Progress = progress or (lambda line: None)
        self.assets: Assets | None = None
        self._guest: Guest | None = None
        self._seconds: dict[str, float] = {}
        self._mark = time.monotonic() if began is None else began

    async def execute(
        self,
        stdin: AsyncIterator[bytes],
        on_output: OnOutput | None,
        watcher: RunWatcher | None = None,
    ) -> Result:
        """Boot, run, and tear down, whatever happens; :meth:`prepare` comes first.

        Where there is a ``watcher``, stdout and stderr come in the order in which they were
        written, as nearly as the agent knows it.
        """
        try:
            return await self._in_guest(self.prepare(), stdin, on_output, watcher)
        except DamagedImage:
            # Nothing of the program has run: the image is checked before the job is sent.
            self.progress("the stored image is damaged; making it again")
            await call_in_daemon(lambda: self._find(repair=True))
            return await self._in_guest(self.prepare(), stdin, on_output, watcher)

    @property
    def footprint(self) -> int:
        """Bytes that its machine takes of the host at most; known when it is prepared."""
        assert self.assets is not None
        return self.assets.footprint

    def prepare(self) -> Assets:
        """Find what to boot; where the image is not there yet, make it, which takes its time.

        Raises:
            ImageError: it cannot be made.
            InputError: the machine would have too little memory for it.
        """
        return self.assets or self._find(repair=False)

    def _find(self, *, repair: bool) -> Assets:
        assets = self._launcher.find(self.language, self.options, self.progress, repair=repair)
        check_room(assets.image, self.language, assets.memory, self.options, len(self._source))
        self.assets = assets
        return assets

    def forget(self) -> None:
        """Drop the source and the files; it cannot be executed again."""
        self._source = b""
        self.options = replace(self.options, files=())

    def waited(self) -> None:
        """The time since the last step was spent waiting for room."""
        self._seconds["queue"] = self._lap()

    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program, if there is a machine with one.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._guest is not None:
            await self._guest.signal(number)

    async def resize(self, size: Tty) -> None:
        """Give the program's terminal another size, now or from its beginning.

        Raises:
            InputError: it has none.
            UnknownOutcome: the machine has ended.
        """
        from slipway._run.job_message import terminal_size

        if not self.options.tty:
            raise InputError("the program has no terminal", "Start it with tty=True.")
        # Not into the options yet, all of which would be checked anew for each of many sizes.
        self._size = size
        if self._guest is not None:
            await self._guest.resize(terminal_size(size))

    async def cancel(self) -> None:
        """Have the agent end the job, if there is a machine with one.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._guest is not None:
            await self._guest.cancel()

    async def _in_guest(
        self,
        assets: Assets,
        stdin: AsyncIterator[bytes],
        on_output: OnOutput | None,
        watcher: RunWatcher | None,
    ) -> Result:
        captured: Capture = {}

        async def sink(phase: Phase, stream: Stream, data: bytes) -> None:
            if on_output is None:
                captured.setdefault((phase, stream), bytearray()).extend(data)
            else:
                await call_listener(on_output, phase.name.lower(), stream.name.lower(), data)

        guest = await self._launcher.launch(assets, self.options)
        self._guest = guest
        self._seconds |= {
            "prepare": guest.began - self._mark,
            "boot": guest.boot_seconds,
            "ready": guest.ready_seconds,
            "restore": guest.restore_seconds,
        }
        try:
            if watcher is not None:
                watcher.booted(guest.machine.hypervisor.name)
            if self._size is not None:
                self.options = replace(self.options, tty=self._size)
            report = await guest.run(
                assets.language, self._source, self.options, sink, stdin, watcher, keep=self._keep
            )
        except UnknownOutcome as error:
            for (phase, stream), data in captured.items():
                if phase.name == "RUN":
                    setattr(error, stream.name.lower(), bytes(data))
            raise
        finally:
            self._guest = None
            self._lap()
            await uninterrupted(self._launcher.release(guest))
        self._seconds["teardown"] = self._lap()
        return self._result(assets, guest, report, captured)

    def _result(
        self,
        assets: Assets,
        guest: Guest,
        report: JobReport,
        captured: Capture,
    ) -> Result:
        from slipway._model.result import Provenance, Result, Timing
        from slipway._run.results import output_files, phase_results
        from slipway_protocol.messages import Phase

        assert guest.ready is not None
        phases = phase_results(report, captured)
        for phase, told in report.phases.items():
            self._seconds[phase.name.lower()] = told.seconds
        return Result(
            language=self.language.name,
            build=phases.get(Phase.BUILD),
            run=phases.get(Phase.RUN),
            files=output_files(report, self.options.outputs),
            tty=bool(self.options.tty),
            timing=Timing(**self._seconds),
            provenance=Provenance(
                machine=guest.machine.hypervisor.name,
                kernel=guest.ready.kernel,
                image=assets.image.name,
                image_digest=assets.image.digest,
                agent=guest.ready.agent_version,
                memory=assets.memory,
                cpus=self.options.cpus,
                machine_reason=guest.origin.machine_reason,
                start=guest.origin.start,
                start_reason=guest.origin.start_reason,
            ),
        )

    def _lap(self) -> float:
        now = time.monotonic()
        elapsed, self._mark = now - self._mark, now
        return elapsed
