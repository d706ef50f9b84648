"""The MCP server as a process, with the SDK's client and with raw messages."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

from slipway._mcp.forms import RunCodeArguments
from slipway._model.options import MAX_SOURCE
from slipway._wire.option_models import read_options
from slipway._wire.request_models import RunBody
from support.commands import PATIENCE
from support.serving import Server
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from mcp_types import CallToolResult

    from support.commands import Commands

pytestmark = pytest.mark.usefixtures("bash")

FLOOD = "for ((i = 0; i < 20000; i++)); do echo line $i; done; echo last >&2"


@pytest.fixture(autouse=True)
def _nothing_stays(commands: Commands) -> Iterator[None]:
    yield
    assert commands.leftovers() == []


@asynccontextmanager
async def client(commands: Commands, *arguments: str, mode: str = "auto") -> AsyncIterator[Client]:
    server = StdioServerParameters(
        command=str(commands.path("slipway")),
        args=["mcp", "--machine", "qemu", *arguments],
        env=commands.environment,
    )
    async with Client(server, mode=mode) as connected:
        yield connected


def text(result: CallToolResult) -> str:
    assert result.content[0].type == "text"
    return result.content[0].text


async def test_lists_its_tools_and_languages(commands: Commands) -> None:
    async with client(commands) as mcp:
        tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}
        languages = await mcp.call_tool("list_languages")

    assert set(tools) == {"run_code", "list_languages"}
    schema = tools["run_code"].input_schema
    assert schema["required"] == ["language", "source"]
    assert all("description" in field for field in schema["properties"].values())
    names = {language["name"] for language in languages.structured_content["languages"]}
    assert {"python", "rust", "bash"} <= names
    assert json.loads(text(languages)) == languages.structured_content


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_runs_a_program_and_reports_its_steps(commands: Commands, mode: str) -> None:
    steps: list[str | None] = []

    async def note_step(progress: float, total: float | None, message: str | None) -> None:
        steps.append(message)

    async with client(commands, mode=mode) as mcp:
        result = await mcp.call_tool(
            "run_code",
            {
                "language": "bash",
                "source": 'read -r line; echo "$line $1 $NAME $(cat data)"; echo no >&2; '
                "echo made >made; exit 3",
                "stdin": "from stdin\n",
                "arguments": ["argument"],
                "environment": {"NAME": "value"},
                "files": [{"path": "data", "base64": "Y29udGVudA=="}],
                "outputs": ["made", "other"],
                "timeout": 60,
            },
            progress_callback=note_step,
        )

    assert not result.is_error  # of the tool; the program's failure is its verdict
    told = result.structured_content
    assert (told["verdict"], told["exit_code"], told["signal"]) == ("failed", 3, 0)
    assert told["stdout"] == "from stdin argument value content\n"
    assert told["stderr"] == "no\n"
    made, other = told["files"]
    assert (made["text"], made["bytes"], made["truncated"]) == ("made\n", 5, False)
    assert other["missing"]
    assert told["truncated"] == []
    assert json.loads(text(result))["stdout"] == told["stdout"]
    assert steps == ["the machine (qemu) is ready", "running"]


async def test_runs_on_a_server(commands: Commands) -> None:
    with tempfile.TemporaryDirectory(prefix="slipway-") as place, Server(Path(place)) as server:
        async with client(commands, "--api-sock", str(server.path)) as mcp:
            languages = await mcp.call_tool("list_languages")
            result = await mcp.call_tool("run_code", {"language": "bash", "source": "echo hi"})

    told = {language["name"]: language for language in languages.structured_content["languages"]}
    assert told["bash"]["aliases"] == ["sh", "shell"]
    assert (told["bash"]["versions"], told["bash"]["ready"]) == ([], True)
    assert told["bash"]["toolchain"].startswith("bash 5.")
    assert result.structured_content["stdout"] == "hi\n"


async def test_missing_server_is_an_error_of_the_tool(commands: Commands, tmp_path: Path) -> None:
    async with client(commands, "--api-sock", str(tmp_path / "api")) as mcp:
        result = await mcp.call_tool("run_code", {"language": "bash", "source": "echo hi"})

    assert result.is_error
    assert text(result).startswith("no server listens at")


async def test_result_has_the_compiler_s_output(commands: Commands) -> None:
    async with client(commands) as mcp:
        result = await mcp.call_tool("run_code", {"language": "c", "source": "int main( { }"})

    told = result.structured_content
    assert (told["verdict"], told["exit_code"], told["stderr"]) == ("build_failed", None, "")
    assert "error: expected" in told["build_output"]


async def test_cuts_long_output_and_says_so(commands: Commands) -> None:
    async with client(commands) as mcp:
        result = await mcp.call_tool(
            "run_code",
            {
                "language": "bash",
                "source": FLOOD + "; printf 'x%.0s' {1..40000} >long; printf '\\xff' >binary",
                "outputs": ["long", "binary"],
            },
        )

    told = result.structured_content
    assert told["truncated"] == ["stdout"]
    assert told["stdout"].startswith("line 0\nline 1\n")
    assert told["stdout"].endswith("line 19999\n")
    assert " bytes left out ...]" in told["stdout"]
    assert len(told["stdout"]) < 33 * 1024
    assert told["stderr"] == "last\n"
    long, binary = told["files"]
    assert (long["text"], long["bytes"], long["truncated"]) == ("x" * 32768, 40000, True)
    assert (binary["text"], binary["truncated"]) == ("", True)


FILE = {"path": "x", "text": "x"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"language": None}, "invalid argument 'language': field required"),
    ({"language": 3}, "invalid argument 'language': should be a valid string"),
    ({"language": ""}, "invalid argument 'language'"),
    ({"language": "cobol"}, "unknown language 'cobol'"),
    ({"source": None}, "invalid argument 'source': field required"),
    ({"source": 3}, "invalid argument 'source'"),
    ({"source": ["true"]}, "invalid argument 'source'"),
    ({"source": "x" * (MAX_SOURCE + 1)}, "the source has"),
    ({"netwrk": True}, "unknown argument 'netwrk'"),
    ({"time_out": 5}, "Did you mean 'timeout'?"),
    ({"timeout": -1}, "invalid argument 'timeout': should be greater than 0"),
    ({"timeout": "5"}, "invalid argument 'timeout': should be a valid number"),
    ({"timeout": True}, "invalid argument 'timeout'"),
    ({"memory_limit": 10**5}, "invalid argument 'memory_limit'"),
    ({"memory_limit": 1.5}, "invalid argument 'memory_limit'"),
    ({"build_memory_limit": 9999}, "invalid argument 'build_memory_limit'"),
    ({"cpus": 99}, "invalid argument 'cpus'"),
    ({"kill_on_output": 1}, "invalid argument 'kill_on_output'"),
    ({"tty": {"rows": 0, "columns": 80}}, "invalid argument 'tty"),
    ({"stdin": 5}, "invalid argument 'stdin"),
    ({"stdin": {"base64": "?"}}, "stdin has invalid base64"),
    ({"arguments": "text"}, "invalid argument 'arguments'"),
    ({"arguments": [1]}, "invalid argument 'arguments.0'"),
    ({"network": True}, "invalid argument 'network'"),
    ({"network": ["pipy"]}, "network rule 'pipy'"),
    ({"network": ["pypi"]}, "the operator has allowed no network"),
    ({"arguments": ["x"] * 513}, "invalid argument 'arguments'"),
    ({"arguments": ["a\0"]}, "arguments[0] contains NUL"),
    ({"environment": {"A": 1}}, "invalid argument 'environment.A'"),
    ({"environment": {"=": "x"}}, "environment has the invalid name '='"),
    ({"files": FILE}, "invalid argument 'files'"),
    ({"files": [{"path": "x"}]}, "text or base64, and not both"),
    ({"files": [{**FILE, "base64": "eA=="}]}, "text or base64, and not both"),
    ({"files": [{"path": "x", "base64": "?"}]}, "the file 'x' has invalid base64"),
    ({"files": [{**FILE, "mode": 512}]}, "invalid argument 'files.0.mode'"),
    ({"files": [FILE, FILE]}, "files has 'x', which is also the name of another file"),
    ({"outputs": ["/etc/passwd"]}, "working directory"),
]


async def test_wrong_call_is_an_error_of_the_tool(commands: Commands) -> None:
    async with client(commands) as mcp:
        for arguments, message in WRONG:
            result = await mcp.call_tool(
                "run_code", {"language": "bash", "source": "true", **arguments}
            )
            said = text(result)
            assert result.is_error
            assert message in said
            assert "\n" in said  # what to do about it
            assert "Traceback" not in said


async def test_takes_the_fields_of_a_job_of_the_api() -> None:
    # Machine, port and kernel are for who runs the server to choose, not for a model.
    chosen = {"machine", "port", "kernel"}
    of_the_api = set(RunBody.model_fields) - chosen - {"version", "source_base64"}
    assert set(RunCodeArguments.model_fields) == of_the_api
    nothing = dict.fromkeys(of_the_api - {"language", "source"})
    job = RunCodeArguments.model_validate({"language": "bash", "source": "true", **nothing})
    assert (read_options(job), job.decode_stdin()) == ({}, b"")


async def test_unknown_tool_is_an_error_of_the_protocol(commands: Commands) -> None:
    async with client(commands) as mcp:
        with pytest.raises(MCPError, match="unknown tool 'format_disk'"):
            await mcp.call_tool("format_disk", {})


async def test_cancelled_call_makes_room_for_the_next(commands: Commands) -> None:
    running = asyncio.Event()

    async def note_start(progress: float, total: float | None, message: str | None) -> None:
        if message == "running":
            running.set()

    async with client(commands, "--max-machines", "1") as mcp:
        endless = {"language": "bash", "source": "sleep 1000", "timeout": 3600}
        first = asyncio.create_task(
            mcp.call_tool("run_code", endless, progress_callback=note_start)
        )
        await wait_until(running.is_set, "the program runs")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = await mcp.call_tool("run_code", {"language": "bash", "source": "echo next"})

    assert second.structured_content["stdout"] == "next\n"


class Raw:
    """MCP server with raw lines as its client."""

    def __init__(self, commands: Commands) -> None:
        self.process = commands.start("slipway", "mcp", "--machine", "qemu")
        self._number = 0
        self.ask(
            "initialize",
            protocolVersion="2025-06-18",
            capabilities={},
            clientInfo={"name": "raw", "version": "0"},
        )
        assert "result" in self.hear()
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, method: str, **params: Any) -> None:
        self._number += 1
        self.send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})

    def hear(self) -> dict[str, Any]:
        """The next message; whatever else is on stdout is no JSON, and fails."""
        assert self.process.stdout is not None
        message: dict[str, Any] = json.loads(self.process.stdout.readline())
        return message

    def start_endless_program(self) -> None:
        """Return when it runs."""
        self.ask(
            "tools/call",
            name="run_code",
            arguments={"language": "bash", "source": "sleep 1000", "timeout": 3600},
            _meta={"progressToken": "steps"},
        )
        while self.hear()["params"]["message"] != "running":
            pass

    def end(self) -> tuple[int, str]:
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stderr.decode()


@pytest.fixture
def raw(commands: Commands) -> Iterator[Raw]:
    raw = Raw(commands)
    with raw.process:
        yield raw
        raw.process.kill()


def test_client_that_leaves_takes_its_machines_along(raw: Raw) -> None:
    raw.start_endless_program()

    code, stderr = raw.end()  # which closes the server's stdin

    assert (code, stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_while_a_client_is_connected(
    raw: Raw, number: signal.Signals
) -> None:
    raw.start_endless_program()

    raw.process.send_signal(number)
    code = raw.process.wait(PATIENCE)

    assert code == 128 + number
    assert raw.end()[1] == ""


def test_invalid_line_does_not_end_the_server(raw: Raw) -> None:
    assert raw.process.stdin is not None
    raw.process.stdin.write(b'no json\n\xff\n[]\n{"jsonrpc": "2.0"}\n')
    raw.ask("tools/list")

    assert len(raw.hear()["result"]["tools"]) == 2
    assert raw.end() == (0, "")


def test_endless_message_ends_the_server(raw: Raw) -> None:
    _, stderr = raw.process.communicate(b"x" * 65 * 1024 * 1024, PATIENCE)

    assert raw.process.returncode == 2
    assert b"message of the client over 64 MiB" in stderr


def test_missing_sdk_is_reported_with_a_hint() -> None:
    program = (
        "import sys; sys.modules['mcp'] = None; sys.argv = ['slipway', 'mcp']; "
        "from slipway._cli import main; main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert done.returncode == 125
    assert "pip install 'slipway-vmm[mcp]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", [("--max-machines", "2"), ("--store", "here")])
def test_refuses_options_of_machines_with_a_server(
    commands: Commands, option: tuple[str, str], tmp_path: Path
) -> None:
    ended = commands("slipway", "mcp", "--api-sock", tmp_path / "sock", *option)

    assert ended.code == 2
    assert "not available with --api-sock" in ended.stderr
