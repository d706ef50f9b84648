"""Stand-in for dataclasses: @dataclass(frozen=True, slots=True) without generated source."""


class FrozenInstanceError(AttributeError):
    """Attempt to change a field of a frozen value."""


def dataclass(*, frozen, slots):
    """Return a decorator for frozen classes with slots, the only supported form."""
    if not (frozen and slots):
        raise TypeError("frozen values with slots only")
    return _convert_class


def _convert_class(original):
    names = tuple(original.__dict__.get("__annotations__", {}))
    namespace = dict(original.__dict__)
    defaults = {name: namespace.pop(name) for name in names if name in namespace}
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    count = len(names)

    def __init__(self, *values, **named):
        if len(values) != count:
            values = _complete_fields(original.__name__, names, defaults, values, named)
        elif named:
            raise TypeError(f"{original.__name__} takes {count} fields")
        for setter, value in zip(setters, values, strict=True):
            setter(self, value)

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        return _list_fields(self) == _list_fields(other)

    def __repr__(self):
        listed = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({listed})"

    namespace.update(
        __slots__=names,
        __match_args__=names,
        __init__=__init__,
        __eq__=__eq__,
        __hash__=_hash_fields,
        __setattr__=_refuse_change,
        __delattr__=_refuse_change,
    )
    namespace.setdefault("__repr__", __repr__)
    kind = type(original)(original.__name__, original.__bases__, namespace)
    kind.__qualname__ = original.__qualname__
    setters = [getattr(kind, name).__set__ for name in names]
    return kind


def _complete_fields(kind, names, defaults, values, named):
    """Return all fields in order, from arguments and defaults."""
    if len(values) > len(names):
        raise TypeError(f"{kind} takes {len(names)} fields, not {len(values)}")
    complete = list(values)
    for name in names[len(values) :]:
        if name in named:
            complete.append(named.pop(name))
        elif name in defaults:
            complete.append(defaults[name])
        else:
            raise TypeError(f"{kind} lacks the field {name}")
    if named:
        raise TypeError(f"{kind} has no such fields, or has them twice: {', '.join(named)}")
    return complete


def _list_fields(self):
    return tuple([getattr(self, name) for name in self.__slots__])


def _hash_fields(self):
    return hash(_list_fields(self))


def _refuse_change(self, name, _value=None):
    raise FrozenInstanceError(f"cannot change field {name!r}")
