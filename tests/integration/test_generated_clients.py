"""Clients that are generated from docs/openapi.json run programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "openapi.json"
TYPESCRIPT = TESTS / "typescript"
BIN = Path(sys.executable).parent
PROGRAM = ["failed", 3, "hello\ncontent\nnamed\n"]
LANGUAGES = ["bash", "c", "c++", "go", "javascript", "python", "rust"]


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """The socket of a server with real machines."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(Path(directory), "--max-machines", "1") as made,
    ):
        yield made.path


def read_output(*command: str | Path, directory: Path) -> str:
    """What a command says on its stdout. It is to succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines(text: str) -> list[list[object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("bash")
def test_python_client_runs_a_program(server: Path, tmp_path: Path) -> None:
    made = read_output(
        *(BIN / "openapi-python-client", "generate", "--path", DOCUMENT, "--meta", "none"),
        *("--output-path", "slipway_api"),
        directory=tmp_path,
    )
    assert "WARNING" not in made
    program = shutil.copy(TESTS / "support" / "generated_client.py", tmp_path / "program.py")

    said = lines(read_output(sys.executable, program, server, directory=tmp_path))

    assert said == [PROGRAM, [422, "unknown language 'klingon'"], LANGUAGES]


@pytest.mark.usefixtures("bash")
def test_typescript_client_runs_a_program(server: Path, tmp_path: Path) -> None:
    packages = TYPESCRIPT / "node_modules"
    assert packages.is_dir(), "tests/typescript has no node_modules: run .ci/setup test"
    for name in ("package.json", "tsconfig.json", "program.ts", "unix_fetch.js"):
        shutil.copy(TYPESCRIPT / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(packages)
    node = BIN / "node"

    read_output(
        *(node, packages / "openapi-typescript" / "bin" / "cli.js", DOCUMENT, "-o", "schema.ts"),
        directory=tmp_path,
    )
    read_output(node, packages / "typescript" / "bin" / "tsc", directory=tmp_path)
    said = lines(read_output(node, "made/program.js", server, directory=tmp_path))

    assert said == [PROGRAM, [422, "unknown language 'klingon'"], LANGUAGES]
