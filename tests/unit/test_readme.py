"""The commands of the README can be typed as they stand, in a fresh clone."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import slipway
from slipway._cli.parser_tree import build_command_parser, build_slipway_parser
from slipway._cli.run_arguments import parse_arguments
from slipway._cli.terminal import split_arguments

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.S | re.M)


def commands() -> list[str]:
    """The lines of the README that a shell is to take."""
    return [
        line.removeprefix("$ ")
        for block in BLOCK.findall((ROOT / "README.md").read_text())
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def words_of(command: str) -> list[str]:
    """What a shell makes of the last program of a line; where stdin comes from, is checked."""
    words = shlex.split(command, comments=True)
    if "|" in words:
        words = words[words.index("|") + 1 :]
    for word in words:
        if word.startswith("<"):
            assert (ROOT / word[1:]).is_file()
    return [word for word in words if not word.startswith("<") and word != "&"]


def test_commands_can_be_typed(monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests) -> None:
    monkeypatch.chdir(ROOT)
    found = commands()

    assert len(found) > 5
    for command in found:
        with subtests.test(command):
            check_command(command)


def check_command(command: str) -> None:
    program, *arguments = words_of(command)
    if program == "make":
        target, *settings = arguments
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
        for setting in settings:
            assert (ROOT / setting.partition("=")[2]).is_file()
    elif program == "vmm-run":
        ours, _ = split_arguments(arguments)
        parsed = parse_arguments(ours, build_command_parser("run", "vmm-run"))
        sources = [parsed.source] if parsed.source not in {None, "-"} else []
        for named in [*sources, *parsed.files]:
            assert (ROOT / named).exists()
    elif program == "slipway":
        build_slipway_parser().parse_args(arguments)
    elif program == "curl":
        (data,) = (word[1:] for word in arguments if word.startswith("@"))
        assert (ROOT / data).is_file()
    elif program == "pip":
        assert arguments[0] in {"wheel", "install"}
        if arguments[0] == "install":
            assert arguments[1] == f"dist/slipway_vmm-{slipway.__version__}-py3-none-any.whl"
    elif program == "eval":
        build_slipway_parser().parse_args(["completion", "bash"])
    else:
        assert program in {".", "nc"}
