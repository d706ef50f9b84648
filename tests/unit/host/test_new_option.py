"""A new run option is one entry: its field in Options, in a copy of the source."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
# A field of each kind, as a developer would write it; the name says the kind.
ENTRIES = """
    new_time: Annotated[Seconds | None, Option("new time")] = None
    new_size: Annotated[Size | None, Option("new size")] = None
    new_count: Annotated[Count | None, Option("new count")] = None
    new_text: Annotated[str | None, Option("new text")] = None
    new_choice: Annotated[str, Option("new choice", choices=("one", "two"))] = "one"
    new_flag: Annotated[bool, Option("new flag", Group.PROGRAM)] = False
    new_texts: Annotated[
        tuple[str, ...], Option("new texts", Group.PROGRAM, most_items=3)
    ] = ()
    new_mapping: Annotated[
        tuple[tuple[str, str], ...], Option("new mapping", Group.PROGRAM, most_items=3)
    ] = ()
    new_path: Annotated[Path | None, Option("new path", Group.MACHINE, local=True)] = None
    new_machine: Annotated[str | None, Option("new of the machine", Group.MACHINE)] = None
"""
LAST = "    boot_log: Annotated["
# A value of each that can be typed as one argument, with its form in JSON.
TYPED: dict[str, tuple[str | None, Any]] = {
    "new_time": ("2m", 120.0),
    "new_size": ("8M", 8 * 1024 * 1024),
    "new_count": ("3", 3),
    "new_text": ("word", "word"),
    "new_choice": ("two", "two"),
    "new_flag": (None, True),
    "new_texts": ("word", ["word"]),
    "new_machine": ("word", "word"),
}
# Runs over the copy: types all options, sends them to the API's model, and back to Options.
PROGRAM = """
import json, sys
import slipway
from slipway._cli.run_arguments import build_parser, parse_arguments, read_options
from slipway._mcp.forms import RunCodeArguments
from slipway._model.option import Group
from slipway._model.options import OPTIONS, Options
from slipway._model.run_request import RunRequest
from slipway._wire.job import encode_job, encode_session
from slipway._wire.option_models import read_options as read_form
from slipway._wire.request_models import SessionBody, StartBody, StartQuery
from support.option_table import make_table

parser = build_parser("vmm-run")
typed = json.loads(sys.argv[1])
options = read_options(parse_arguments([*typed, "-c", "1", "--language", "c"], parser), (), ())
record = encode_job(RunRequest(b"x", "c", options, b""))
mapping = Options(new_mapping={"a": "b"})
mapped = encode_job(RunRequest(b"x", "c", mapping, b""))
back = Options(**read_form(StartBody.model_validate(record)))
print(json.dumps({
    "file": slipway.__file__,
    "help": " ".join(parser.format_help().split()),
    "record": record,
    "session": encode_session("c", options, 1.0),
    "mapped": mapped["new_mapping"],
    "round_trips": back == options
    and Options(**read_form(StartBody.model_validate(mapped))) == mapping,
    "query": list(StartQuery.model_fields),
    "schema": StartBody.model_json_schema()["properties"],
    "session_schema": SessionBody.model_json_schema()["properties"],
    "tool": list(RunCodeArguments.model_fields),
    "table": make_table(),
}))
"""


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All forms of the options of a copy of the source with ENTRIES."""
    copy = tmp_path_factory.mktemp("copy") / "slipway"
    shutil.copytree(ROOT / "host" / "slipway", copy, ignore=shutil.ignore_patterns("__pycache__"))
    page = copy / "_model" / "options.py"
    text = page.read_text("utf-8")
    assert text.count(LAST) == 1
    page.write_text(text.replace(LAST, ENTRIES.lstrip("\n") + LAST), "utf-8")
    typed = [
        part
        for name, (value, _) in TYPED.items()
        for part in ("--" + name.replace("_", "-"), value)
        if part is not None
    ]
    path = os.pathsep.join((str(copy.parent), str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(typed)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["file"] == str(copy / "__init__.py")
    return found


NAMES = [line.split(":")[0].strip() for line in ENTRIES.splitlines() if line[4:8] == "new_"]
on_all = pytest.mark.parametrize("name", NAMES)


@on_all
def test_command_line_and_docs_have_the_new_option(forms: Any, name: str) -> None:
    assert "--" + name.replace("_", "-") in forms["help"]
    assert f"| `{name}` | " in forms["table"]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, value) in TYPED.items()])
def test_typed_value_reaches_the_body_of_the_request(forms: Any, name: str, value: Any) -> None:
    assert forms["record"][name] == value


def test_mapping_is_an_object_in_the_body(forms: Any) -> None:
    assert forms["mapped"] == {"a": "b"}


def test_server_reads_the_options_that_the_client_wrote(forms: Any) -> None:
    assert forms["round_trips"]


@on_all
def test_api_and_tool_describe_the_new_option(forms: Any, name: str) -> None:
    is_local, is_machine = name == "new_path", name in {"new_path", "new_machine"}
    has_items = name in {"new_texts", "new_mapping"}

    assert (name in forms["schema"]) != is_local
    assert (name in forms["query"]) != (is_local or has_items)
    assert (name in forms["tool"]) != is_machine
    assert (name in forms["session"]) == (name in forms["session_schema"])
    assert (name in forms["session_schema"]) == (is_machine and not is_local)
    assert is_local or forms["schema"][name]["description"].startswith("New ")
