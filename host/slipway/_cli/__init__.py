"""Command line: the program ``slipway`` with its commands, and ``vmm-run`` for ``slipway run``."""

from __future__ import annotations

import os
import signal
import sys

from slipway._cli.program import COMMANDS, find_program_name, format_version


def main() -> None:
    """Run the program ``slipway`` and exit."""
    _use_default_interrupt()
    from slipway._cli.terminal import run_guarded

    run_guarded(_run_slipway, sys.argv[1:])


def vmm_run(arguments: list[str] | None = None) -> None:
    """Run the program ``vmm-run`` and exit."""
    _use_default_interrupt()
    from slipway._cli.terminal import run_guarded

    run_guarded(_run_vmm_run, sys.argv[1:] if arguments is None else arguments)


def _use_default_interrupt() -> None:
    """Let Ctrl-C end the imports without a traceback; ``run_guarded`` sets its own handler."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run_vmm_run(arguments: list[str]) -> int:
    from slipway._cli.terminal import print_text

    # The parser of a run takes long to import and to build.
    if arguments[:1] == ["--version"]:
        print_text(format_version())
        return 0
    from slipway._cli import run

    return run.run_command(arguments, find_program_name())


def _run_slipway(arguments: list[str]) -> int:
    """Run the command that comes first and return its exit code.

    Raises:
        SlipwayError: the command failed.
    """
    from importlib import import_module

    from slipway._cli.terminal import EXIT_USAGE, print_text, write_text
    from slipway._util.errors import InputError

    program = find_program_name()
    name, *others = arguments or [""]
    if name == "help" and others and others[0] not in {"-h", "--help", "help"}:
        name, *others = [*others, "--help"]
    if name in COMMANDS:
        module = import_module(f"slipway._cli.{name}")
        code: int = module.run_command(others, f"{program} {name}")
        return code
    if name in {"-h", "--help", "help"}:
        print_text(_format_usage(program))
        return 0
    if name in {"-V", "--version", "version"}:
        print_text(format_version())
        return 0
    if not name:
        write_text(_format_usage(program))
        return EXIT_USAGE
    if name.startswith("-"):
        raise InputError(f"unknown option {name[:80]!r}", f"See: {program} --help")
    from slipway._cli.parser import suggest_names

    if os.path.isfile(name):  # noqa: PTH113 - importing pathlib would slow down every start
        raise InputError(
            f"unknown command {name[:80]!r}", f"To run that file: {program} run {name}"
        )
    raise InputError(
        f"unknown command {name[:80]!r}",
        suggest_names(name, COMMANDS) or f"Commands: {', '.join(COMMANDS)}. See: {program} --help",
    )


def _format_usage(program: str) -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"usage: {program} COMMAND ...\n\n{commands}\n\n"
        f"'{program} help COMMAND' shows the options of a command, '{program} --version' the"
        " version.\n"
    )
