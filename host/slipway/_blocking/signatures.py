"""Signatures of constructors that pass their arguments on."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")


def take_signature(
    model: Callable[Concatenate[Any, _P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """Return a decorator that gives a method the signature of ``model``, also for type checkers."""

    def decorate(method: Callable[..., None]) -> Callable[Concatenate[Any, _P], None]:
        method.__signature__ = inspect.signature(model)  # type: ignore[attr-defined]
        return method

    return decorate
