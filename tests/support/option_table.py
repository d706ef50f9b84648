"""Tables of options in the docs, made from their declarations.

Write them anew with: .venv/bin/python tests/support/option_table.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipway._model.option import Group, Option
from slipway._model.options import OPTIONS
from slipway._model.runtime_options import RUNTIME_OPTIONS
from slipway._server.settings import KEPT_OPTIONS, SERVER_OPTIONS, TIMEOUT_OPTIONS
from slipway._util.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

DOCS = Path(__file__).parents[2] / "docs"
BEGIN = "<!-- Made from the code by tests/support/option_table.py: {} -->\n\n"
END = "\n<!-- End of the table -->\n"
_TYPES = {
    "tuple[str, ...]": "texts",
    "tuple[tuple[str, str], ...]": "mapping of texts",
    "tuple[slipway.InputFile, ...]": "`InputFile`s",
    "<class 'slipway.Network'>": "`Network`",
    "<class 'slipway.Tty'>": "`bool` or `Tty`",
    "<class 'bool'>": "`bool`",
    "<class 'int'>": "number",
    "<class 'str'>": "text",
    "<class 'pathlib.Path'>": "path",
}


def make_table(options: Iterable[Option] = OPTIONS.values()) -> str:
    """Return the table of ``options`` as it stands on the page, by groups."""
    ordered = [option for group in Group for option in options if option.group is group]
    head = "| option | value | command line | |\n| --- | --- | --- | --- |\n"
    return head + "".join(f"{_make_row(option)}\n" for option in ordered)


# The tables by their names, with the page of each.
TABLES = {
    "options of a run": ("sdk.md", OPTIONS),
    "options of a runtime": ("sdk.md", RUNTIME_OPTIONS),
    "options of a server": ("api.md", {**SERVER_OPTIONS, **KEPT_OPTIONS, **TIMEOUT_OPTIONS}),
}


def _make_row(option: Option) -> str:
    unit = option.bounds.unit if option.bounds else ""
    value = {"s": "seconds", "bytes": "bytes"}.get(unit) or _TYPES[str(option.type)]
    if option.choices:
        value = ", ".join(f"`{choice}`" for choice in option.choices)
    flags = ", ".join(f"`{flag}`" for flag in option.command_flags)
    meaning = option.sentence
    if (default := _describe_default(option, unit)) is not None:
        meaning += f" Default: {default}."
    if option.local:
        meaning += " Not for a server."
    return f"| `{option.name}` | {value} | {flags} | {meaning} |"


def _describe_default(option: Option, unit: str) -> str | None:
    if option.default is None:
        return option.default_help or None
    if option.default is False or option.default == ():
        return None
    if unit == "bytes":
        return format_size(option.default)
    return f"{option.default:g}" if isinstance(option.default, float) else f"{option.default}"


def main() -> None:
    """Write the tables into their pages."""
    for name, (page, options) in TABLES.items():
        path, begin = DOCS / page, BEGIN.format(name)
        text = path.read_text("utf-8")
        assert begin in text, f"{page} has no place for the table: {begin}"
        before, _, rest = text.partition(begin)
        after = rest.partition(END)[2]
        path.write_text(before + begin + make_table(options.values()) + END + after, "utf-8")


if __name__ == "__main__":
    main()
