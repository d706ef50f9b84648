"""The commands of the README can be typed as they stand, in a fresh clone."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import slipway
from slipway._cli.run_arguments import parse
from slipway._cli.terminal import split_arguments
from slipway._cli.tree import slipway_parser, verb_parser

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.S | re.M)
COMMANDS = [
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


@pytest.mark.parametrize("command", COMMANDS)
def test_command_can_be_typed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *arguments = words_of(command)
    if program == "make":
        target, *settings = arguments
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
        for setting in settings:
            assert (ROOT / setting.partition("=")[2]).is_file()
    elif program == "vmm-run":
        ours, _ = split_arguments(arguments)
        parsed = parse(ours, verb_parser("run", "vmm-run"))
        sources = [parsed.source] if parsed.source not in {None, "-"} else []
        for named in [*sources, *parsed.files]:
            assert (ROOT / named).exists()
    elif program == "slipway":
        slipway_parser().parse_args(arguments)
    elif program == "curl":
        (data,) = (word[1:] for word in arguments if word.startswith("@"))
        assert (ROOT / data).is_file()
    elif program == "pip":
        assert arguments[0] in {"wheel", "install"}
        if arguments[0] == "install":
            assert arguments[1] == f"dist/slipway_vmm-{slipway.__version__}-py3-none-any.whl"
    elif program == "eval":
        slipway_parser().parse_args(["completion", "bash"])
    else:
        assert program in {".", "nc"}
