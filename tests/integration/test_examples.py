"""The examples, as a reader runs them: without a server, and one of each kind with one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from support.commands import PATIENCE
from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., subprocess.Popen[bytes]]

pytestmark = [pytest.mark.usefixtures("bash"), pytest.mark.vm]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts an example; none of its processes may be there at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(example: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / example), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with process:
            process.kill()
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=30)
    assert alive == []


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    """The arguments for a server, or for none."""
    if not request.param:
        yield ()
        return
    with tempfile.TemporaryDirectory(prefix="slipway-") as place, Server(Path(place)) as running:
        yield ("--api-sock", str(running.path))


def output(process: subprocess.Popen[bytes], typed: bytes = b"") -> list[str]:
    """The lines of its stdout, of an example that ended well."""
    stdout, stderr = process.communicate(typed, PATIENCE)
    assert (process.returncode, b"Traceback" in stderr) == (0, False), stderr
    return stdout.decode().splitlines()


with_and_without = pytest.mark.parametrize(
    "server", [False, True], ids=["alone", "server"], indirect=True
)


@with_and_without
def test_judge_tells_the_verdicts_apart(start: Start, server: tuple[str, ...]) -> None:
    title, *lines = output(start("judge.py", *server))

    assert title == "Write the sum of the numbers that you read."
    verdicts = {line[:6].strip(): line[14:36].strip() for line in lines}
    assert verdicts == {
        "ada": "accepted",
        "bob": "wrong answer",
        "eve": "time limit exceeded",
        "dan": "runtime error",
        "cyd": "compile error",
    }


@with_and_without
def test_agent_mends_its_program_by_what_the_tool_tells(
    start: Start, server: tuple[str, ...]
) -> None:
    lines = output(start("agent_tool.py", *server))

    assert sum(line.startswith("tool: ") for line in lines) == 3
    assert "Did you mean python" in lines[2]
    assert "Did you mean: 'math'" in lines[4]
    assert lines[-1] == "model: The surface of the earth is 510064472 square kilometres."


@with_and_without
def test_playground_talks_with_who_types(start: Start, server: tuple[str, ...]) -> None:
    process = start("playground.py", *server)
    assert process.stdin is not None
    assert process.stdout is not None

    assert process.stdout.readline() == b"What is your name?\n"
    process.stdin.write(b"Ada\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"Hello, Ada. And yours?\n"  # while the program runs
    lines = output(process, b"Bob\n")

    assert lines == ["Hello, Bob. And yours?", "Nobody left."]


def test_interrupted_playground_ends_its_program(start: Start) -> None:
    process = start("playground.py")
    assert process.stdout is not None

    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert stderr.endswith(b"[the program was cancelled: the job was cancelled]\n")


def test_playground_finds_the_language_of_a_file(start: Start) -> None:
    process = start("playground.py", str(EXAMPLES / "hello.py"))

    (line,) = output(process)

    assert line.startswith("Hello from Python 3")


def test_playground_explains_what_cannot_run(start: Start) -> None:
    process = start("playground.py", "--language", "cobol", "-c", "x")

    _, stderr = process.communicate(timeout=PATIENCE)

    assert process.returncode == 1
    assert stderr.startswith(b"unknown language 'cobol'\n")


def test_code_in_the_description_of_the_sdk_runs() -> None:
    text = (EXAMPLES.parent / "docs" / "sdk.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    with tempfile.TemporaryDirectory(prefix="slipway-") as place, Server(Path(place)) as server:
        printed = [
            subprocess.run(
                [sys.executable, "-c", block.replace("/run/slipway.sock", str(server.path))],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for block in blocks
        ]

    assert re.fullmatch(r"ok Hello, Ada\n \d+\n", printed[0])
    assert printed[1:] == [
        "heard you\nthe program succeeded b'done\\n'\n",
        "Who? Ada\nAda it is\nthe program was ended by signal 6\n",
        "0\n1\n2\n",
        "one\n--\none\ntwo\n",
        "ok\nthere\n\n",
    ]
