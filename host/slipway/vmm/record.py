"""Plain values with named fields: ``@record`` is ``@dataclass(slots=True)`` without its import.

The module dataclasses imports inspect and generates source for each class. In a process that starts
once for each VM that takes 12 ms, as much as all other imports. Type checkers see dataclasses, by
record.pyi.
"""


class _Fresh:
    """Default value that is made anew for each record."""

    def __init__(self, make):
        self.make = make


def field(*, default_factory):
    """Return a field whose default is made by ``default_factory``."""
    return _Fresh(default_factory)


def record(plain):
    """Return the class ``plain``, with slots, ``__init__`` and ``==`` made of its annotations."""
    members = dict(plain.__dict__)
    names = tuple(members["__annotations__"])
    defaults = {name: members.pop(name) for name in names if name in members}
    for name in ("__dict__", "__weakref__"):
        members.pop(name, None)

    def initialise(self, *values, **named):
        given = dict(zip(names, values, strict=False)) | named
        if len(given) != len(values) + len(named) or given.keys() - set(names):
            raise TypeError(f"{plain.__name__} takes each of {', '.join(names)} once")
        for name in names:
            if name in given:
                value = given[name]
            elif name in defaults:
                value = defaults[name]
                value = value.make() if type(value) is _Fresh else value
            else:
                raise TypeError(f"{plain.__name__} lacks {name}")
            setattr(self, name, value)

    members.update(
        __slots__=names, __init__=initialise, __eq__=_compare, __hash__=None, __repr__=_represent
    )
    made = type(plain.__name__, plain.__bases__, members)
    made.__qualname__ = plain.__qualname__
    return made


def replace(value, **changes):
    """Return a copy of ``value`` with ``changes``."""
    kept = {name: getattr(value, name) for name in value.__slots__}
    return type(value)(**(kept | changes))


def _compare(self, other):
    if type(self) is not type(other):
        return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)


def _represent(self):
    fields = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({', '.join(fields)})"
