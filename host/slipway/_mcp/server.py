"""MCP server with the tools ``run_code`` and ``list_languages``.

The tools use a runtime in this process or a client of a server, which have the same methods.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import ValidationError

from slipway._mcp.excerpt import Excerpt
from slipway._mcp.forms import LanguageForm, Languages, Outcome, RunCodeArguments, build_outcome
from slipway._model.events import Ended, Output, PhaseStarted, Preparing, Queued, Started
from slipway._model.network_ceiling import check_ceiling
from slipway._util.errors import HostError, InputError, SlipwayError
from slipway._util.near_names import suggest_name
from slipway._wire.option_models import read_options
from slipway_protocol import __version__

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from pydantic import BaseModel

    from slipway._local.runtime import AsyncRuntime
    from slipway._model.events import Event
    from slipway._model.network import Network
    from slipway._model.result import Result
    from slipway._remote.client import AsyncClient

    Context = ServerRequestContext[dict[str, Any], Any]

log = logging.getLogger("slipway.mcp")
log.addHandler(logging.NullHandler())

INSTRUCTIONS = (
    "Runs each program in a new virtual machine, which is deleted after the run: nothing is kept "
    "from one run to the next. It has no network, except to the destinations that you allow and "
    "the user permits. Read the verdict first."
)
SEE = "See the input schema of run_code."
RUN_CODE = (
    "Compile and run a program in a new virtual machine without a network, or with one to the "
    "destinations of 'network', and return its output, "
    "exit code and verdict. stdout, stderr and the compiler's output have at most 32 KiB each, all "
    "output files 32 KiB together; cuts are marked. A program that fails is not an error of this "
    "tool: see its verdict."
)
LIST_LANGUAGES = "List the languages and versions that run_code supports."


def build_tools(ceiling: Network | None) -> list[Tool]:
    """Return the descriptions of the tools; that of ``run_code`` names the permitted destinations.

    A model cannot know otherwise which destinations it may ask for. A server may permit fewer of
    them, and then names its ceiling in the error.
    """
    allowed = ", ".join(ceiling.allow) if ceiling else "none"
    return [
        Tool(
            name="run_code",
            description=f"{RUN_CODE} Destinations that the user permits: {allowed}.",
            input_schema=RunCodeArguments.model_json_schema(),
            output_schema=Outcome.model_json_schema(),
            annotations=ToolAnnotations(
                title="Run code",
                destructive_hint=False,
                idempotent_hint=False,
                open_world_hint=ceiling is not None,
            ),
        ),
        Tool(
            name="list_languages",
            description=LIST_LANGUAGES,
            input_schema={"type": "object", "properties": {}, "additionalProperties": False},
            output_schema=Languages.model_json_schema(),
            annotations=ToolAnnotations(
                title="List languages", read_only_hint=True, open_world_hint=False
            ),
        ),
    ]


async def serve(
    runtime: AsyncRuntime | AsyncClient,
    stdin: Any,
    stdout: Any,
    options: dict[str, Any],
    ceiling: Network | None = None,
) -> None:
    """Serve one client until ``stdin`` ends; then cancel all runs that are not over.

    Args:
        runtime: runs the programs. The caller closes it.
        stdin: asynchronous iterator over lines of text.
        stdout: object with ``await write(text)`` and ``await flush()``.
        options: fields of :class:`slipway.Options` for each run.
        ceiling: bounds the network that the client may request; None allows none.
    """
    tools = _Tools(runtime, options, ceiling)
    server = Server[dict[str, Any]](
        "slipway",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=tools.list_tools,
        on_call_tool=tools.call_tool,
    )
    async with stdio_server(stdin, stdout) as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


class _Tools:
    """Handlers of the requests of one client."""

    def __init__(
        self,
        runtime: AsyncRuntime | AsyncClient,
        options: dict[str, Any],
        ceiling: Network | None,
    ) -> None:
        self._runtime = runtime
        self._options = options
        self._ceiling = ceiling

    async def list_tools(
        self, _context: Context, _params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=build_tools(self._ceiling))

    async def call_tool(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        handlers = {"run_code": self._run_code, "list_languages": self._list_languages}
        handler = handlers.get(params.name)
        if handler is None:
            raise MCPError(INVALID_PARAMS, f"unknown tool {params.name!r:.80}")
        try:
            form = await handler(context, params.arguments or {})
        except SlipwayError as error:
            return _build_error(error)
        except Exception as error:
            log.exception("bug in a call of %.80r", params.name)
            return _build_error(
                HostError(f"{type(error).__name__}: {error}", "This is a bug in Slipway.")
            )
        return CallToolResult(
            # The same as text, for clients without support for structured content.
            content=[TextContent(text=form.model_dump_json(exclude_defaults=True))],
            structured_content=form.model_dump(mode="json"),
        )

    async def _list_languages(self, _context: Context, arguments: dict[str, Any]) -> BaseModel:
        if arguments:
            raise InputError("list_languages takes no arguments", "Leave them out.")
        arch = self._options["arch"]
        return Languages(
            languages=[
                LanguageForm(
                    name=language.name,
                    aliases=list(language.aliases),
                    versions=list(language.versions),
                    ready=language.built if arch == "auto" else arch in language.architectures,
                    toolchain=language.toolchain,
                    toolchains=dict(language.toolchains),
                    architectures=list(language.architectures),
                )
                for language in await self._runtime.languages()
            ]
        )

    async def _run_code(self, context: Context, arguments: dict[str, Any]) -> BaseModel:
        wanted = _parse_arguments(arguments)
        network = wanted.read_network()
        check_ceiling(network, self._ceiling, "slipway mcp")
        options = {**read_options(wanted), "network": network}
        execution = await self._runtime.start(
            wanted.source,
            wanted.language,
            stdin=wanted.decode_stdin(),
            **{**self._options, **options},
        )
        output = {name: Excerpt() for name in ("stdout", "stderr", "build_output")}
        steps = 0
        try:
            async for event in execution:
                if isinstance(event, Output):
                    name = event.stream if event.phase == "run" else "build_output"
                    output[name].add(event.data)
                elif isinstance(event, Ended):
                    result: Result = event.result
                elif line := _describe_event(event):
                    steps += 1
                    # The SDK sends nothing to clients that have not requested progress.
                    await context.session.report_progress(steps, message=line)
        finally:
            # anyio cancels every await in the cancelled scope of a call.
            with anyio.CancelScope(shield=True):
                await execution.cancel()
        return build_outcome(result, output)


def _describe_event(event: Event) -> str:
    """Return a progress message for a user; "" for events without a message."""
    match event:
        case Queued(position=position):
            return f"in the queue, {position} runs before this run"
        case Preparing(detail=detail):
            return detail
        case Started(machine=machine):
            return f"the machine ({machine}) is ready"
        case PhaseStarted(phase=phase):
            return "building" if phase == "build" else "running"
    return ""


def _parse_arguments(arguments: dict[str, Any]) -> RunCodeArguments:
    try:
        return RunCodeArguments.model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            hint = suggest_name(where, RunCodeArguments.model_fields, SEE)
            raise InputError(f"unknown argument {where!r:.80} of run_code", hint) from None
        reason = first["msg"][:200].lower().removeprefix("input ")
        raise InputError(f"invalid argument {where!r:.80}: {reason}", SEE) from None


def _build_error(error: SlipwayError) -> CallToolResult:
    text = f"{error.message}\n{error.hint}" if error.hint else error.message
    return CallToolResult(content=[TextContent(text=text)], is_error=True)
