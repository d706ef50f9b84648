"""Run untrusted code in microVMs.

::

    import slipway

    result = slipway.run("print(1)", language="python")
    print(result.stdout, result.verdict)

:func:`run` waits; :func:`run_async` is the same for asyncio and can stream the output while it
comes. For many runs there are runtimes, which queue what the host has no room for:
:class:`Runtime` and :class:`AsyncRuntime` in this process, :class:`Client` and
:class:`AsyncClient` on a server (``slipway serve``). Their methods are the same: ``run``;
``start``, which gives a handle with events, stdin, signals and the result; and ``session``, a
machine for several runs, which keeps their files and can be forked.

All raise what is drawn in :class:`SlipwayError`'s module, never anything else of ours.
"""

from __future__ import annotations

from slipway._errors import (
    Busy,
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

    from slipway._admission import Load as Load
    from slipway._blocking import Client as Client
    from slipway._blocking import Runtime as Runtime
    from slipway._blocking_handles import Execution as Execution
    from slipway._blocking_handles import Session as Session
    from slipway._blocking_handles import Stdin as Stdin
    from slipway._client import AsyncClient as AsyncClient
    from slipway._client import Health as Health
    from slipway._events import Ended as Ended
    from slipway._events import Event as Event
    from slipway._events import Output as Output
    from slipway._events import PhaseEnded as PhaseEnded
    from slipway._events import PhaseStarted as PhaseStarted
    from slipway._events import Preparing as Preparing
    from slipway._events import Queued as Queued
    from slipway._events import Started as Started
    from slipway._execution import AsyncExecution as AsyncExecution
    from slipway._execution import AsyncStdin as AsyncStdin
    from slipway._known_languages import LanguageInfo as LanguageInfo
    from slipway._request import InputFile as InputFile
    from slipway._request import Options as Options
    from slipway._request import Tty as Tty
    from slipway._result import Captured as Captured
    from slipway._result import OutputFile as OutputFile
    from slipway._result import PhaseLimits as PhaseLimits
    from slipway._result import PhaseResult as PhaseResult
    from slipway._result import Provenance as Provenance
    from slipway._result import Result as Result
    from slipway._result import Timing as Timing
    from slipway._result import Usage as Usage
    from slipway._result import Verdict as Verdict
    from slipway._runtime import AsyncRuntime as AsyncRuntime
    from slipway._sessions import AsyncSession as AsyncSession
    from slipway._single_run import run as run
    from slipway._single_run import run_async as run_async
    from slipway_protocol import __version__ as __version__

# Imported when first asked for: the command line starts QEMU before it needs most of them, and the
# process of our VMM, which has this package on its path and no other, never does.
_HOMES = {
    "Load": "_admission",
    "Client": "_blocking",
    "Runtime": "_blocking",
    "Execution": "_blocking_handles",
    "Session": "_blocking_handles",
    "Stdin": "_blocking_handles",
    "AsyncClient": "_client",
    "Health": "_client",
    "Ended": "_events",
    "Event": "_events",
    "Output": "_events",
    "PhaseEnded": "_events",
    "PhaseStarted": "_events",
    "Preparing": "_events",
    "Queued": "_events",
    "Started": "_events",
    "AsyncExecution": "_execution",
    "AsyncStdin": "_execution",
    "InputFile": "_request",
    "Options": "_request",
    "Tty": "_request",
    "Captured": "_result",
    "OutputFile": "_result",
    "PhaseLimits": "_result",
    "PhaseResult": "_result",
    "Provenance": "_result",
    "Result": "_result",
    "Timing": "_result",
    "Usage": "_result",
    "Verdict": "_result",
    "run": "_single_run",
    "run_async": "_single_run",
    "AsyncRuntime": "_runtime",
    "LanguageInfo": "_known_languages",
    "AsyncSession": "_sessions",
}

__all__ = [
    "AsyncClient",
    "AsyncExecution",
    "AsyncRuntime",
    "AsyncSession",
    "AsyncStdin",
    "Busy",
    "Captured",
    "Client",
    "Ended",
    "Event",
    "Execution",
    "Health",
    "HostError",
    "ImageError",
    "InputError",
    "InputFile",
    "LanguageInfo",
    "Load",
    "Options",
    "Output",
    "OutputFile",
    "PhaseEnded",
    "PhaseLimits",
    "PhaseResult",
    "PhaseStarted",
    "Preparing",
    "ProgramError",
    "Provenance",
    "Queued",
    "Result",
    "Runtime",
    "Session",
    "SlipwayError",
    "Started",
    "Stdin",
    "Timing",
    "Tty",
    "UnknownOutcome",
    "Usage",
    "Verdict",
    "__version__",
    "run",
    "run_async",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"slipway.{_HOMES[name]}"), name)
    if name == "__version__":
        from slipway_protocol import __version__

        return __version__
    raise AttributeError(f"module 'slipway' has no attribute {name!r}")
