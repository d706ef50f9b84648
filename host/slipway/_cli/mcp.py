"""``slipway mcp``: run programs for language models, as an MCP server on stdin and stdout."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._cli.descriptors import DescriptorWorker, write_all
from slipway._cli.event_loop import run_interruptible
from slipway._cli.host_check import check_host
from slipway._cli.network_options import add_ceiling, read_ceiling
from slipway._cli.option_arguments import add_option
from slipway._cli.parser import Parser, add_store, rename_options_in_errors
from slipway._cli.quantities import parse_path
from slipway._model.runtime_options import RUNTIME_OPTIONS
from slipway._util.errors import HostError, InputError
from slipway._util.units import MIB, format_size

if TYPE_CHECKING:
    import argparse

    from slipway._local.runtime import AsyncRuntime
    from slipway._model.network import Network
    from slipway._remote.client import AsyncClient

READ_SIZE = 64 * 1024
# A model is not trusted as the user is, who can list further versions.
_SERVED = {
    "build": replace(
        RUNTIME_OPTIONS["build"],
        help="images that models may have made: none, listed ones, or any version of a language;"
        " with --api-sock, the server decides",
        choices=("never", "listed", "any"),
        default="listed",
    )
}
# Of one message; a job with its files is one.
MAX_MESSAGE = 64 * MIB


def run_command(arguments: list[str], prog: str) -> int:
    """Serve until the client closes stdin; return 0.

    Raises:
        SlipwayError: the server cannot start.
    """
    parser = build_parser(prog)
    parsed = parser.parse_args(arguments)
    is_local = parsed.store is not None or parsed.max_machines is not None
    if parsed.api_sock is not None and is_local:
        raise InputError(
            "--store and --max-machines are not available with --api-sock",
            "Leave out both, or --api-sock.",
        )
    ceiling = read_ceiling(parsed)
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise HostError(
            "the MCP SDK is not installed", "Install it: pip install 'slipway-vmm[mcp]'"
        ) from None
    if parsed.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="slipway: %(name)s: %(message)s")
    with rename_options_in_errors(parser):
        if parsed.api_sock is None:
            check_host(parsed.store, parsed.machine, parsed.arch, parsed.kernel)
        run_interruptible(lambda: _serve(parsed, ceiling))
    return 0


def build_parser(prog: str) -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog=prog,
        description="Serve the tools run_code and list_languages by the Model Context Protocol on"
        " stdin and stdout. An MCP client starts this program and ends it by closing stdin.",
    )
    add = parser.add_argument
    add(
        "--api-sock",
        type=parse_path,
        metavar="PATH",
        help="run on the server at this socket (slipway serve)",
    )
    for name in ("machine", "arch", "kernel", "max_machines", "build", "listed"):
        add_option(parser, _SERVED.get(name, RUNTIME_OPTIONS[name]))
    add_ceiling(add, "models", "; with --api-sock, that of the server holds as well")
    add_store(parser)
    add("--debug", action="store_true", help="show a log, and the traceback of an error")
    return parser


async def _serve(parsed: argparse.Namespace, ceiling: Network | None) -> None:
    from slipway._mcp.server import serve

    wire = _LineTransport()
    async with _make_runtime(parsed) as runtime:
        options = {"machine": parsed.machine, "arch": parsed.arch}
        if parsed.kernel is not None:
            options["kernel"] = parsed.kernel
        await serve(runtime, wire, wire, options, ceiling)
    if wire.too_long:
        raise InputError(
            f"message of the client over {format_size(MAX_MESSAGE)}",
            "Send fewer or smaller files with a call.",
        )


def _make_runtime(parsed: argparse.Namespace) -> AsyncRuntime | AsyncClient:
    if parsed.api_sock is not None:
        from slipway._remote.client import AsyncClient

        return AsyncClient(parsed.api_sock)
    from slipway._local.runtime import AsyncRuntime

    return AsyncRuntime(
        store=parsed.store,
        arch=parsed.arch,
        max_machines=parsed.max_machines,
        build=parsed.build,
        listed=parsed.listed,
    )


class _LineTransport:
    """Lines on duplicates of descriptors 0 and 1; the originals are taken from other code.

    The SDK's own transport has no bound for a line, and a process waits at exit for the thread
    that reads stdin, although the read may never return.
    """

    def __init__(self) -> None:
        self._in = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        self._out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        self._reader = DescriptorWorker()
        self._writer = DescriptorWorker()
        self._lines: list[bytes] = []
        self._rest: list[bytes] = []
        self._waiting = 0
        self.too_long = False

    def __aiter__(self) -> _LineTransport:
        return self

    async def __anext__(self) -> str:
        while not self._lines:
            data = await self._read()
            if not data:
                raise StopAsyncIteration
            first, *others = data.split(b"\n")
            self._rest.append(first)
            self._waiting += len(first)
            if others:
                self._lines = [b"".join(self._rest), *others[:-1]]
                self._lines.reverse()
                self._rest = [others[-1]]
                self._waiting = len(others[-1])
            if self._waiting > MAX_MESSAGE:
                self.too_long = True
                raise StopAsyncIteration
        return self._lines.pop().decode("utf-8", "replace")

    async def _read(self) -> bytes:
        try:
            data: bytes = await self._reader.call(lambda: os.read(self._in, READ_SIZE))
        except OSError:  # a hung-up terminal
            return b""
        return data

    async def write(self, text: str) -> None:
        """Write ``text``; if the client has closed stdout, the text is dropped."""
        with suppress(OSError):
            await self._writer.call(lambda: write_all(self._out, text.encode("utf-8")))

    async def flush(self) -> None:
        """Do nothing: writes are not buffered."""
