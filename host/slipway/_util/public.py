"""Public names: classes and functions that say ``slipway.X``, wherever they are defined."""

from __future__ import annotations

# Not from typing, whose import is a tenth of the start of a VMM.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    _Item = TypeVar("_Item")


def public(item: _Item) -> _Item:
    """Make ``slipway`` the module of a class or function, as shown by tracebacks, repr and pickle.

    Field types of a dataclass are still looked up in the module that defines the class, which
    ``typing.get_type_hints`` would no longer find by ``__module__``.
    """
    home = item.__module__
    item.__module__ = "slipway"
    if hasattr(item, "__dataclass_fields__"):
        from typing import ForwardRef

        for name, declared in item.__annotations__.items():
            if isinstance(declared, str):
                item.__annotations__[name] = ForwardRef(
                    declared, is_argument=False, module=home, is_class=True
                )
    return item
