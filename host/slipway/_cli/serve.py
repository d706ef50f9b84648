"""``slipway serve``: run programs for other processes, by an HTTP API on a Unix socket."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._cli.network_options import add_ceiling, read_ceiling
from slipway._cli.option_arguments import add_option
from slipway._cli.parser import Parser, add_store, rename_options_in_errors
from slipway._cli.quantities import parse_path
from slipway._cli.snapshot_budget import read_snapshot_budget
from slipway._model.runtime_options import RUNTIME_OPTIONS
from slipway._server.kept.retention import ClientTimeouts, KeptBounds
from slipway._server.settings import (
    KEPT_OPTIONS,
    SERVER_OPTIONS,
    TIMEOUT_OPTIONS,
    ServerSettings,
)
from slipway._util.default_socket import find_default_socket
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from slipway._model.option import Option
    from slipway._server.socket_access import SocketAccess

DESCRIPTION = """\
Serve HTTP/1.1 on a Unix socket. Each run has an output socket of its own.
On SIGTERM or Ctrl-C the server finishes its runs and ends; a second signal ends it at once.
"""


# A server creates snapshots unless it is told not to; a program's own runtime does not.
DEFAULT_POOL = 1
_SERVED = {
    "pool": replace(
        RUNTIME_OPTIONS["pool"],
        help="idle clones kept ready for each language, 0 to turn the pool off",
        default=None,
        default_help=str(DEFAULT_POOL),
    )
}


def run_command(arguments: list[str], prog: str) -> int:
    """Serve until a signal is received; return 0.

    Raises:
        SlipwayError: the server cannot start.
    """
    parser = build_parser(prog)
    parsed = parser.parse_args(arguments)
    _configure_logging(parsed.debug)
    with rename_options_in_errors(parser):
        asyncio.run(_serve(parsed, os.environ))
    return 0


def build_parser(prog: str) -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [--api-sock PATH] [options]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--api-sock",
        type=parse_path,
        metavar="PATH",
        help="socket of the API, unless systemd passes one "
        "(default: $XDG_RUNTIME_DIR/slipway/api, where vmm-run finds it)",
    )
    add(
        "--mode",
        type=_parse_mode,
        default=0o600,
        metavar="OCTAL",
        help="permissions of the sockets (default: 0600)",
    )
    add("--owner", metavar="USER[:GROUP]", help="owner of the sockets, if this user may set it")
    add(
        "--allow",
        action="append",
        default=[],
        metavar="USER",
        help="USER, @GROUP or * that may connect, besides root and this user (repeatable)",
    )
    for option in RUNTIME_OPTIONS.values():
        if option.name != "store":
            add_option(parser, _SERVED.get(option.name, option))
    add_ceiling(add, "clients")
    add_store(parser)
    for options in (SERVER_OPTIONS, KEPT_OPTIONS, TIMEOUT_OPTIONS):
        for option in options.values():
            add_option(parser, option)
    add("--debug", action="store_true", help="log more, and show the traceback of an error")
    return parser


def _parse_mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is not a mode; use octal digits such as 0660"
        )
    return mode


def _configure_logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("slipway: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("slipway").setLevel(logging.DEBUG if debug else logging.INFO)
    # Errors of clients are reported to the clients.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


async def _serve(parsed: argparse.Namespace, environment: MutableMapping[str, str]) -> None:
    from slipway._cli.host_check import check_host
    from slipway._local.runtime import AsyncRuntime
    from slipway._server.default_directory import create_default_directory
    from slipway._server.server import Server
    from slipway._server.systemd import Notifier, take_inherited_socket

    notify = Notifier(environment)
    inherited = take_inherited_socket(environment)
    path = None if inherited is None else _find_socket_path(inherited.getsockname())
    default = _find_default_path(environment) if (path or parsed.api_sock) is None else None
    settings = _read_settings(parsed, path or default)
    check_host(parsed.store, parsed.machine, parsed.arch, parsed.kernel)
    given = {"pool": _find_pool_size(parsed), "snapshot_budget": read_snapshot_budget(parsed)}
    runtime = AsyncRuntime(**{**_select(parsed, RUNTIME_OPTIONS), **given})
    server = Server(settings, runtime, notify)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    # Modules and their classes live as long as we do: the collector need not walk them again and
    # again, which was a fifth of the starts that a second has room for.
    gc.collect()
    gc.freeze()
    with create_default_directory(default.parent) if default is not None else nullcontext():
        await server.serve(inherited)


def _find_default_path(environment: Mapping[str, str]) -> Path:
    path = find_default_socket(environment)
    if path is None:
        raise InputError(
            "missing --api-sock, and XDG_RUNTIME_DIR is not set",
            "Name a socket: slipway serve --api-sock PATH",
        )
    return Path(path)


def _find_socket_path(name: object) -> Path:
    from slipway._server.systemd import parse_socket_name

    return Path(parse_socket_name(name))


def _find_pool_size(parsed: argparse.Namespace) -> int:
    if parsed.pool is None:
        return 0 if parsed.cold else DEFAULT_POOL
    return int(parsed.pool)


def _read_settings(parsed: argparse.Namespace, unnamed: Path | None) -> ServerSettings:
    """Return the settings; ``unnamed`` is the socket that ``--api-sock`` does not name.

    Raises:
        InputError: two sockets, or an invalid value.
    """
    from slipway._server.peers import AllowList
    from slipway._server.systemd import raise_descriptor_limit

    if unnamed is not None and parsed.api_sock is not None:
        raise InputError(
            f"--api-sock, and the socket {unnamed} from systemd, exclude each other",
            "Leave out --api-sock.",
        )
    return ServerSettings(
        api_socket=unnamed or parsed.api_sock,
        access=_read_access(parsed),
        allowed=AllowList.parse(os.geteuid(), parsed.allow),
        timeouts=ClientTimeouts(**_select(parsed, TIMEOUT_OPTIONS)),
        kept=KeptBounds(**_select(parsed, KEPT_OPTIONS)),
        descriptors=raise_descriptor_limit(),
        ceiling=read_ceiling(parsed),
        **_select(parsed, SERVER_OPTIONS),
    )


def _select(parsed: argparse.Namespace, options: Mapping[str, Option]) -> dict[str, Any]:
    """Return the values of ``options`` as arguments of their class."""
    return {name: getattr(parsed, name) for name in options}


def _read_access(parsed: argparse.Namespace) -> SocketAccess:
    from slipway._server.peers import find_group_id, find_user_id
    from slipway._server.socket_access import UNCHANGED, SocketAccess

    user, _, group = (parsed.owner or "").partition(":")
    return SocketAccess(
        parsed.mode,
        find_user_id(user) if user else UNCHANGED,
        find_group_id(group) if group else UNCHANGED,
    )
