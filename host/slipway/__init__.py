"""Run untrusted code in microVMs.

::

    import slipway

    result = slipway.run("print(1)", language="python")
    print(result.stdout, result.verdict)

:func:`run` blocks; :func:`run_async` is for asyncio and can stream the output. Runtimes are for
many runs, with a queue: :class:`Runtime` and :class:`AsyncRuntime` in this process,
:class:`Client` and :class:`AsyncClient` on a server (``slipway serve``). All have the same
methods. ``run`` returns a result, ``start`` a handle with events, stdin and signals, and
``session`` a machine for several runs, which share its files; a session can be forked.

Errors are subclasses of :class:`SlipwayError`.
"""

from __future__ import annotations

from slipway._util.errors import (
    Busy,
    HostError,
    ImageError,
    InputError,
    SlipwayError,
    UnknownOutcome,
)

# Not from typing, whose import is a tenth of the start of a VMM.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from slipway._admission.ticket import Load as Load
    from slipway._blocking.handles import Execution as Execution
    from slipway._blocking.handles import Session as Session
    from slipway._blocking.handles import Stdin as Stdin
    from slipway._blocking.runtime import Client as Client
    from slipway._blocking.runtime import Runtime as Runtime
    from slipway._local.one_run import run as run
    from slipway._local.one_run import run_async as run_async
    from slipway._local.runtime import AsyncRuntime as AsyncRuntime
    from slipway._model.events import Ended as Ended
    from slipway._model.events import Event as Event
    from slipway._model.events import Output as Output
    from slipway._model.events import PhaseEnded as PhaseEnded
    from slipway._model.events import PhaseStarted as PhaseStarted
    from slipway._model.events import Preparing as Preparing
    from slipway._model.events import Queued as Queued
    from slipway._model.events import Started as Started
    from slipway._model.execution import AsyncExecution as AsyncExecution
    from slipway._model.execution import AsyncStdin as AsyncStdin
    from slipway._model.health import Health as Health
    from slipway._model.host_use import HostUse as HostUse
    from slipway._model.input_file import InputFile as InputFile
    from slipway._model.language_info import LanguageInfo as LanguageInfo
    from slipway._model.network import Network as Network
    from slipway._model.network_use import DeniedDestination as DeniedDestination
    from slipway._model.network_use import NetworkUse as NetworkUse
    from slipway._model.options import Options as Options
    from slipway._model.options import Tty as Tty
    from slipway._model.published_ports import PublishedPort as PublishedPort
    from slipway._model.result import Captured as Captured
    from slipway._model.result import OutputFile as OutputFile
    from slipway._model.result import PhaseLimits as PhaseLimits
    from slipway._model.result import PhaseResult as PhaseResult
    from slipway._model.result import ProgramError as ProgramError
    from slipway._model.result import Provenance as Provenance
    from slipway._model.result import Result as Result
    from slipway._model.result import Timing as Timing
    from slipway._model.result import Usage as Usage
    from slipway._model.result import Verdict as Verdict
    from slipway._model.session import AsyncSession as AsyncSession
    from slipway._remote.client import AsyncClient as AsyncClient
    from slipway_protocol import __version__ as __version__

# Imported when first asked for: the command line starts QEMU before it needs most of them, and the
# process of our VMM, which has this package on its path and no other, never does.
_HOMES = {
    "Load": "_admission.ticket",
    "Client": "_blocking.runtime",
    "Runtime": "_blocking.runtime",
    "Execution": "_blocking.handles",
    "Session": "_blocking.handles",
    "Stdin": "_blocking.handles",
    "AsyncClient": "_remote.client",
    "Ended": "_model.events",
    "Event": "_model.events",
    "Output": "_model.events",
    "PhaseEnded": "_model.events",
    "PhaseStarted": "_model.events",
    "Preparing": "_model.events",
    "Queued": "_model.events",
    "Started": "_model.events",
    "AsyncExecution": "_model.execution",
    "AsyncStdin": "_model.execution",
    "Health": "_model.health",
    "HostUse": "_model.host_use",
    "InputFile": "_model.input_file",
    "DeniedDestination": "_model.network_use",
    "Network": "_model.network",
    "NetworkUse": "_model.network_use",
    "PublishedPort": "_model.published_ports",
    "Options": "_model.options",
    "Tty": "_model.options",
    "Captured": "_model.result",
    "OutputFile": "_model.result",
    "PhaseLimits": "_model.result",
    "PhaseResult": "_model.result",
    "ProgramError": "_model.result",
    "Provenance": "_model.result",
    "Result": "_model.result",
    "Timing": "_model.result",
    "Usage": "_model.result",
    "Verdict": "_model.result",
    "run": "_local.one_run",
    "run_async": "_local.one_run",
    "AsyncRuntime": "_local.runtime",
    "LanguageInfo": "_model.language_info",
    "AsyncSession": "_model.session",
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
    "DeniedDestination",
    "Ended",
    "Event",
    "Execution",
    "Health",
    "HostError",
    "HostUse",
    "ImageError",
    "InputError",
    "InputFile",
    "LanguageInfo",
    "Load",
    "Network",
    "NetworkUse",
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
    "PublishedPort",
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
