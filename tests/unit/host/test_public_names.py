"""Public classes and functions say ``slipway.X``: in tracebacks, in repr and in pickles."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from dataclasses import is_dataclass
from typing import Annotated, get_origin, get_type_hints

import pytest

import slipway

NAMES = [name for name in slipway.__all__ if hasattr(getattr(slipway, name), "__qualname__")]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(slipway, name))]
ERRORS = [name for name in CLASSES if issubclass(getattr(slipway, name), slipway.SlipwayError)]


def test_there_are_public_names_of_each_kind() -> None:
    assert {"run", "Options", "AsyncRuntime", "UnknownOutcome"} <= {*NAMES}
    assert len(ERRORS) == 7
    assert len(NAMES) > len(CLASSES) > 35


@pytest.mark.parametrize("name", NAMES)
def test_the_module_is_slipway(name: str) -> None:
    item = getattr(slipway, name)

    assert (item.__module__, item.__qualname__) == ("slipway", name)
    assert pickle.loads(pickle.dumps(item)) is item


@pytest.mark.parametrize(
    "value",
    [
        slipway.Options(timeout=2, files=(slipway.InputFile("a", b"b"),), tty=slipway.Tty(5, 6)),
        slipway.Output("run", "stdout", b"bytes"),
        slipway.Usage(1, 2, 3, 4, 5),
        slipway.Verdict.OK,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_can_be_pickled(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert b"_model" not in pickle.dumps(value)


def test_errors_can_be_pickled() -> None:
    restored = pickle.loads(pickle.dumps(slipway.InputError("wrong", "a hint")))

    assert isinstance(restored, slipway.InputError)
    assert (restored.message, restored.hint) == ("wrong", "a hint")


@pytest.mark.parametrize("name", [name for name in CLASSES if is_dataclass(getattr(slipway, name))])
def test_field_types_can_be_looked_up(name: str) -> None:
    kind = getattr(slipway, name)

    hints = get_type_hints(kind)

    assert hints.keys() == kind.__dataclass_fields__.keys()
    assert not any(isinstance(hint, str) for hint in hints.values())


def test_bounds_are_found_with_the_types() -> None:
    assert any(
        any(get_origin(part) is Annotated for part in (hint, *getattr(hint, "__args__", ())))
        for hint in get_type_hints(slipway.Options, include_extras=True).values()
    )


def test_a_traceback_names_the_error_in_public() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import slipway; slipway.Options(timeout='soon')"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stderr.splitlines()[-1].startswith("slipway.InputError: timeout is 'soon'")


@pytest.mark.parametrize("name", CLASSES)
def test_docstring_does_not_repeat_the_name(name: str) -> None:
    assert not (getattr(slipway, name).__doc__ or "").startswith(f"{name}:")
