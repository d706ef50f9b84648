"""What is fitted to a terminal: tables, colours, bars."""

from __future__ import annotations

import io
import os

import pytest

from slipway._cli.screen import format_step, paint
from slipway._cli.tables import Column, format_table
from slipway._cli.terminal import run_guarded, write_line
from slipway._util.errors import InputError

COLUMNS = (Column("NAME"), Column("SOURCE", cut=True), Column("MIB", right=True))
ROWS = [("rust@1.80", "docker://registry.example/library/rust:1.80", 148), ("c", "debian", 7)]


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_table_in_a_pipe_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")

    assert format_table(COLUMNS, ROWS, io.StringIO()).splitlines() == [
        "NAME       SOURCE                                       MIB",
        "rust@1.80  docker://registry.example/library/rust:1.80  148",
        "c          debian                                         7",
    ]


@pytest.mark.parametrize("width", range(27, 70))
def test_table_on_a_terminal_fits_it(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")

    lines = format_table(COLUMNS, ROWS, Screen()).splitlines()

    assert max(map(len, lines)) == min(width, 59)
    assert lines[1].startswith("rust@1.80  docker:")
    assert lines[1].endswith("  148")
    assert ("…" in lines[1]) == (width < 59)


def test_table_without_room_becomes_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")

    assert format_table(COLUMNS, ROWS, Screen()).splitlines() == [
        "rust@1.80",
        "  SOURCE docker://registry.example/library/rust:1.80",
        "  MIB 148",
        "",
        "c",
        "  SOURCE debian",
        "  MIB 7",
    ]


@pytest.mark.parametrize(
    ("stream", "variables", "coloured"),
    [
        (Screen(), {}, True),
        (Screen(), {"NO_COLOR": "1"}, False),
        (Screen(), {"NO_COLOR": ""}, True),
        (Screen(), {"TERM": "dumb"}, False),
        (Screen(), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "0"}, False),
    ],
)
def test_colours_are_for_whoever_wants_them(
    monkeypatch: pytest.MonkeyPatch,
    stream: io.StringIO,
    variables: dict[str, str],
    coloured: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setitem(os.environ, name, value)

    assert paint("text", "red", stream) == ("\x1b[31mtext\x1b[0m" if coloured else "text")


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        ("packing 431 files", "slipway: packing 431 files"),
        ("unpacking 1/4 bash", "slipway: #####...............  25% unpacking 1/4 bash"),
        ("unpacking 4/4 libc6", "slipway: #################### 100% unpacking 4/4 libc6"),
        (
            "downloading 9f2: 3 of 4 MiB",
            f"slipway: {'#' * 15}.....  75% downloading 9f2: 3 of 4 MiB",
        ),
        ("downloading x: 0 of 0 MiB", "slipway: downloading x: 0 of 0 MiB"),
        ("unpacking 0/0 x", "slipway: unpacking 0/0 x"),
        ("unpacking 9/4 x", "slipway: #################### 100% unpacking 9/4 x"),
    ],
)
def test_step_of_many_has_a_bar(step: str, shown: str) -> None:
    assert format_step(step, 79) == shown
    assert format_step(step, 12) == shown[:12]


def test_lines_for_a_person_have_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of files are anybody's: those of a directory that was fetched from elsewhere."""

    def command(_arguments: list[str]) -> int:
        raise InputError("cannot read a\x1b]0;b\x07\r.py;\n  and more", "See \x9b2J.")

    monkeypatch.setattr(os, "_exit", lambda code: None)
    write_line("a\x1b[2J\u202eb")
    run_guarded(command, [])

    assert capsys.readouterr().err == (
        "slipway: a [2J b\n"
        "slipway: error: cannot read a ]0;b  .py;\n  and more\n"
        "slipway: hint: See  2J.\n"
    )
