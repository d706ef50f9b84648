"""Programs in a terminal, on each way to a machine; most of these are none."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import slipway
from slipway._local.runtime import AsyncRuntime
from slipway._run.guest import MAX_READ_AT_ONCE
from slipway._run.job_message import build_job_message
from support.commands import PATIENCE, Commands
from support.fake_machine import fake_machines
from support.screens import Screen
from support.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway_initramfs.store.image_store import ImageStore
    from support.serving import Server

SIZES = "size\nresized\nsize"
TESTS = Path(__file__).parents[1]
# Lends its terminal as `slipway run` does, and ends in a way of its own.
LENDER = """
import asyncio, os, signal, sys
from slipway._cli.run_terminal import LocalTerminal
from slipway._cli.event_loop import run_interruptible
from slipway._cli.terminal import run_guarded
from slipway._util.errors import UnknownOutcome

def resize(size):
    print(f"[{size.rows}x{size.columns}]", flush=True)

async def lend():
    with LocalTerminal(resize, asyncio.get_running_loop()).follow_size() as terminal:
        terminal.take()
        print("lent", flush=True)
        if sys.argv[1] == "raise":
            raise UnknownOutcome("the machine ended by itself")
        if sys.argv[1] == "bug":
            raise ZeroDivisionError
        while True:
            await asyncio.sleep(3600)

