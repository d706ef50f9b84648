"""Run untrusted code in microVMs.

::

    import slipway

    result = slipway.run("print(1)", language="python")
    print(result.stdout, result.verdict)

:func:`run` waits; :func:`run_async` is the same for asyncio and can stream the output while it
comes. Both raise what is drawn in :class:`SlipwayError`'s module, never anything else of ours.
"""

from __future__ import annotations

from slipway._errors import (
    HostError,
    ImageError,
    InputError,
    ProgramError,
    SlipwayError,
    UnknownOutcome,
)

# Not from typing, whose import is a tenth of the start of a VMM.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from slipway._request import InputFile as InputFile
    from slipway._request import Options as Options
    from slipway._result import Captured as Captured
    from slipway._result import OutputFile as OutputFile
    from slipway._result import PhaseResult as PhaseResult
    from slipway._result import Result as Result
    from slipway._result import Timing as Timing
    from slipway._result import Usage as Usage
    from slipway._result import Verdict as Verdict
    from slipway._run import run as run
    from slipway._run import run_async as run_async

# Imported when first asked for: the command line starts QEMU before it needs most of them.
_HOMES = {
    "InputFile": "_request",
    "Options": "_request",
    "Captured": "_result",
    "OutputFile": "_result",
    "PhaseResult": "_result",
    "Result": "_result",
    "Timing": "_result",
    "Usage": "_result",
    "Verdict": "_result",
    "run": "_run",
    "run_async": "_run",
}

__all__ = [
    "Captured",
    "HostError",
    "ImageError",
    "InputError",
    "InputFile",
    "Options",
    "OutputFile",
    "PhaseResult",
    "ProgramError",
    "Result",
    "SlipwayError",
    "Timing",
    "UnknownOutcome",
    "Usage",
    "Verdict",
    "run",
    "run_async",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"slipway.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'slipway' has no attribute {name!r}")
