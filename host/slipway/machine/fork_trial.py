"""Trial of the fork of a process, as its parent process sees it."""

from __future__ import annotations

import subprocess

from slipway._util.text import to_plain_line
from slipway.machine.module_command import build_module_command

_TRIAL_SECONDS = 30.0


def try_fork() -> str:
    """Fork a small program in a process of its own; return the reason of a failure, or ""."""
    command = build_module_command("slipway.machine.fork.trial", ())
    try:
        finished = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    lines = finished.stdout.decode("utf-8", "replace").splitlines() or ["no answer"]
    return "" if lines[0] == "forked" else to_plain_line(lines[0])
