"""Program: its start time, commands and version."""

from __future__ import annotations

import sys
import time

# time.monotonic() before all other imports, as near to the start of the process as possible.
PROCESS_START = time.monotonic()

# Each is a module of this package with build_parser(prog) and run_command(arguments, prog).
COMMANDS = {
    "run": "run a program in a machine of its own (also: vmm-run FILE)",
    "serve": "run programs for other processes: an HTTP API on a Unix socket",
    "image": "build, list, inspect, export, import and remove language images",
    "kernel": "compile, list and choose the kernels that machines boot",
    "snapshot": "list and remove snapshots, from which machines are cloned",
    "mcp": "run programs for language models: an MCP server on stdin and stdout",
    "doctor": "check this host, and print a fix for each missing part",
    "completion": "print the completion script for bash, zsh or fish",
    "man": "print manual pages",
}


def format_version() -> str:
    """Return the output of ``--version``."""
    from slipway_protocol import __version__

    return f"slipway {__version__}\n"


def find_program_name() -> str:
    """Return the program's name as typed: slipway, vmm-run, or python -m slipway."""
    path = sys.argv[0]
    if path.endswith("__main__.py"):
        return "python -m slipway"
    return path.rpartition("/")[2] or "slipway"
