"""Trial of what gateways need of this host, as its parent process sees it."""

from __future__ import annotations

import enum
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass

from slipway.machine.module_command import build_module_command

# A resolver that answers does so in a tenth of this, on a loaded host too.
TRIAL_SECONDS = 5.0


class ResolverAnswer(enum.Enum):
    """Answer of the host's resolver to the question for a public name."""

    RESOLVED = "resolved"
    UNKNOWN = "unknown"
    SILENT = "silent"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class GatewayTrial:
    """Findings about this host: ``failure`` says why a gateway cannot be confined, or is empty."""

    failure: str
    has_landlock: bool
    resolver: ResolverAnswer


def try_gateway() -> GatewayTrial:
    """Start a process that is confined as a gateway and looks one name up; wait for its end.

    The name is example.com, which is reserved for such use (RFC 2606, section 3). Only the host's
    resolver is asked, for at most :data:`TRIAL_SECONDS`.
    """
    command = build_module_command("slipway.machine.gateway.trial", ())
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        return GatewayTrial(f"{command[0]}: {error.strerror}", False, ResolverAnswer.UNTRIED)
    with process, ExitStack() as end:
        # A signal that interrupts the wait ends the trial as well.
        end.callback(process.kill)
        try:
            stdout, stderr = process.communicate(timeout=TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
    steps = stdout.decode("ascii", "replace").splitlines()
    if not steps:
        lines = stderr.decode("utf-8", "replace").splitlines() or ["no answer"]
        return GatewayTrial(lines[-1], False, ResolverAnswer.UNTRIED)
    resolver = ResolverAnswer(steps[1]) if len(steps) > 1 else ResolverAnswer.SILENT
    return GatewayTrial("", steps[0] == "confined", resolver)
