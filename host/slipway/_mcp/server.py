"""The tools ``run_code`` and ``list_languages`` of an MCP server.

Of a runtime in this process or a client of a server, which have the same methods.
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
from slipway._mcp.forms import Job, LanguageForm, Languages, Outcome, outcome
from slipway._model.errors import HostError, InputError, SlipwayError
from slipway._model.events import Ended, Output, PhaseStarted, Preparing, Queued, Started
from slipway._util.near_names import hint_at
from slipway_protocol import __version__

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from pydantic import BaseModel

    from slipway._local.runtime import AsyncRuntime
    from slipway._model.events import Event
    from slipway._model.result import Result
    from slipway._remote.client import AsyncClient

    Context = ServerRequestContext[dict[str, Any], Any]

log = logging.getLogger("slipway.mcp")
log.addHandler(logging.NullHandler())

INSTRUCTIONS = (
    "Runs programs in virtual machines of their own, which have no network and are thrown away "
    "after each run: nothing is kept from one run to the next. Read the verdict first."
)
SEE = "See the input schema of run_code."
RUN_CODE = (
    "Compile and run a program in a new virtual machine without a network, and give its output, "
    "exit code and verdict. Of stdout, stderr and the compiler's output at most 32 KiB each are "
    "given, of fetched files 32 KiB together; what is cut is marked. A program that fails is no "
    "error of this tool: its verdict tells."
)
LIST_LANGUAGES = "The languages and versions that run_code knows."

TOOLS = [
    Tool(
        name="run_code",
        description=RUN_CODE,
        input_schema=Job.model_json_schema(),
        output_schema=Outcome.model_json_schema(),
        annotations=ToolAnnotations(
            title="Run code", destructive_hint=False, idempotent_hint=False, open_world_hint=False
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
    runtime: AsyncRuntime | AsyncClient, stdin: Any, stdout: Any, options: dict[str, Any]
) -> None:
    """Serve one client until ``stdin`` ends; runs that are not over then are cancelled.

    Args:
        runtime: what runs the programs. It is not closed.
        stdin: an asynchronous iterator over lines of text.
        stdout: has ``await write(text)`` and ``await flush()``.
        options: fields of :class:`slipway.Options` for each run.
    """
    tools = _Tools(runtime, options)
    server = Server[dict[str, Any]](
        "slipway",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=tools.listing,
        on_call_tool=tools.call,
    )
    async with stdio_server(stdin, stdout) as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


class _Tools:
    """The handlers of requests."""

    def __init__(self, runtime: AsyncRuntime | AsyncClient, options: dict[str, Any]) -> None:
        self._runtime = runtime
        self._options = options

    async def listing(
        self, _context: Context, _params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=TOOLS)

    async def call(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        handlers = {"run_code": self._run_code, "list_languages": self._list_languages}
        handler = handlers.get(params.name)
        if handler is None:
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name!r:.80}")
        try:
            form = await handler(context, params.arguments or {})
        except SlipwayError as error:
            return _failed(error)
        except Exception as error:
            log.exception("a call ended by a bug")
            return _failed(
                HostError(f"{type(error).__name__}: {error}", "This is a bug of Slipway's.")
            )
        return CallToolResult(
            # The same as text, for clients that do not know structured content.
            content=[TextContent(text=form.model_dump_json(exclude_defaults=True))],
            structured_content=form.model_dump(mode="json"),
        )

    async def _list_languages(self, _context: Context, arguments: dict[str, Any]) -> BaseModel:
        if arguments:
            raise InputError("list_languages takes no arguments", "Leave them out.")
        return Languages(
            languages=[
                LanguageForm(
                    name=language.name,
                    aliases=list(language.aliases),
                    versions=list(language.versions),
                    ready=language.built,
                    toolchain=language.toolchain,
                    toolchains=dict(language.toolchains),
                )
                for language in await self._runtime.languages()
            ]
        )

    async def _run_code(self, context: Context, arguments: dict[str, Any]) -> BaseModel:
        job = _job(arguments)
        execution = await self._runtime.start(
            job.source,
            job.language,
            stdin=job.input(),
            **self._options,
            **job.options(),
        )
        heard = {name: Excerpt() for name in ("stdout", "stderr", "build_output")}
        steps = 0
        try:
            async for event in execution:
                if isinstance(event, Output):
                    heard[event.stream if event.phase == "run" else "build_output"].add(event.data)
                elif isinstance(event, Ended):
                    result: Result = event.result
                elif line := _line(event):
                    steps += 1
                    # Nothing is sent where the client has not asked for it.
                    await context.session.report_progress(steps, message=line)
        finally:
            # A call is cancelled by a scope in which each await is cancelled anew.
            with anyio.CancelScope(shield=True):
                await execution.cancel()
        return outcome(result, heard)


def _line(event: Event) -> str:
    """``event`` for a person who waits, or ""."""
    match event:
        case Queued(position=position):
            return f"waiting for room; {position} are before this one"
        case Preparing(detail=detail):
            return detail
        case Started(machine=machine):
            return f"the machine ({machine}) has booted"
        case PhaseStarted(phase=phase):
            return "building" if phase == "build" else "running"
    return ""


def _job(arguments: dict[str, Any]) -> Job:
    try:
        return Job.model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            hint = hint_at(where, Job.model_fields, SEE)
            raise InputError(f"run_code has no argument {where!r:.80}", hint) from None
        what = first["msg"][:200].lower().removeprefix("input ")
        raise InputError(f"the argument {where!r:.80} is wrong: {what}", SEE) from None


def _failed(error: SlipwayError) -> CallToolResult:
    text = f"{error.message}\n{error.hint}" if error.hint else error.message
    return CallToolResult(content=[TextContent(text=text)], is_error=True)
