"""``typing.NamedTuple`` without the import of typing, which takes 5 ms of each process's start.

Type checkers see the original, by named_tuple.pyi.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _TupleMaker(type):
    def __new__(
        cls, name: str, bases: tuple[type, ...], members: dict[str, Any], **_: object
    ) -> type:
        if not bases:
            return super().__new__(cls, name, bases, members)
        names = tuple(members["__annotations__"])
        defaults = [members.pop(field) for field in names if field in members]
        plain = namedtuple(name, names, defaults=defaults)  # type: ignore[misc]
        return type(name, (plain,), members | {"__slots__": ()})


class NamedTuple(metaclass=_TupleMaker):
    """Base of classes whose annotations are the fields of a tuple."""
