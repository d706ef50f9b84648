"""Run of one job in the machine of a slot, from launch to result."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._run.output_sink import OutputCapture
from slipway._util.errors import InputError, UnknownOutcome
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from slipway._model.arguments import OnOutput
    from slipway._model.host_use import HostUse
    from slipway._model.network_use import NetworkUse
    from slipway._model.options import Tty
    from slipway._model.result import Result
    from slipway._run.assets import Assets
    from slipway._run.guest import Guest
    from slipway._run.job_report import JobReport
    from slipway._run.job_request import JobRequest
    from slipway._run.output_sink import OutputSink, RunObserver
    from slipway._run.slot import Slot


class Run:
    """Job in the machine of a slot, and the time that each step takes."""

    def __init__(self, job: JobRequest, slot: Slot, began: float | None = None) -> None:
        """``began``: when the run's time began, by the monotonic clock; None: now."""
        self._job = job
        self._slot = slot
        self._size: Tty | None = None
        self._guest: Guest | None = None
        self._seconds: dict[str, float] = {}
        self._network_use: NetworkUse | None = None
        self._host_use: HostUse | None = None
        self._mark = time.monotonic() if began is None else began

    def mark_admitted(self) -> None:
        """Count the time since the last step as time in the queue."""
        self._seconds["queue"] = self._take_lap()

    async def collect(
        self, on_output: OnOutput | None, observer: RunObserver | None = None
    ) -> Result:
        """Execute the run, and pass its output to ``on_output``, else return it in the result.

        With an ``observer``, stdout and stderr come in the order in which they were written, as
        nearly as the agent knows it. Without, neither waits for the other.

        Raises:
            HostError: this host lacks something.
            UnknownOutcome: the machine was lost under the program.
        """
        if on_output is not None:
            from slipway._run.output_pump import OutputPump

            pump = OutputPump(on_output, observer)
            return await pump.run(self.execute(pump, pump))
        capture = OutputCapture()
        try:
            result = await self.execute(capture, observer)
        except UnknownOutcome as error:
            error.stdout = bytes(capture.data.get(("run", "stdout"), b""))
            error.stderr = bytes(capture.data.get(("run", "stderr"), b""))
            raise
        return result.with_output({key: bytes(data) for key, data in capture.data.items()})

    async def execute(self, sink: OutputSink, observer: RunObserver | None = None) -> Result:
        """Launch the machine, run the job, and release the machine, whatever happens.

        The result has no output: it goes to ``sink``, whose reader may take it later.

        Raises:
            HostError: this host lacks something.
            UnknownOutcome: the machine was lost under the program.
        """
        guest = await self._slot.launch()
        self._guest = guest
        assets = self._slot.assets
        self._seconds |= {
            "prepare": guest.began - self._mark,
            "boot": guest.boot_seconds,
            "agent": guest.agent_seconds,
            "ready": guest.ready_seconds,
            "restore": guest.restore_seconds,
        }
        try:
            if observer is not None:
                ports = guest.network.ports if guest.network is not None else ()
                observer.on_booted(guest.machine.hypervisor.name, ports)
            report = await guest.run(self._adapt_job(assets), sink, observer)
            # A machine whose agent is on the network has one even if the run did not ask for it.
            if guest.network is not None and self._job.options.network is not None:
                self._network_use = await guest.network.take_use()
            self._host_use = guest.machine.read_use()
        finally:
            self._guest = None
            self._take_lap()
            await run_shielded(self._slot.release(guest))
        self._seconds["teardown"] = self._take_lap()
        return self._build_result(assets, guest, report)

    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program, if a machine runs it.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._guest is not None:
            await self._guest.signal(number)

    async def resize(self, size: Tty) -> None:
        """Resize the program's terminal, now or before the program starts.

        Raises:
            InputError: the program has no terminal.
            UnknownOutcome: the machine has ended.
        """
        from slipway._run.job_message import convert_terminal_size

        if not self._job.options.tty:
            raise InputError("the program has no terminal", "Start it with tty=True.")
        # Not into the options yet, all of which would be checked anew for each of many sizes.
        self._size = size
        if self._guest is not None:
            await self._guest.resize(convert_terminal_size(size))

    async def cancel(self) -> None:
        """Have the agent end the job, if a machine runs it.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._guest is not None:
            await self._guest.cancel()

    def _adapt_job(self, assets: Assets) -> JobRequest:
        """Return the job with the variables of the image, and the latest terminal size."""
        options = self._job.options
        if self._size is not None:
            options = replace(options, tty=self._size)
        return replace(self._job, language=assets.language, options=options)

    def _build_result(self, assets: Assets, guest: Guest, report: JobReport) -> Result:
        from slipway._model.result import Provenance, Result, Timing
        from slipway._run.results import build_output_files, build_phase_results
        from slipway_protocol.messages import Phase

        assert guest.ready is not None
        job = self._job
        phases = build_phase_results(report)
        for phase, phase_report in report.phases.items():
            self._seconds[phase.name.lower()] = phase_report.seconds
        return Result(
            language=job.language.name,
            build=phases.get(Phase.BUILD),
            run=phases.get(Phase.RUN),
            files=build_output_files(report, job.options.outputs),
            tty=bool(job.options.tty),
            network=self._network_use,
            host=self._host_use,
            timing=Timing(**self._seconds),
            provenance=Provenance(
                machine=guest.machine.hypervisor.name,
                kernel=guest.ready.kernel,
                image=assets.image.name,
                image_digest=assets.image.digest,
                agent=guest.ready.agent_version,
                memory=assets.memory,
                cpus=job.options.cpus,
                machine_reason=guest.start_info.machine_reason,
                start=guest.start_info.start,
                start_reason=guest.start_info.start_reason,
                port=guest.machine.port.value,
                arch=guest.machine.hypervisor.architecture,
            ),
        )

    def _take_lap(self) -> float:
        now = time.monotonic()
        elapsed, self._mark = now - self._mark, now
        return elapsed
