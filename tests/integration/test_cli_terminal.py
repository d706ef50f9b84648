"""What the command line shows on a terminal, and in pipes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.screens import Screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.store.image_store import ImageStore
    from support.commands import Commands


@pytest.fixture
def on_terminal(commands: Commands) -> Callable[..., str]:
    """Runs a command on a terminal of so many columns; what it showed there."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        commands.environment.pop(name, None)
    commands.environment["TERM"] = "xterm"

    def show(columns: int, program: str, *arguments: str) -> str:
        with (
            Screen(24, columns) as screen,
            screen.start(commands, program, *arguments) as process,
        ):
            return screen.rest(process).decode().replace("\r\n", "\n")

    return show


def test_tables_fit_the_terminal(
    commands: Commands, store: ImageStore, on_terminal: Callable[..., str]
) -> None:
    command = ("slipway", "image", "list", "--store", str(store.root))
    piped = commands(*command).stdout.decode()
    commands.environment["NO_COLOR"] = "1"

    assert on_terminal(200, *command) == piped
    for columns in (100, 80):
        assert max(map(len, on_terminal(columns, *command).splitlines())) <= columns
    assert on_terminal(20, *command).startswith("bash\n  TOOLCHAIN ")


def test_doctor_fits_the_terminal(
    commands: Commands, store: ImageStore, on_terminal: Callable[..., str]
) -> None:
    command = ("slipway", "doctor", "--store", str(store.root))
    commands.environment["NO_COLOR"] = "1"

    shown = on_terminal(60, *command)

    longest_word = max(map(len, commands(*command).stdout.decode().split()))
    assert max(map(len, shown.splitlines())) <= max(60, 22 + longest_word)
    assert "kernel       Linux" in shown


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals(
    commands: Commands,
    store: ImageStore,
    on_terminal: Callable[..., str],
    variables: dict[str, str],
    coloured: bool,
) -> None:
    commands.environment |= variables

    found = on_terminal(80, "slipway", "doctor", "--store", str(store.root))
    error = on_terminal(80, "slipway", "frobnicate")

    assert ("\x1b[32mok\x1b[0m" in found) == ("\x1b[31merror:\x1b[0m" in error) == coloured
    assert ("\x1b" in found + error) == coloured


def test_pipes_have_no_colours(commands: Commands, store: ImageStore) -> None:
    plain = commands("slipway", "doctor", "--store", store.root)
    commands.environment["FORCE_COLOR"] = "1"
    forced = commands("slipway", "doctor", "--store", store.root)

    assert b"\x1b" not in plain.stdout
    assert b"\x1b[32mok\x1b[0m" in forced.stdout


def test_steps_of_many_show_a_bar_with_per_cent(on_terminal: Callable[..., str]) -> None:
    steps = (
        "from slipway._cli.progress import Progress\n"
        "progress = Progress()\n"
        "progress('unpacking 1/2 bash')\n"
        "progress('packing files with a long name ' + 'x' * 100)\n"
        "progress.clear()\n"
    )

    shown = on_terminal(60, "python", "-c", steps)

    assert shown.split("\r\x1b[K") == [
        "",
        "slipway: ##########..........  50% unpacking 1/2 bash",
        f"slipway: packing files with a long name {'x' * 100}"[:59],
        "",
    ]


PRINTING = (
    ("help",),
    ("doctor", "--json"),
    ("image", "list"),
    ("snapshot", "list", "--json"),
    ("completion", "fish"),
    ("man",),
)


@pytest.mark.usefixtures("bash")
def test_full_disk_and_missing_reader_are_told_by_every_verb(commands: Commands) -> None:
    for arguments in PRINTING:
        with Path("/dev/full").open("wb") as full:
            told = commands("slipway", *arguments, stdout=full)
        reader, writer = os.pipe()
        os.close(reader)
        unread = commands("slipway", *arguments, stdout=writer)
        os.close(writer)

        assert (arguments, told.code) == (arguments, 125)
        assert told.stderr == "slipway: error: cannot write to stdout: No space left on device\n"
        assert (arguments, unread.code, unread.stderr) == (arguments, 128 + signal.SIGPIPE, "")
