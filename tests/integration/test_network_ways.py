"""The option ``network`` in each way to a run: the same rules, the same answers, real gateways.

The machines are fake, their gateways are not. The command line and the tool for models are
processes that use the server.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client.client import Client as McpClient
from mcp.client.stdio import StdioServerParameters

import slipway
from slipway import AsyncClient, AsyncRuntime, InputError, Network
from support.api_server import Served, serve_api
from support.fake_machine import fake_machines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.commands import Commands

RULES = ("allowed.example:443", "*.below.example")
NETWORK = Network(allow=RULES)
PROGRAM = "look-up allowed.example\nlook-up www.below.example\nlook-up denied.example"


@dataclass(frozen=True, slots=True)
class Answer:
    """Output of :data:`PROGRAM`, and the denied destinations of its result."""

    output: str
    denied: list[str]


def read(result: slipway.Result) -> Answer:
    assert result.network is not None
    return Answer(result.stdout, [each.destination for each in result.network.denied])


def read_record(record: dict[str, Any]) -> Answer:
    denied = [each["destination"] for each in record["network"]["denied"]]
    return Answer(record["run"]["stdout"]["text"], denied)


# --- In this process -----------------------------------------------------------------------------


async def run_in_runtime() -> Answer:
    async with AsyncRuntime(**fake_machines()) as runtime:
        return read(await runtime.run(PROGRAM, "bash", network=NETWORK))


async def run_in_session() -> Answer:
    async with (
        AsyncRuntime(**fake_machines()) as runtime,
        runtime.session("bash", network=NETWORK) as session,
    ):
        return read(await session.run(PROGRAM))


async def run_in_fork() -> Answer:
    async with (
        AsyncRuntime(**fake_machines()) as runtime,
        runtime.session("bash", network=NETWORK) as session,
        await session.fork() as fork,
    ):
        return read(await fork.run(PROGRAM))


async def run_blocking() -> Answer:
    def run() -> Answer:
        with slipway.Runtime(**fake_machines()) as runtime:
            return read(runtime.run(PROGRAM, "bash", network=NETWORK))

    return await asyncio.to_thread(run)


async def run_in_blocking_session() -> Answer:
    def run() -> Answer:
        with (
            slipway.Runtime(**fake_machines()) as runtime,
            runtime.session("bash", network=NETWORK) as session,
        ):
            return read(session.run(PROGRAM))

    return await asyncio.to_thread(run)


LOCAL_WAYS = (
    run_in_runtime,
    run_in_session,
    run_in_fork,
    run_blocking,
    run_in_blocking_session,
)


@pytest.mark.parametrize("run", LOCAL_WAYS)
async def test_rules_hold_in_this_process(run: Callable[[], Awaitable[Answer]]) -> None:
    check(await run())


# --- On a server ---------------------------------------------------------------------------------


async def run_on_client(api: Served, _: Commands, network: Network) -> Answer:
    async with AsyncClient(api.path) as client:
        return read(await client.run(PROGRAM, "bash", network=network))


async def run_in_session_of_client(api: Served, _: Commands, network: Network) -> Answer:
    async with (
        AsyncClient(api.path) as client,
        client.session("bash", network=network) as session,
    ):
        return read(await session.run(PROGRAM))


async def run_on_blocking_client(api: Served, _: Commands, network: Network) -> Answer:
    def run() -> Answer:
        with slipway.Client(api.path) as client:
            return read(client.run(PROGRAM, "bash", network=network))

    return await asyncio.to_thread(run)


async def post_source(api: Served, _: Commands, network: Network) -> Answer:
    query = {"language": "bash", "network": network.allow[0], "allow": ",".join(network.allow[1:])}
    async with api.client() as http:
        answer = await http.post("/v1/run", params=query, content=PROGRAM)
    if answer.status_code != 200:
        raise InputError(answer.text)
    return read_record(answer.json())


async def run_command(api: Served, commands: Commands, network: Network) -> Answer:
    allow = (word for rule in network.allow for word in ("--allow", rule))
    place = ("--api-sock", str(api.path), "--language", "bash")
    words = ("run", "--json", *place, *allow, "-c", PROGRAM)
    ended = await asyncio.to_thread(commands, "slipway", *words)
    record = json.loads(ended.stdout)
    if "error" in record:
        raise InputError(str(record))
    return read_record(record)


def open_mcp(api: Served, commands: Commands) -> McpClient:
    """Return a client of an MCP server with the ceiling ``RULES``, which runs on ``api``."""
    server = StdioServerParameters(
        command=str(commands.path("slipway")),
        args=["mcp", "--api-sock", str(api.path), "--network", ",".join(RULES)],
        env=commands.environment,
    )
    return McpClient(server)


async def call_tool(api: Served, commands: Commands, network: Network) -> Answer:
    call = {"language": "bash", "source": PROGRAM, "network": list(network.allow)}
    async with open_mcp(api, commands) as mcp:
        described = str((await mcp.list_tools()).tools)
        result = await mcp.call_tool("run_code", call)
    assert f"the user permits: {', '.join(RULES)}." in described
    outcome = result.structured_content
    if result.is_error or outcome is None:
        raise InputError(str(result.content))
    return Answer(outcome["stdout"], [line.split(" ")[0] for line in outcome["denied"]])


SERVER_WAYS = (
    run_on_client,
    run_in_session_of_client,
    run_on_blocking_client,
    post_source,
    run_command,
    call_tool,
)


@pytest.mark.parametrize("run", SERVER_WAYS)
async def test_rules_hold_on_a_server_and_its_ceiling_is_above_them(
    run: Callable[[Served, Commands, Network], Awaitable[Answer]], commands: Commands
) -> None:
    async with serve_api(ceiling=NETWORK) as api:
        check(await run(api, commands, NETWORK))
        with pytest.raises(InputError, match=r"denied\.example"):
            await run(api, commands, Network(allow=("allowed.example:443", "denied.example")))

        assert api.launcher.launched == 1


async def test_model_on_a_server_asks_inside_both_ceilings(commands: Commands) -> None:
    refused = []
    async with (
        serve_api(ceiling=Network(allow=(RULES[0], "denied.example"))) as api,
        open_mcp(api, commands) as mcp,
    ):
        for rule in (*RULES, "denied.example"):
            call = {"language": "bash", "source": "print hello", "network": [rule]}
            result = await mcp.call_tool("run_code", call)
            refused.append(str(result.content) if result.is_error else "")

        assert api.launcher.launched == 1

    inside, above_server, above_mcp = refused
    assert inside == ""
    assert f"The ceiling of slipway serve is: {RULES[0]}, denied.example" in above_server
    assert f"The ceiling of slipway mcp is: {', '.join(RULES)}" in above_mcp


def check(answer: Answer) -> None:
    *found, last = answer.output.splitlines()
    assert last == "unknown"
    assert len(set(found)) == 2
    assert all(address.startswith("198.18.") for address in found)
    assert answer.denied == ["denied.example"]
