"""Users' ways to Slipway: the behaviour suite goes each of them.

``runtime`` and ``client`` are the library without and with a server, ``cli`` and ``served`` the
command line likewise. Each program has a separate machine, also with ``clone``: a clone of a ready
machine, directly; ``guest`` is :class:`support.microvm.Microvm`, where one machine takes all of a
language's programs and no way to it is tried. ``serial`` and ``tcp`` are the same with an agent on
that port.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._blocking.runtime import Client, Runtime
from slipway._model.events import Output
from slipway._model.result import Captured, OutputFile, PhaseResult, Usage, Verdict
from slipway._run.languages import find_language
from slipway._wire.fields import Fields
from slipway._wire.results import read_phase
from support.commands import PATIENCE as COMMAND_PATIENCE
from support.commands import Commands
from support.microvm import CloneVm, Microvm
from support.programs import Outcome, Runner, load, patient
from support.serving import Server

if TYPE_CHECKING:
    import subprocess

    from slipway._blocking.handles import Execution

SIZES = {"memory", "memory_limit", "build_memory_limit", "file_size", "output_limit", "fetch_limit"}
OTHER_WAYS = ("clone", "runtime", "client", "cli", "served")
PORT_WAYS = ("serial", "tcp")
_RUN_SECONDS = re.compile(rb"\brun (\d+\.\d+)")


def open_way(way: str, language: str, machine: str, arch: str = "auto") -> Runner:
    """A runner for ``language``, for example ``rust@1.80``, on ``machine`` of ``arch``."""
    if way == "guest":
        return Microvm(language, machine, arch=arch)
    if way in PORT_WAYS:
        return Microvm(language, machine, arch=arch, port=way)
    if way == "clone":
        return CloneVm(language, machine, arch=arch)
    if way == "cli":
        return CommandRunner(language, machine, arch)
    if way == "served":
        return ServedCommandRunner(language, machine, arch)
    kind = ClientRunner if way == "client" else RuntimeRunner
    return kind(language, machine, arch)


class LibraryJob:
    """Job whose events are taken on request of the test."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._captured: dict[tuple[str, str], bytes] = {}

    def until(self, text: bytes) -> None:
        """See :class:`support.programs.Job`."""
        while text not in self._captured.get(("run", "stdout"), b""):
            event = next(self._execution, None)
            assert event is not None, f"no {text!r} came: {self._execution.wait()}"
            if isinstance(event, Output):
                key = event.phase, event.stream
                self._captured[key] = self._captured.get(key, b"") + event.data

    def write(self, data: bytes) -> None:
        """See :class:`support.programs.Job`."""
        self._execution.stdin.write(data)

    def end_input(self) -> None:
        """See :class:`support.programs.Job`."""
        self._execution.stdin.close()

    def outcome(self) -> Outcome:
        """See :class:`support.programs.Job`."""
        result = self._execution.wait()
        for phase, told in (("build", result.build), ("run", result.run)):
            for stream in ("stdout", "stderr") if told is not None else ():
                rest = getattr(told, stream).data
                self._captured[phase, stream] = self._captured.get((phase, stream), b"") + rest
        return Outcome.of(result.with_output(self._captured))


class LibraryRunner(Runner):
    """Common methods of the two forms of the library."""

    def __init__(self, language: str, machine: str, arch: str, library: Runtime | Client) -> None:
        super().__init__()
        self.language = find_language(language)
        self._name = language
        self._where: dict[str, Any] = {"machine": machine, "arch": arch}
        self._library = library

    def begin(self, source: str | bytes | Path, *arguments: str, **options: Any) -> LibraryJob:
        """See :meth:`Runner.begin`."""
        text, beside = load(source)
        checked = patient(arguments, beside, options)
        execution = self._library.start(text, self._name, stdin=None, **self._where, **checked)
        return LibraryJob(execution)

    def close(self) -> None:
        """See :meth:`Runner.close`."""
        self._library.close()

    def _run(
        self,
        source: str | bytes | Path,
        arguments: tuple[str, ...],
        stdin: bytes,
        options: dict[str, Any],
    ) -> Outcome:
        text, beside = load(source)
        checked = patient(arguments, beside, options)
        return Outcome.of(
            self._library.run(text, self._name, stdin=stdin, **self._where, **checked)
        )


class RuntimeRunner(LibraryRunner):
    """In this process, without a server."""

    def __init__(self, language: str, machine: str, arch: str) -> None:
        super().__init__(language, machine, arch, Runtime())


class ClientRunner(LibraryRunner):
    """Runner against a separate server."""

    def __init__(self, language: str, machine: str, arch: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="slipway-")
        self._server = Server(Path(self._directory.name)).start()
        super().__init__(language, machine, arch, Client(self._server.path))

    def close(self) -> None:
        """See :meth:`Runner.close`; the server has to end well and leave nothing."""
        super().close()
        try:
            code = self._server.stop()
            assert (code, self._server.leftovers()) == (0, []), self._server.log.read_text()
        finally:
            self._directory.cleanup()


