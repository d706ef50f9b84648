"""``slipway run --api-sock``: the same look and exit codes, on the machines of a server."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from support.commands import PATIENCE, Commands

if TYPE_CHECKING:
    from pathlib import Path

    from support.serving import Server

    pass


@pytest.fixture
def slipway(tmp_path: Path) -> Commands:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return Commands(temporary)


def source(directory: Path, text: str, name: str = "main.sh") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_output_and_exit_code_are_the_program_s(
    server: Server, slipway: Commands, tmp_path: Path
) -> None:
    program = source(tmp_path, "print hello\nerror oh\necho\nexit 3")

    ended = slipway("slipway", "run", "--api-sock", server.path, program, stdin=b"\xffgiven")

    assert (ended.code, ended.stdout, ended.stderr) == (3, b"hello\n\xffgiven", "oh\n")
    assert not slipway.leftovers()


def test_arguments_environment_and_files_get_there_and_back(
    server: Server, slipway: Commands, tmp_path: Path
) -> None:
    program = source(tmp_path, "arguments\nenv COLOUR\ncat data.txt\nwrite out.txt made")
    data = source(tmp_path, "data", "given.txt")
    fetched = tmp_path / "fetched.txt"

    ended = slipway(
        "slipway", "run", "--api-sock", server.path, "--env", "COLOUR=red",
        "--file", f"{data}:data.txt", "--get", f"out.txt:{fetched}", program, "--", "one", "two",
    )  # fmt: skip

    assert ended.code == 0, ended.stderr
    assert ended.stdout.endswith(b"one\ntwo\nred\ndata")
    assert fetched.read_text().rstrip() == "made"


def test_json_has_one_record(server: Server, slipway: Commands, tmp_path: Path) -> None:
    program = source(tmp_path, "print hello\nexit 4")

    ended = slipway("slipway", "run", "--json", "--api-sock", server.path, program)

    record = json.loads(ended.stdout)
    assert ended.code == 4
    assert (record["verdict"], record["run"]["stdout"]["text"]) == ("failed", "hello\n")


def test_failed_build_shows_what_the_compiler_said(
    server: Server, slipway: Commands, tmp_path: Path
) -> None:
    program = source(tmp_path, "build-error no such thing\nbuild-fail", "main.rs")

    ended = slipway("slipway", "run", "--api-sock", server.path, program)

    assert ended.code == 1
    assert "no such thing" in ended.stderr


def test_program_on_stdin_needs_its_language(server: Server, slipway: Commands) -> None:
    named = slipway(
        "slipway", "run", "--api-sock", server.path, "--language", "bash", "-", stdin=b"print hi"
    )
    unnamed = slipway("slipway", "run", "--api-sock", server.path, "-", stdin=b"print hi")

    assert (named.code, named.stdout) == (0, b"hi\n")
    assert unnamed.code == 2
    assert "hint: Name it: --language python" in unnamed.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [("--store=/tmp", "--store"), ("--kernel=/tmp/x", "kernel"), ("--boot-log", "boot")],
)
def test_option_of_local_machines_is_refused_for_a_server(
    server: Server, slipway: Commands, tmp_path: Path, option: str, said: str
) -> None:
    program = source(tmp_path, "print x")

    ended = slipway("slipway", "run", "--api-sock", server.path, option, program)

    assert ended.code == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_kernel_of_the_store_is_named_to_a_server(
    server: Server, slipway: Commands, tmp_path: Path
) -> None:
    program = source(tmp_path, "print x")

    ended = slipway("slipway", "run", "--api-sock", server.path, "--kernel", "small", program)

    assert (ended.code, ended.stdout) == (0, b"x\n")


def test_unknown_suffix_names_the_server_s_languages(
    server: Server, slipway: Commands, tmp_path: Path
) -> None:
    program = source(tmp_path, "print x", "main.xyz")

    ended = slipway("slipway", "run", "--api-sock", server.path, program)

    assert ended.code == 2
    assert "no language of the server has the suffix '.xyz'" in ended.stderr
    assert "python" in ended.stderr


def test_no_server_is_told_with_how_to_start_one(slipway: Commands, tmp_path: Path) -> None:
    program = source(tmp_path, "print x")

    ended = slipway("slipway", "run", "--api-sock", tmp_path / "none", program)

    assert ended.code == 125
    assert "hint:" in ended.stderr
    assert "slipway serve --api-sock" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels_the_run_on_the_server(
    server: Server, slipway: Commands, tmp_path: Path, number: signal.Signals
) -> None:
    program = source(tmp_path, "print ready\nforever")
    process = slipway.start("slipway", "run", "--api-sock", server.path, program)
    assert process.stdout is not None
    ready = process.stdout.readline()

    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.path))) as client:
        health = client.get("http://slipway/v1/health").json()

    assert ready == b"ready\n"
    assert process.returncode == 128 + number
    assert health["machines"] == 0