run_guarded(lambda arguments: run_interruptible(lend), [])
"""
IN_BASH = """
trap 'echo "now $(stty size)"' WINCH
trap 'echo interrupted; exit 7' INT
read -rp "$(stty size), $TERM, name? " name
echo "hello $name"
sleep 1000 &
while :; do wait $!; done
"""


@pytest.fixture
def screen() -> Iterator[Screen]:
    with Screen() as screen:
        before = screen.state
        yield screen
        assert screen.state == before


@pytest.fixture(params=["runtime", "session", "client"])
def way(request: pytest.FixtureRequest) -> Iterator[slipway.Runtime | slipway.Client]:
    if request.param == "client":
        server: Server = request.getfixturevalue("server")
        with slipway.Client(server.path) as client:
            yield client
    else:
        with slipway.Runtime(**fake_machines()) as runtime:
            if request.param == "runtime":
                yield runtime
            else:
                yield _InSession(runtime)  # type: ignore[misc]


class _InSession:
    """Starts what is started in a session."""

    def __init__(self, runtime: slipway.Runtime) -> None:
        self._session = runtime.session("bash")
        self._session.open()

    def start(self, source: str, _language: str, **options: object) -> slipway.Execution:
        return self._session.start(source, **options)  # type: ignore[arg-type]


def test_sizes_get_there(way: slipway.Runtime) -> None:
    with way.start(SIZES, "bash", tty=slipway.Tty(5, 9)) as execution:
        for event in execution:
            if isinstance(event, slipway.Output):
                assert event.data == b"5x9\n"
                break
        execution.resize(50, 132)
        result = execution.wait()
        execution.resize(1, 1)  # it has ended

    assert result.stdout == "50x132\n"
    assert result.tty
    assert result.record()["tty"] is True


def test_sizes_of_a_terminal_that_was_not_asked_for(way: slipway.Runtime) -> None:
    with way.start("size\nforever", "bash") as execution:
        with pytest.raises(slipway.InputError, match="no terminal"):
            execution.resize(5, 9)
        with pytest.raises(slipway.InputError, match="rows of a terminal is 0"):
            execution.resize(0, 9)
        execution.cancel()
        result = execution.wait()

    assert not result.tty


async def test_size_that_is_told_before_there_is_a_machine() -> None:
    async with AsyncRuntime(**fake_machines(), max_machines=1, cpus=16) as runtime:
        first = await runtime.start("forever", "bash")
        second = await runtime.start("size", "bash", tty=True)
        assert second.state == "queued"
        job = second._job
        await second.resize(1, 1)
        await second.resize(7, 8)
        # A client may ask for many: no reason to look at all that its run has each time.
        assert second._job is job
        await first.cancel()

        assert (await second.wait()).stdout == "7x8\n"


async def test_size_that_is_told_while_sources_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, told = threading.Event(), threading.Event()

    def describe(*job: Any) -> Any:
        begun.set()
        told.wait(PATIENCE)
        return build_job_message(*job)

    monkeypatch.setattr("slipway._run.guest.build_job_message", describe)
    files = [slipway.InputFile("large", bytes(MAX_READ_AT_ONCE))]
    async with AsyncRuntime(**fake_machines()) as runtime:
        execution = await runtime.start("size", "javascript", tty=True, files=files)
        await asyncio.to_thread(begun.wait, PATIENCE)
        await execution.resize(7, 8)
        told.set()

        assert (await execution.wait()).stdout == "7x8\n"


@pytest.mark.parametrize(
    ("told", "size"),
    [(True, b"24x80\n"), ({"rows": 5, "columns": 9}, b"5x9\n"), (False, b"no terminal\n")],
)
def test_api_takes_a_size(server: Server, told: object, size: bytes) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.path))) as http:
        job = {"language": "bash", "source": "size", "tty": told}
        answer = http.post("http://slipway/v1/run", json=job).json()

    assert answer["run"]["stdout"]["text"].encode() == size
    assert answer["tty"] == bool(told)


def test_api_refuses_sizes_that_are_none(server: Server) -> None:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(server.path)), base_url="http://slipway"
    ) as http:
        job = {"language": "bash", "source": "size"}
        for tty in ({"rows": 0, "columns": 9}, {"rows": 5}, 5, "5x9"):
            assert http.post("/v1/run", json={**job, "tty": tty}).status_code == 422

        query = {"language": "bash", "tty": "true"}
        told = http.post("/v1/run", params=query, content=b"size").json()
        assert told["run"]["stdout"]["text"] == "24x80\n"

        started = http.post("/v1/start", json={**job, "source": "forever"}).json()
        run = f"/v1/runs/{started['id']}"
        for columns, status in ((9, 409), (70_000, 422)):
            size = {"rows": 5, "columns": columns}
            assert http.post(f"{run}/resize", json=size).status_code == status
        http.delete(run)


def test_command_on_a_server_lends_its_terminal(
    server: Server, commands: Commands, screen: Screen, tmp_path: Path
) -> None:
    program = tmp_path / "main.sh"
    program.write_text("size\nresized\nsize\nread 3\nexit 3")
    with screen.start(commands, "vmm-run", "--api-sock", server.path, "-t", program) as process:
        screen.until(b"30x100\n")
        assert screen.raw
        screen.resize(40, 90)
        screen.until(b"40x90\n")
        screen.type(b"\3ab")
        assert process.wait(PATIENCE) == 3


def test_command_without_a_terminal_of_its_own(server: Server, commands: Commands) -> None:
    run = ("slipway", "run", "--api-sock", server.path, "--tty", "--language", "bash", "-c")
    ended = commands(*run, "size\necho", stdin=b"typed")
    told = commands(*run, "size", "--json")

    assert (ended.code, ended.stdout) == (0, b"24x80\ntyped")
    assert json.loads(told.stdout)["tty"] is True


def test_playground_lends_its_terminal(server: Server, screen: Screen) -> None:
    example = TESTS.parent / "examples" / "playground.py"
    program = "size\nresized\nsize\nread 3\nexit 3"
    command = (sys.executable, example, "--api-sock", server.path, "--tty", "--language", "bash")
    with subprocess.Popen([*command, "-c", program], **screen.popen) as process:
        screen.until(b"30x100\r\n")
        screen.resize(40, 90)
        screen.until(b"40x90\r\n")
        screen.type(b"\3ab")
        screen.until(b"[the program ended with exit code 3]\r\n")
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("how", "code"),
    [("raise", 125), ("bug", 125), ("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)],
)
def test_terminal_is_given_back_however_it_ends(
    commands: Commands, screen: Screen, how: str, code: int
) -> None:
    commands.prefix = (sys.executable, "-c", LENDER, how)
    with screen.start(commands, "slipway") as process:
        screen.until(b"lent")
        if how.startswith("SIG"):
            assert screen.raw
            screen.resize(3, 4)
            screen.until(b"[3x4]")
            process.send_signal(signal.Signals[how])
        assert process.wait(PATIENCE) == code


def test_terminal_is_given_back_while_the_command_is_stopped(
    commands: Commands, screen: Screen
) -> None:
    before = screen.state
    commands.prefix = (sys.executable, "-c", LENDER, "")
    with screen.start(commands, "slipway") as process:
        screen.until(b"lent")
        process.send_signal(signal.SIGTSTP)
        assert_stopped(process)
        assert screen.state == before
        process.send_signal(signal.SIGCONT)
        block_until(
            lambda: screen.raw or process.poll() is not None, "the command has the terminal again"
        )
        assert process.poll() is None
        process.terminate()
        process.wait(PATIENCE)


def assert_stopped(process: subprocess.Popen[bytes]) -> None:
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


def test_bash_in_the_terminal_of_the_caller(
    commands: Commands, store: ImageStore, screen: Screen, tmp_path: Path
) -> None:
    program = tmp_path / "main.sh"
    program.write_text(IN_BASH)
    with screen.start(commands, "vmm-run", "--store", store.root, "--tty", program) as process:
        screen.until(b"30 100, xterm-256color, name? ")
        assert screen.raw
        screen.type(b"you\r")
        screen.until(b"name? you\r\nhello you\r\n")
        screen.resize(41, 91)
        screen.until(b"now 41 91\r\n")
        screen.type(b"\3")
        screen.until(b"interrupted\r\n")
        assert process.wait(PATIENCE) == 7
    assert commands.leftovers() == []
