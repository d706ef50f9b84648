"""Runner of a phase: the program, its streams, its limits and its verdict."""

from __future__ import annotations

import os
from time import monotonic

from slipway_agent.judgement import ProgramEnd, judge_end
from slipway_agent.pipes import OutputPipe
from slipway_agent.program_launcher import StartError
from slipway_agent.running_program import start_program
from slipway_agent.terminal import Display
from slipway_protocol import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_agent.cgroup import PhaseGroup
    from slipway_agent.loop import Child, Loop
    from slipway_agent.pipes import InputPipe
    from slipway_agent.prestart import PrestartedProgram, Script, ScriptPipe
    from slipway_agent.program_launcher import ProgramLauncher
    from slipway_agent.running_program import RunningProgram
    from slipway_agent.terminal import Terminal
    from slipway_protocol.flow import SendWindow

# Longest delay of the check of CPU time, in a machine with one CPU.
CPU_STEP_SECONDS = 0.005


def reads_input(command: m.Command) -> bool:
    """Return true if ``command`` reads the job's Input."""
    return command.stdin or command.tty is not None


class PhaseRunner:
    """Run of ``command`` and all its processes; calls ``on_done`` at the end."""

    def __init__(
        self,
        loop: Loop,
        job: int,
        kind: m.Phase,
        command: m.Command,
        send: Callable[[m.Message], None],
    ) -> None:
        self.kind = kind
        self.verdict: m.Verdict | None = None
        self._loop = loop
        self._job = job
        self._command = command
        self._send = send
        self._pid = 0
        self._group: PhaseGroup
        self._on_done: Callable[[PhaseRunner], None]
        self._outputs: list[OutputPipe] = []
        self._input: InputPipe | None = None
        self._script: ScriptPipe | None = None
        self._terminal: Terminal | None = None
        self._reason: m.Verdict | None = None
        self._exited = False
        self._code = 0
        self._signal = 0
        self._alone = False
        self._began = 0.0
        self._used_before = 0, 0
        self._wall_us = 0

    def start_program(
        self,
        launcher: ProgramLauncher,
        group: PhaseGroup,
        windows: dict[m.Stream, SendWindow],
        stdin: InputPipe,
        on_done: Callable[[PhaseRunner], None],
    ) -> None:
        """Start the program; report a failure at once."""
        self._group = group
        self._on_done = on_done
        self._began = monotonic()
        try:
            started = start_program(launcher, self._command, group, stdin=self._command.stdin)
        except StartError as error:
            group.remove()
            self._report_no_program(m.Verdict.FAILED, error.code, error.detail)
        except OSError as error:
            group.remove()
            self._report_no_program(
                m.Verdict.INTERNAL_ERROR, 0, f"cannot start the program: {error}"
            )
        else:
            self._watch_program(started, windows, stdin)

    def adopt_program(
        self,
        prestarted: PrestartedProgram,
        script: Script,
        windows: dict[m.Stream, SendWindow],
        stdin: InputPipe,
        on_done: Callable[[PhaseRunner], None],
    ) -> None:
        """Give a prestarted program its limits and ``script``, as if the program started now.

        The limits come first: an interpreter that has not opened the FIFO yet runs the script as
        soon as the FIFO's name belongs to a file.
        """
        self._group = prestarted.group
        self._on_done = on_done
        self._script = prestarted.pipe
        self._began = monotonic()
        self._used_before = prestarted.group.read_cpu_us()
        limits = self._command.limits
        try:
            prestarted.group.limit(limits)
            prestarted.launcher.limit_process(
                limits, prestarted.process.pid, sum(self._used_before) // 1000
            )
        except ProcessLookupError:
            pass  # the program has ended, which the loop reports next
        except OSError as error:
            prestarted.end()
            self._report_no_program(
                m.Verdict.INTERNAL_ERROR, 0, f"cannot limit the program: {error}"
            )
            return
        try:
            prestarted.pipe.replace_name(script)
        except OSError as error:
            prestarted.end()
            detail = f"the job's files are missing: {prestarted.path} cannot be stored"
            self._report_no_program(m.Verdict.INTERNAL_ERROR, 0, f"{detail}: {error.strerror}")
            return
        self._watch_program(prestarted.process, windows, stdin)
        prestarted.pipe.send_script(script.data)

    def _watch_program(
        self, program: RunningProgram, windows: dict[m.Stream, SendWindow], stdin: InputPipe
    ) -> None:
        self._pid = program.pid
        limits = self._command.limits
        self._terminal = program.terminal
        if reads_input(self._command):
            assert program.stdin is not None
            stdin.attach(program.stdin)
            self._input = stdin
        elif program.stdin is not None:
            os.close(program.stdin.fd)
        for stream, fd in ((m.Stream.STDOUT, program.stdout), (m.Stream.STDERR, program.stderr)):
            if fd is None:
                continue
            kind = OutputPipe if program.terminal is None else Display
            pipe = kind(self._loop, fd, stream, windows[stream], limits.output_bytes)
            pipe.on_data = self._send_output
            pipe.on_excess = self._handle_excess
            pipe.on_end = self._report_stream_end
            self._outputs.append(pipe)
        self._send(m.PhaseStarted(self._job, self.kind))
        self._outputs[-1].keeps_tail = bool(self._command.out_of_memory)
        for pipe in self._outputs:
            pipe.update_watch()
        if limits.wall_ms:
            self._loop.call_at(self._began + limits.wall_ms / 1000, self._end_for_time)
        if limits.cpu_ms:
            self._check_cpu()

    def report_failure(self, detail: str, on_done: Callable[[PhaseRunner], None]) -> None:
        """Report that the phase cannot begin, with the reason ``detail``."""
        self._on_done = on_done
        self._report_no_program(m.Verdict.INTERNAL_ERROR, 0, detail)

    def handle_ended_children(self, children: list[Child]) -> None:
        """Handle the ends of the program and its orphans, which have been waited for."""
        self._group.sample_counters()
        for pid, status, usage in children:
            self._group.count_ended_child(usage)
            if pid == self._pid and not self._exited:
                self._record_exit(status)
        if self._exited and not self._alone:
            self._end_group()

    def _record_exit(self, status: int) -> None:
        self._exited = True
        self._wall_us = round((monotonic() - self._began) * 1e6)
        if os.WIFSIGNALED(status):
            self._signal = os.WTERMSIG(status)
        else:
            self._code = os.WEXITSTATUS(status)
        self._send(m.Exited(self._job, self.kind, self._code, self._signal))
        self._loop.cancel_call(self._end_for_time)

    def kill(self, reason: m.Verdict) -> None:
        """Kill all processes, for ``reason``, unless the phase is ending already."""
        if self._reason is None and not self._exited:
            self._reason = reason
            self._group.sample_counters()
            self._group.kill()

    def send_signal(self, number: int) -> None:
        """Send a signal to the program's process group, until the program has ended."""
        if not self._exited and self._pid:
            try:
                os.killpg(self._pid, number)
            except OSError:
                pass  # the program has left its group, or the signal is unknown to the kernel

    def resize_terminal(self, size: m.Tty) -> None:
        """Change the size of the program's terminal, if any."""
        if self._terminal is not None and not self._alone:
            self._terminal.resize(size)

    def use_credit(self) -> None:
        """Read output again after a grant of credit."""
        for pipe in self._outputs:
            pipe.update_watch()

    def set_paused(self, paused: bool) -> None:
        """Pause or resume reading of output."""
        for pipe in self._outputs:
            pipe.set_paused(paused)

    def _end_group(self) -> None:
        """Kill the processes that the program has left behind; then read the last output."""
        if not self._group.is_empty():
            self._group.kill()
            return  # the loop reports each end, and this is called again
        self._alone = True
        self._loop.cancel_call(self._check_cpu)
        if self._input is not None:
            self._input.detach()
        if self._script is not None:
            self._script.close()
        if self._terminal is not None:
            self._terminal.close_program_side()
        for pipe in self._outputs:
            pipe.read_rest()
        self._finish_if_over()

    def _report_no_program(self, verdict: m.Verdict, code: int, detail: str) -> None:
        """Report a phase without a program, with two empty streams."""
        self._send(m.PhaseStarted(self._job, self.kind))
        for stream in (m.Stream.STDOUT, m.Stream.STDERR):
            self._send(m.OutputEnd(self._job, stream, 0, 0))
        self._report_done(verdict, code, 0, m.Usage(), detail)

    def _send_output(self, stream: m.Stream, data: bytes) -> None:
        self._send(m.Output(self._job, stream, data))

    def _handle_excess(self) -> None:
        if self._command.limits.kill_on_output:
            self.kill(m.Verdict.OUTPUT_EXCEEDED)

    def _report_stream_end(self, pipe: OutputPipe) -> None:
        self._send(m.OutputEnd(self._job, pipe.stream, pipe.sent, pipe.dropped))
        if self._terminal is not None:
            self._send(m.OutputEnd(self._job, m.Stream.STDERR, 0, 0))
        self._finish_if_over()

    def _end_for_time(self) -> None:
        self.kill(m.Verdict.TIMED_OUT)

    def _check_cpu(self) -> None:
        """Check the CPU time, and again at the earliest time when the rest can be used up."""
        self._group.sample_counters()
        rest = self._command.limits.cpu_ms / 1000 - sum(self._read_cpu_us()) / 1e6
        if rest <= 0:
            self.kill(m.Verdict.CPU_EXCEEDED)
        elif not self._exited:
            step = max(rest / (os.cpu_count() or 1), CPU_STEP_SECONDS)
            self._loop.call_at(monotonic() + step, self._check_cpu)

    def _read_cpu_us(self) -> tuple[int, int]:
        """Return user and system CPU time of the phase in microseconds.

        Time of a prestarted program before its job does not count. Either number may become
        smaller: the kernel estimates how the exact sum is divided.
        """
        (user, system), (user_before, system_before) = self._group.read_cpu_us(), self._used_before
        return max(user - user_before, 0), max(system - system_before, 0)

    def _finish_if_over(self) -> None:
        if not self._alone or self.verdict is not None:
            return
        if not all(pipe.ended for pipe in self._outputs):
            return
        user, system = self._read_cpu_us()
        usage = m.Usage(
            self._wall_us,
            user,
            system,
            self._group.read_memory_peak(),
            self._group.read_processes_peak(),
        )
        refused = self._group.is_out_of_memory()
        # The last stream is stderr, or the terminal, which stands for all streams.
        tail = self._outputs[-1].tail
        end = ProgramEnd(self._code, self._signal, user + system, refused, tail)
        verdict, detail = judge_end(self._command, end, self._reason)
        self._group.remove()
        self._report_done(verdict, self._code, self._signal, usage, detail)

    def _report_done(
        self, verdict: m.Verdict, code: int, number: int, usage: m.Usage, detail: str
    ) -> None:
        self.verdict = verdict
        self._send(m.PhaseDone(self._job, self.kind, verdict, code, number, usage, detail))
        self._on_done(self)
