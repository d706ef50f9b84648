"""Launcher of programs as the unprivileged user."""

from __future__ import annotations

import errno
import os
import signal

from slipway_agent import syscalls
from slipway_agent.terminal import set_controlling_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from slipway_protocol.messages import Command, Limits

USER = "runner"
USER_ID = 1000
# A type that nearly all terminals understand, such as xterm.js in a browser.
TERMINAL = "xterm-256color"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STACK_BYTES = 64 * 1024 * 1024
MAX_OPEN_FILES = 1024 * 1024  # the kernel's own bound, fs.nr_open
NOT_FOUND = 127
NOT_EXECUTABLE = 126
# Python ignores these signals; a program expects their default actions.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class StartError(Exception):
    """Failure to execute a program; ``code`` is the exit code of a shell for that case."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class ProgramLauncher:
    """Launcher of programs in a directory, as a user.

    ``user_id`` None keeps the agent's own user, for tests on a development machine.
    """

    def __init__(self, directory: str, user_id: int | None) -> None:
        self.directory = directory
        self.user_id = user_id

    def start(
        self, command: Command, enter_group: Callable[[], None], fds: tuple[int, int, int]
    ) -> int:
        """Start ``command`` with ``fds`` as stdin, stdout and stderr; return the pid.

        Raises:
            StartError: the program cannot be executed.
            OSError: the kernel cannot make a process.
        """
        environment = self._build_environment(command)
        report, child_report = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
            if pid == 0:
                self._exec_program(command, environment, enter_group, fds, child_report)
        except OSError:
            os.close(report)
            raise
        finally:
            os.close(child_report)
        # The write end closes with a successful exec; until then the child runs our code only.
        with os.fdopen(report, "rb") as file:
            problem = file.read(4096)
        if problem:
            os.waitpid(pid, 0)
            code, _, detail = problem.decode("utf-8", "replace").partition(" ")
            raise StartError(int(code), detail)
        return pid

    def _build_environment(self, command: Command) -> dict[str, str]:
        environment = {
            "PATH": DEFAULT_PATH,
            "HOME": self.directory,
            "TMPDIR": "/tmp",  # noqa: S108  # a fresh tmpfs of the job
            "USER": USER,
            "LOGNAME": USER,
        }
        if command.tty is not None:
            environment["TERM"] = TERMINAL
        environment.update(command.environment)
        return environment

    def _exec_program(
        self,
        command: Command,
        environment: dict[str, str],
        enter_group: Callable[[], None],
        fds: tuple[int, int, int],
        report: int,
    ) -> NoReturn:
        """Set up the child and execute the program. Never return."""
        try:
            enter_group()
            os.setsid()
            # The child inherits SCHED_BATCH from the agent.
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            # Descriptors 0 to 2 are in use, so that ``fds`` are above and no dup2 overwrites them.
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
            if command.tty is not None:
                set_controlling_terminal(0)
            os.chdir(self.directory)
            os.umask(0o022)
            self.limit_process(command.limits)
            if self.user_id is not None:
                with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
                    file.write(b"0")
                syscalls.unshare(syscalls.CLONE_NEWIPC)
                os.setgroups([])
                os.setresgid(self.user_id, self.user_id, self.user_id)
                os.setresuid(self.user_id, self.user_id, self.user_id)
            syscalls.control_process(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            for number in _IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            code, detail = _try_candidates(command.argv, environment)
        except BaseException as error:  # the child must not return into the agent's loop
            code, detail = NOT_EXECUTABLE, f"cannot prepare the program: {error}"
        try:
            os.write(report, f"{code} {detail}".encode("utf-8", "replace")[:4096])
        finally:
            os._exit(code)

    def limit_process(self, limits: Limits, pid: int = 0, used_ms: int = 0) -> None:
        """Set the resource limits of the calling process, or of ``pid``.

        ``used_ms`` is CPU time of the process that does not count.

        Raises:
            OSError: the kernel refuses, or the process is missing.
        """
        bounds = [(syscalls.RLIMIT_CORE, 0, 0)]
        if limits.file_bytes:
            bounds.append((syscalls.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes))
        if limits.cpu_ms:
            # A limit of each single process; the agent watches the sum of all.
            seconds = (limits.cpu_ms + used_ms) // 1000 + 1
            bounds.append((syscalls.RLIMIT_CPU, seconds, seconds + 1))
        files = limits.open_files
        if self.user_id is not None:
            if limits.processes:  # for a kernel without the pids controller
                bounds.append((syscalls.RLIMIT_NPROC, limits.processes, limits.processes))
            files = min(files or MAX_OPEN_FILES, MAX_OPEN_FILES)
            bounds.append((syscalls.RLIMIT_STACK, STACK_BYTES, syscalls.RLIM_INFINITY))
        if files:
            soft = min(limits.soft_open_files or files, files)
            bounds.append((syscalls.RLIMIT_NOFILE, soft, files))
        for resource, soft, hard in bounds:
            syscalls.limit_resource(resource, soft, hard, pid)


def _try_candidates(argv: tuple[str, ...], environment: dict[str, str]) -> tuple[int, str]:
    """Execute the program from the first place that works; else return exit code and reason."""
    if not argv or not argv[0]:
        return NOT_FOUND, "the command is empty"
    name = argv[0]
    if "/" in name:
        candidates = [name]
    else:
        path = environment.get("PATH", DEFAULT_PATH)
        candidates = [f"{directory or '.'}/{name}" for directory in path.split(":")]
    code, detail = NOT_FOUND, f"{name}: no such program"
    if "/" not in name:
        detail += " in PATH"
    for candidate in candidates:
        try:
            os.execve(candidate, argv, environment)  # noqa: S606  # an image may have no shell
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(candidate):
                code = NOT_FOUND
                detail = f"{candidate}: the interpreter or loader of this file is missing"
        except OSError as error:
            code, detail = NOT_EXECUTABLE, f"{candidate}: {error.strerror}"
            if error.errno == errno.ENOEXEC:
                detail = f"{candidate}: not a program of this machine, nor a script with #!"
    return code, detail
