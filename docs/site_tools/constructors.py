"""Griffe extension: only classes that users construct show the arguments of their constructors."""

from __future__ import annotations

from typing import Any

import griffe

CONSTRUCTED = {"Runtime", "AsyncRuntime", "Client", "AsyncClient"}


class HiddenConstructors(griffe.Extension):
    """Remover of the constructors of handles and errors, which the library makes.

    Dataclasses keep theirs, which griffe adds later: their arguments are the fields.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Remove the constructors of the public classes of ``pkg``."""
        _hide_constructors(pkg)


def _hide_constructors(module: griffe.Module) -> None:
    for member in module.members.values():
        if isinstance(member, griffe.Module):
            _hide_constructors(member)
        elif isinstance(member, griffe.Class) and _is_hidden(member):
            member.members.pop("__init__", None)


def _is_hidden(class_: griffe.Class) -> bool:
    return class_.name not in CONSTRUCTED and any(
        str(decorator.value) == "public" for decorator in class_.decorators
    )
