"""The table of run options in docs/sdk.md, made from their declarations.

Write it anew with: .venv/bin/python tests/support/option_table.py
"""

from __future__ import annotations

from pathlib import Path

from slipway._model.option import Group, Option
from slipway._model.options import OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "sdk.md"
BEGIN = "<!-- The table is made from the code: tests/support/option_table.py -->\n\n"
END = "\n<!-- End of the table -->\n"
_TYPES = {
    "tuple[str, ...]": "texts",
    "tuple[tuple[str, str], ...]": "mapping of texts",
    "tuple[slipway.InputFile, ...]": "`InputFile`s",
    "<class 'slipway.Tty'>": "`bool` or `Tty`",
    "<class 'bool'>": "`bool`",
    "<class 'int'>": "number",
    "<class 'str'>": "text",
    "<class 'pathlib.Path'>": "path",
}


def make_table() -> str:
    """Return the table as it stands on the page."""
    lines = ["| option | value | command line | |", "| --- | --- | --- | --- |"]
    for group in Group:
        lines += [_make_row(option) for option in OPTIONS.values() if option.group is group]
    return "\n".join(lines) + "\n"


def _make_row(option: Option) -> str:
    unit = option.bounds.unit if option.bounds else ""
    value = {"s": "seconds", "bytes": "bytes"}.get(unit) or _TYPES[str(option.type)]
    if option.choices:
        value = ", ".join(f"`{choice}`" for choice in option.choices)
    flags = ", ".join(f"`{flag}`" for flag in option.command_flags)
    meaning = option.sentence
    if option.default not in (None, False, ()):
        meaning += f" Default: {option.default}."
    if option.local:
        meaning += " Not for a server."
    return f"| `{option.name}` | {value} | {flags} | {meaning} |"


def main() -> None:
    """Write the table into the page."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + make_table() + END + after, "utf-8")


if __name__ == "__main__":
    main()
