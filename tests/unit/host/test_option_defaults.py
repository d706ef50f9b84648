"""Defaults of the run options: they need neither conversion nor a check."""

from __future__ import annotations

from dataclasses import fields

import pytest

from slipway._model.option import Option  # noqa: TC001  # pytest shows it
from slipway._model.options import OPTIONS, Options
from slipway._model.values import check_value


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS.keys())
def test_default_has_its_type_and_is_within_its_bounds(option: Option) -> None:
    taken = check_value(option.name, option.kind, option.default)

    assert taken == option.default
    assert type(taken) is type(option.default)
    assert not option.choices or option.default is None or option.default in option.choices


def test_each_field_of_the_options_is_declared() -> None:
    assert [field.name for field in fields(Options)] == list(OPTIONS)
