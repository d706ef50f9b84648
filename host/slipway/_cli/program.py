"""The program itself: its start, its verbs and its version."""

from __future__ import annotations

import time

# time.monotonic() at the start of the process, as nearly as Python tells: first of all imports.
BEGAN = time.monotonic()

# Each is a module of this package, with ``parser(prog)`` and ``command(arguments, prog)``.
VERBS = {
    "run": "run a program in a machine of its own (also: vmm-run FILE)",
    "serve": "offer running programs as an API on a Unix socket",
    "image": "build, list, inspect, choose, carry and remove language images",
    "snapshot": "list and remove what machines are cloned from",
    "mcp": "offer running code to a language model, as an MCP server on stdin and stdout",
    "doctor": "check what this host has, and how to mend what it lacks",
    "completion": "print what lets bash, zsh or fish complete these commands",
    "man": "print manual pages",
}


def version() -> str:
    """Return the line that tells this version."""
    from slipway_protocol import __version__

    return f"slipway {__version__}\n"
