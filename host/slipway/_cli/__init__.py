"""The command line: ``slipway`` with its verbs, and ``vmm-run`` for the one used most."""

from __future__ import annotations

import os
import signal
import sys

from slipway._cli.program import VERBS, version


def main() -> None:
    """The ``slipway`` program."""
    _end_silently()
    from slipway._cli.terminal import guarded

    guarded(_command, sys.argv[1:])


def vmm_run(arguments: list[str] | None = None) -> None:
    """The ``vmm-run`` program."""
    _end_silently()
    from slipway._cli.terminal import guarded

    guarded(_run, sys.argv[1:] if arguments is None else arguments)


def _end_silently() -> None:
    """Let Ctrl-C end us without a traceback while we import; ``guarded`` knows better later."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(arguments: list[str]) -> int:
    from slipway._cli import run
    from slipway._cli.parsers import typed_name

    return run.command(arguments, typed_name())


def _command(arguments: list[str]) -> int:
    """Run the verb that comes first.

    Raises:
        SlipwayError: it could not be done.
    """
    from importlib import import_module

    from slipway._cli.parsers import mean, typed_name
    from slipway._cli.terminal import EXIT_USAGE, emit, show
    from slipway._model.errors import InputError

    name = typed_name()
    verb, *others = arguments or [""]
    if verb == "help" and others and others[0] not in {"-h", "--help", "help"}:
        verb, *others = [*others, "--help"]
    if verb in VERBS:
        code: int = import_module(f"slipway._cli.{verb}").command(others, f"{name} {verb}")
        return code
    if verb in {"-h", "--help", "help"}:
        emit(_usage(name))
        return 0
    if verb in {"-V", "--version", "version"}:
        emit(version())
        return 0
    if not verb:
        show(_usage(name))
        return EXIT_USAGE
    if verb.startswith("-"):
        raise InputError(f"unknown option {verb[:80]!r}", f"See: {name} --help")
    if os.path.isfile(verb):  # noqa: PTH113 - pathlib is for those who run something
        raise InputError(f"unknown verb {verb[:80]!r}", f"To run that file: {name} run {verb}")
    raise InputError(
        f"unknown verb {verb[:80]!r}",
        mean(verb, VERBS) or f"Verbs: {', '.join(VERBS)}. See: {name} --help",
    )


def _usage(name: str) -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
    return (
        f"usage: {name} VERB ...\n\n{verbs}\n\n"
        f"'{name} help VERB' tells more, '{name} --version' which version this is.\n"
    )
