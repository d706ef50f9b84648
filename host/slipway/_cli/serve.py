"""``slipway serve``: the API on a Unix socket."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._cli.parsers import Parser, add_store, options_named
from slipway._cli.quantities import count, duration, file_path, size
from slipway._model.errors import InputError
from slipway.machine.hypervisors import HYPERVISORS

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from slipway._server.server import ServerSettings
    from slipway._server.socket_access import SocketAccess

DESCRIPTION = """\
Serve HTTP/1.1 on a Unix socket: start runs, and give their output through sockets of their own.
The server ends on SIGTERM or Ctrl-C when what runs has ended, and at once when it is told again.
What is in parentheses is used where an option is left out.
"""


def command(arguments: list[str], prog: str) -> int:
    """Serve until a signal comes; 0.

    Raises:
        SlipwayError: it cannot be served.
    """
    described = parser(prog)
    parsed = described.parse_args(arguments)
    _log(parsed.debug)
    with options_named(described):
        asyncio.run(_serve(parsed, os.environ))
    return 0


def parser(prog: str) -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} --api-sock PATH [options]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--api-sock",
        type=file_path,
        metavar="PATH",
        help="the socket; systemd may give one instead",
    )
    add("--mode", type=_mode, default=0o600, metavar="OCTAL", help="of the sockets (0600)")
    add("--owner", metavar="USER[:GROUP]", help="of the sockets, where this user may give them")
    add(
        "--allow",
        action="append",
        default=[],
        metavar="WHO",
        help="USER, @GROUP or *: who may connect beside root and this user; may be given again",
    )
    add("--max-vms", type=count, metavar="N", help="machines at once (as CPUs and memory allow)")
    add(
        "--memory-budget",
        type=size,
        metavar="SIZE",
        help="of all machines, in MiB, or 512M, 8G (80%% of what is free)",
    )
    add("--cpus", type=count, metavar="N", help="vCPUs of all machines (as this host has)")
    add(
        "--max-sessions",
        type=count,
        metavar="N",
        help="sessions at once, to leave room for other runs (as many as machines)",
    )
    add("--queue", type=count, default=64, metavar="N", help="runs that may wait (64)")
    add("--machine", default="auto", choices=("auto", *HYPERVISORS), help="what to run on (auto)")
    add(
        "--pool",
        type=count,
        metavar="N",
        help="clones of each language's machine that may wait for runs; 0 for none (1)",
    )
    add(
        "--warm",
        action="append",
        default=[],
        metavar="LANGUAGE",
        help="have clones wait before the first run, --pool of them; may be given again",
    )
    add("--cold", action="store_true", help="boot a machine for each run: no snapshots, no pool")
    add_store(parser)
    add("--run-dir", type=file_path, metavar="DIR", help="of the output sockets (PATH.d)")
    add("--body-limit", type=size, default=size("64"), metavar="SIZE", help="of a job (64M)")
    add("--reconnect", type=duration, default=10, metavar="S", help="for a client that left (10)")
    add("--grace", type=duration, default=60, metavar="S", help="for unread output (60)")
    add("--stall", type=duration, default=300, metavar="S", help="for a blocked program (300)")
    add("--drain", type=duration, default=30, metavar="S", help="for runs at the end (30)")
    add("--debug", action="store_true", help="log more, and show the traceback of an error")
    return parser


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a mode such as 0660")
    return mode


def _log(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("slipway: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("slipway").setLevel(logging.DEBUG if debug else logging.INFO)
    # What clients do wrong is for them to hear of.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


async def _serve(parsed: argparse.Namespace, environment: MutableMapping[str, str]) -> None:
    from slipway._cli.host_check import check_host
    from slipway._local.runtime import AsyncRuntime
    from slipway._server.server import Server
    from slipway._server.systemd import Notifier, take_inherited_socket

    notify = Notifier(environment)
    inherited = take_inherited_socket(environment)
    path = None if inherited is None else _path(inherited.getsockname())
    settings = _settings(parsed, path)
    check_host(parsed.store, parsed.machine)
    runtime = AsyncRuntime(
        store=parsed.store,
        machine=parsed.machine,
        max_vms=parsed.max_vms,
        memory_budget=parsed.memory_budget,
        cpus=parsed.cpus,
        queue=parsed.queue,
        pool=_pool(parsed),
        cold=parsed.cold,
        warm=parsed.warm,
    )
    server = Server(settings, runtime, notify)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    # Modules and their classes live as long as we do: the collector need not walk them again and
    # again, which was a fifth of the starts that a second has room for.
    gc.collect()
    gc.freeze()
    await server.serve(inherited)


def _path(name: object) -> Path:
    from slipway._server.systemd import parse_socket_name

    return Path(parse_socket_name(name))


def _pool(parsed: argparse.Namespace) -> int:
    if parsed.pool is None:
        return 0 if parsed.cold else 1
    return int(parsed.pool)


def _settings(parsed: argparse.Namespace, inherited: Path | None) -> ServerSettings:
    from slipway._server.kept.retention import ClientTimeouts
    from slipway._server.peers import AllowList
    from slipway._server.server import ServerSettings
    from slipway._server.systemd import raise_descriptor_limit

    if parsed.max_sessions is not None and parsed.max_sessions < 0:
        raise InputError(
            f"max_sessions is {parsed.max_sessions}, and must be at least 0", "0 is for none."
        )
    if parsed.body_limit <= 0:
        raise InputError(
            f"body_limit is {parsed.body_limit}, and must be more than 0",
            "Leave out --body-limit for 64M.",
        )
    if parsed.cold and parsed.pool:
        raise InputError(
            f"--cold has no snapshots, and --pool {parsed.pool} is to be of their clones",
            "Leave one of them out.",
        )
    if parsed.warm and not _pool(parsed):
        raise InputError(
            f"no clone waits with {'--cold' if parsed.cold else '--pool 0'}, and --warm is given",
            "Leave one of them out.",
        )
    path = inherited or parsed.api_sock
    if path is None:
        raise InputError("there is no socket to serve", "Name one: slipway serve --api-sock PATH")
    if inherited is not None and parsed.api_sock is not None:
        raise InputError(
            f"systemd passes the socket {inherited}, and --api-sock names one as well",
            "Leave --api-sock out.",
        )
    return ServerSettings(
        api_socket=path,
        run_directory=parsed.run_dir,
        access=_access(parsed),
        allowed=AllowList.parse(os.geteuid(), parsed.allow),
        timeouts=ClientTimeouts(parsed.reconnect, parsed.grace, parsed.stall),
        body_limit=parsed.body_limit,
        drain=parsed.drain,
        descriptors=raise_descriptor_limit(),
        sessions=parsed.max_sessions,
    )


def _access(parsed: argparse.Namespace) -> SocketAccess:
    from slipway._server.peers import find_group_id, find_user_id
    from slipway._server.socket_access import UNCHANGED, SocketAccess

    user, _, group = (parsed.owner or "").partition(":")
    return SocketAccess(
        parsed.mode,
        find_user_id(user) if user else UNCHANGED,
        find_group_id(group) if group else UNCHANGED,
    )
