"""Options of runtime and server: each form follows from the declaration."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import slipway
from slipway._cli import mcp, serve
from slipway._model.runtime_options import RUNTIME_OPTIONS, RuntimeOptions
from slipway._server.settings import KEPT_OPTIONS, SERVER_OPTIONS, TIMEOUT_OPTIONS

DECLARED = {**RUNTIME_OPTIONS, **SERVER_OPTIONS, **KEPT_OPTIONS, **TIMEOUT_OPTIONS}


@pytest.mark.parametrize("kind", [slipway.AsyncRuntime, slipway.Runtime])
def test_arguments_of_a_runtime_are_the_declared_options(kind: type) -> None:
    parameters = inspect.signature(kind).parameters

    # These two are objects, and have no form on a command line.
    assert list(parameters) == [*RUNTIME_OPTIONS, "images", "launcher"]
    for name, option in RUNTIME_OPTIONS.items():
        assert parameters[name].default == option.default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("kind", [slipway.AsyncRuntime, slipway.Runtime])
@pytest.mark.parametrize(
    "name", [name for name, option in RUNTIME_OPTIONS.items() if option.choices]
)
def test_runtime_refuses_a_word_that_is_no_choice(kind: type, name: str) -> None:
    with pytest.raises(slipway.InputError, match=f"^{name} is 'AUTO'"):
        kind(**{name: "AUTO"})


def test_declared_options_are_the_fields() -> None:
    assert list(RUNTIME_OPTIONS) == list(RuntimeOptions.__dataclass_fields__)


@pytest.mark.parametrize("name", DECLARED)
def test_serve_has_the_option_with_its_default(name: str) -> None:
    parser = serve.build_parser("slipway serve")
    option = DECLARED[name]

    parsed = vars(parser.parse_args([]))

    assert all(flag in parser.format_help() for flag in option.command_flags)
    # The pool of a server has another default, which depends on --cold.
    default = list(option.default) if name in {"warm", "listed"} else option.default
    assert name == "pool" or parsed[name] == default


@pytest.mark.parametrize(
    ("flag", "text", "name", "value"),
    [
        ("--max-machines", "3", "max_machines", 3),
        ("--memory-budget", "2G", "memory_budget", 2 << 30),
        ("--warm", "python", "warm", ["python"]),
        ("--build", "never", "build", "never"),
        ("--listed", "rust@1.80", "listed", ["rust@1.80"]),
        ("--kept-budget", "1M", "kept_budget", 1024 * 1024),
        ("--drain", "2m", "drain", 120.0),
        ("--max-sessions", "0", "sessions", 0),
        ("--body-limit", "1M", "body_limit", 1 << 20),
    ],
)
def test_serve_reads_values_by_their_unit(flag: str, text: str, name: str, value: Any) -> None:
    parsed = serve.build_parser("slipway serve").parse_args([flag, text])

    assert getattr(parsed, name) == value


def test_tools_for_models_have_the_options_of_their_machines() -> None:
    typed = ["--max-machines", "2", "--kernel", "small"]
    parsed = mcp.build_parser("slipway mcp").parse_args(typed)

    assert (parsed.max_machines, parsed.machine, parsed.kernel) == (2, "auto", "small")
