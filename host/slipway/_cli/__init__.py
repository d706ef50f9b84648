"""The command line: ``slipway`` with its verbs, and ``vmm-run`` for the one used most."""

from __future__ import annotations

import signal
import sys
import time

TYPE_CHECKING = False  # before anything else that is slow to import, which typing is
if TYPE_CHECKING:
    from collections.abc import Callable

BEGAN = time.monotonic()

USAGE = """\
usage: slipway VERB ...

  run FILE [-- ARGS]   run a program in a machine of its own (also: vmm-run FILE)
  serve ...            offer running programs as an API on a Unix socket
  image ...            build, list, inspect, choose, remove and prune language images
  snapshot ...         list and remove what machines are cloned from
  mcp                  offer running code to a language model, as an MCP server on stdin and stdout
  doctor               check what this host has, and how to mend what it lacks

'slipway VERB --help' tells more.
"""


def main() -> None:
    """The ``slipway`` program."""
    _end_silently()
    arguments = sys.argv[1:]
    verb = arguments[0] if arguments else ""
    if verb == "run":
        vmm_run(arguments[1:])
    elif verb == "serve":
        from slipway._cli import serve

        _guarded(serve.command, arguments[1:])
    elif verb == "image":
        from slipway._cli import image

        _guarded(image.command, arguments[1:])
    elif verb == "snapshot":
        from slipway._cli import snapshot

        _guarded(snapshot.command, arguments[1:])
    elif verb == "mcp":
        from slipway._cli import mcp

        _guarded(mcp.command, arguments[1:])
    elif verb == "doctor":
        from slipway._cli import doctor

        _guarded(doctor.command, arguments[1:])
    elif verb in {"-h", "--help", "help"}:
        sys.stdout.write(USAGE)
    elif verb in {"-V", "--version"}:
        from slipway_protocol import __version__

        sys.stdout.write(f"slipway {__version__}\n")
    else:
        sys.stderr.write(f"slipway: there is no verb {verb!r}\n{USAGE}" if verb else USAGE)
        sys.exit(2)


def vmm_run(arguments: list[str] | None = None) -> None:
    """The ``vmm-run`` program."""
    _end_silently()
    from slipway._cli import run

    _guarded(run.command, sys.argv[1:] if arguments is None else arguments)


def _end_silently() -> None:
    """Let Ctrl-C end us without a traceback while we import; ``guarded`` knows better later."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _guarded(command: Callable[[list[str]], int], arguments: list[str]) -> None:
    from slipway._cli.terminal import guarded

    guarded(command, arguments)