class CommandJob:
    """``slipway run`` with pipes, as in a terminal."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._stdout = b""

    def until(self, text: bytes) -> None:
        """See :class:`support.programs.Job`."""
        assert self._process.stdout is not None
        while text not in self._stdout:
            data = self._process.stdout.read1()  # type: ignore[attr-defined]
            assert data, f"no {text!r} came: {self.outcome()}"
            self._stdout += data

    def write(self, data: bytes) -> None:
        """See :class:`support.programs.Job`."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def end_input(self) -> None:
        """See :class:`support.programs.Job`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def outcome(self) -> Outcome:
        """Return the outcome by exit code and ``--verbose``, as of a run without a failed build."""
        with self._process as process:
            rest, stderr = process.communicate(timeout=COMMAND_PATIENCE)
        stdout, code = self._stdout + rest, process.returncode
        seconds = _RUN_SECONDS.search(stderr)
        assert seconds is not None, stderr
        program = PhaseResult(
            Verdict.FAILED if code else Verdict.OK,
            code,
            0,
            Usage(float(seconds[1]), 0.0, 0.0, 0, 0),
            Captured(stdout, len(stdout)),
            Captured(),
        )
        return Outcome(None, program, {})


class CommandRunner(Runner):
    """The console script, once for each program."""

    def __init__(self, language: str, machine: str, arch: str) -> None:
        super().__init__()
        self.language = find_language(language)
        self._name = language
        self._where = ["--machine", machine, "--arch", arch]
        self._directory = tempfile.TemporaryDirectory(prefix="slipway-")
        self._place = Path(self._directory.name)
        temporary = self._place / "tmp"
        temporary.mkdir()
        self._commands = Commands(temporary)

    def begin(self, source: str | bytes | Path, *arguments: str, **options: Any) -> CommandJob:
        """See :meth:`Runner.begin`."""
        command = self._command(source, arguments, options)
        return CommandJob(self._commands.start("slipway", "run", "--verbose", *command))

    def close(self) -> None:
        """See :meth:`Runner.close`."""
        with self._directory:
            assert self._commands.leftovers() == []

    def _run(
        self,
        source: str | bytes | Path,
        arguments: tuple[str, ...],
        stdin: bytes,
        options: dict[str, Any],
    ) -> Outcome:
        command = self._command(source, arguments, options)
        ended = self._commands("slipway", "run", "--json", *command, stdin=stdin)
        assert ended.stdout, ended.stderr
        record = json.loads(ended.stdout)
        assert "error" not in record, record
        build, run = (
            None if record[phase] is None else read_phase(Fields(record[phase], phase))
            for phase in ("build", "run")
        )
        return Outcome(build, run, self._read_outputs(record["files"]))

    def _command(
        self, source: str | bytes | Path, arguments: tuple[str, ...], options: dict[str, Any]
    ) -> list[str]:
        """Return the arguments for ``options``; files are written to the named places."""
        text, beside = load(source)
        options = patient((), beside, options)
        place = Path(tempfile.mkdtemp(dir=self._place))
        (place / "source").write_bytes(text)
        command = ["--language", self._name, *self._where]
        for number, file in enumerate(options.pop("files")):
            local = place / f"file{number}"
            local.write_bytes(file.data)
            local.chmod(file.mode)
            command += ["--file", f"{local}:{file.path}"]
        for number, path in enumerate(options.pop("outputs", ())):
            command += ["--get", f"{path}:{place / f'fetched{number}'}"]
        self._place_of_outputs = place
        for name, value in options.items():
            if value is True:
                command.append(_flag(name))
            elif name in SIZES:
                command += [_flag(name), f"{value / 1024!r}K"]
            elif name != "arguments":
                command += [_flag(name), str(value)]
        return [*command, str(place / "source"), "--", *arguments]

    def _read_outputs(self, files: list[dict[str, Any]]) -> dict[str, OutputFile]:
        found = {}
        for number, told in enumerate(files):
            path, local = told["path"], self._place_of_outputs / f"fetched{number}"
            if "missing" in told:
                found[path] = OutputFile(path, missing=told["missing"])
            else:
                found[path] = OutputFile(path, local.stat().st_mode & 0o777, local.read_bytes())
        return found


class ServedCommandRunner(CommandRunner):
    """The console script, once for each program, on a separate server."""

    def __init__(self, language: str, machine: str, arch: str) -> None:
        super().__init__(language, machine, arch)
        directory = self._place / "server"
        directory.mkdir()
        self._server = Server(directory).start()
        self._where += ["--api-sock", str(self._server.path)]

    def close(self) -> None:
        """See :meth:`Runner.close`; the server has to end well and leave nothing."""
        try:
            code = self._server.stop()
            assert (code, self._server.leftovers()) == (0, []), self._server.log.read_text()
        finally:
            super().close()


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
