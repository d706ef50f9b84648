"""Server of the same user that ``slipway run`` finds by itself."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from slipway._cli.terminal import write_line
from slipway._util.default_socket import find_default_socket
from slipway._util.errors import InputError, SlipwayError, UnknownOutcome

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from slipway._model.health import Health
    from slipway._model.options import Options
    from slipway._model.result import Result

# Seconds until a server that hangs is left alone.
PROBE_SECONDS = 3.0
_WRITABLE_BY_OTHERS = 0o022


def run_on_found_server(
    parsed: argparse.Namespace, options: Options, read: Callable[[], bytes]
) -> Result | None:
    """Run a program on the user's server; None if none can run it, and nothing was started.

    ``read`` returns the source. The reason is reported with ``--verbose``, and always if the server
    is of another version.

    Raises:
        SlipwayError: the run failed.
        UnknownOutcome: the server went away after the request to start.
    """
    path = find_default_socket(os.environ)
    if path is None or not os.path.lexists(path):
        return None
    reason = find_distrust(path) or _find_local_reason(parsed)
    if reason:
        _report(path, reason, parsed.verbose)
        return None
    return _try_server(path, parsed, options, read())


def _try_server(
    path: str, parsed: argparse.Namespace, options: Options, source: bytes
) -> Result | None:
    from slipway._cli.run_server import ServerRun, build_request
    from slipway._cli.signal_gate import SignalGate
    from slipway._remote.answers import DEFAULT_TIMEOUT, decode_health
    from slipway._remote.blocking_api import BlockingApi

    with SignalGate() as gate:
        try:
            probe = BlockingApi(path, PROBE_SECONDS, gate, os.geteuid())
            health = decode_health(probe.request("GET", "/v1/health"))
            if reason := _find_difference(health):
                _report(path, reason, True)
                return None
            if reason := _find_other_store(health):
                _report(path, reason, parsed.verbose)
                return None
            request = build_request(probe, parsed, source, options)
        except SlipwayError as error:
            _report(path, error.message, parsed.verbose)
            return None
        api = BlockingApi(path, DEFAULT_TIMEOUT, gate, os.geteuid())
        run = ServerRun(api, gate)
        try:
            started = run.start(request)
        except UnknownOutcome:
            raise
        except SlipwayError as error:  # the server refused: nothing was started
            _report(path, error.message, parsed.verbose)
            return None
        if parsed.verbose:
            write_line(f"on the server at {path}")
        return run.follow(started, parsed)


def find_distrust(path: str) -> str:
    """Return the reason why the socket at ``path`` is not used, or nothing.

    Directory and socket have to belong to this user, and no other user may replace the socket. The
    mode of the socket itself is not checked: other users may be clients of the server.
    """
    user = os.geteuid()
    try:
        directory, found = os.lstat(os.path.dirname(path)), os.lstat(path)  # noqa: PTH120
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    if not stat.S_ISDIR(directory.st_mode):
        return "its directory is a link or a file"
    if not stat.S_ISSOCK(found.st_mode):
        return "it is no socket"
    if directory.st_uid != user or found.st_uid != user:
        return "it belongs to another user"
    if directory.st_mode & _WRITABLE_BY_OTHERS:
        return "other users can write to its directory"
    return ""


def _find_local_reason(parsed: argparse.Namespace) -> str:
    """Return the reason why a run has options of a machine of this process, or nothing."""
    from slipway._cli.run_server import find_local_option

    flag = find_local_option(parsed)
    if not flag and (parsed.network or parsed.allow or parsed.publish):
        # A server has a ceiling of networks, and its own paths and ports.
        flag = "a network"
    return f"{flag} needs a machine of this command" if flag else ""


def _find_difference(health: Health) -> str:
    from slipway_protocol import __version__

    if health.version == __version__:
        return ""
    return (
        f"it is of version {health.version:.40}, and this command of {__version__};"
        " restart the server, or use --no-server"
    )


def _find_other_store(health: Health) -> str:
    from slipway_initramfs.store.root import default_root

    ours = os.path.realpath(default_root())
    if health.store and os.path.realpath(health.store) == ours:
        return ""
    return f"it has another image store: {health.store:.200}"


def _report(path: str, reason: str, wanted: bool) -> None:
    if wanted:
        write_line(f"the server at {path} is not used: {reason}")


def check_choice_of_server(parsed: argparse.Namespace) -> None:
    """Check that the options name a server or none.

    Raises:
        InputError: they do both.
    """
    if parsed.no_server and parsed.api_sock is not None:
        raise InputError("--no-server and --api-sock exclude each other", "Leave out one.")
