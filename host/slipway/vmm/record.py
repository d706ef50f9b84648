"""Plain values with names: ``@record`` is ``@dataclass(slots=True)`` without its import.

dataclasses brings inspect and generates source for each class. In a process that starts once for
each VM that is 12 ms, as much as all else that it imports. To a type checker they are dataclasses:
record.pyi says so.
"""


class _Fresh:
    """A default that is made anew for each record."""

    def __init__(self, make):
        self.make = make


def field(*, default_factory):
    """A field whose default ``default_factory`` makes."""
    return _Fresh(default_factory)


def record(plain):
    """Make a class with annotations and defaults one with slots, ``__init__`` and ``==``."""
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
    """A copy of ``value`` with ``changes``."""
    kept = {name: getattr(value, name) for name in value.__slots__}
    return type(value)(**(kept | changes))


def _compare(self, other):
    if type(self) is not type(other):
        return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)


def _represent(self):
    fields = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({', '.join(fields)})"
