"""What the command line tells of itself, and how it answers slips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway._cli.program import COMMANDS
from slipway_protocol import __version__
from support.commands import Ended

if TYPE_CHECKING:
    from support.commands import Commands


@pytest.mark.parametrize(
    "command",
    [
        ("slipway", "--version"),
        ("slipway", "-V"),
        ("slipway", "version"),
        ("slipway", "run", "--version"),
        ("vmm-run", "--version"),
        ("python", "-m", "slipway", "--version"),
    ],
    ids=" ".join,
)
def test_version_is_told(commands: Commands, command: tuple[str, ...]) -> None:
    assert commands(*command) == Ended(0, f"slipway {__version__}\n".encode(), "")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("vmm-run", "--help"), "vmm-run [options]"),
        (("slipway", "run", "--help"), "slipway run [options]"),
        (("slipway", "help", "run"), "slipway run [options]"),
        (("slipway", "help", "image", "build"), "slipway image build [-h]"),
        (("python", "-m", "slipway", "help", "run"), "python -m slipway run [options]"),
        (("python", "-m", "slipway"), "python -m slipway COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_help_names_the_command_that_was_typed(
    commands: Commands, command: tuple[str, ...], name: str
) -> None:
    ended = commands(*command)

    assert (ended.stdout.decode() + ended.stderr).startswith(f"usage: {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(commands: Commands, name: str) -> None:
    asked = commands("slipway", name, "--help")
    helped = commands("slipway", "help", name)

    assert (asked.code, asked.stderr) == (0, "")
    assert asked.stdout.startswith(f"usage: slipway {name} ".encode())
    assert helped == asked


def test_slip_is_answered_with_a_sentence_and_a_hint(commands: Commands) -> None:
    slip = commands("slipway", "imge", "list")
    strays = commands("vmm-run", "a.py", "x", "y")

    assert slip == Ended(
        2, b"", "slipway: error: unknown command 'imge'\nslipway: hint: Did you mean image?\n"
    )
    assert (strays.code, strays.stdout) == (2, b"")
    assert strays.stderr.splitlines()[-1].endswith("come after '--': vmm-run a.py -- x y")
