"""docs/guest.md says what a program finds: each command in it prints the value beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.programs import Runner

PAGE = Path(__file__).parents[2] / "docs" / "guest.md"
ROW = re.compile(r"\| (?P<what>[^|`]+) \| `(?P<value>[^`]*)` \| `(?P<command>(?:[^`])+)` \|")

pytestmark = [pytest.mark.languages("bash"), pytest.mark.every_way()]


def rows() -> list[tuple[str, str, str]]:
    """What is said, its value, and the command that prints that."""
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| property |", "| ---")):
            row = ROW.fullmatch(line)
            assert row is not None, line
            found.append((row["what"], row["value"], row["command"].replace(r"\|", "|")))
    assert len(found) > 30
    return found


def test_page_says_what_a_program_finds(vm: Runner) -> None:
    # Each in a process of its own, so that none changes what the next finds, and with its end told.
    commands = [
        f"( {command}\n); echo ':{number}'" for number, (_, _, command) in enumerate(rows())
    ]

    outcome = vm.run("\n".join(commands))

    printed = [part.strip() for part in re.split(r":\d+\n", outcome.stdout.decode())]
    assert outcome.stderr == b""
    assert [(what, found) for (what, _, _), found in zip(rows(), printed, strict=False)] == [
        (what, value) for what, value, _ in rows()
    ]
