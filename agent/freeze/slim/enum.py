"""Stand-in for enum: IntEnum with members by name, by number and in order."""


class _IntEnumType(type):
    def __new__(cls, name, bases, namespace):
        members = {
            key: value
            for key, value in namespace.items()
            if type(value) is int and not key.startswith("_")
        }
        for key in members:
            del namespace[key]
        kind = super().__new__(cls, name, bases, namespace)
        kind._by_value = by_value = {}
        for key, value in members.items():
            member = by_value[value] = int.__new__(kind, value)
            member.name = key
            member.value = value
            setattr(kind, key, member)
        return kind

    def __call__(cls, value):
        try:
            return cls._by_value[value]
        except KeyError:
            raise ValueError(f"{value!r} is not a valid {cls.__name__}") from None

    def __iter__(cls):
        return iter(cls._by_value.values())

    def __len__(cls):
        return len(cls._by_value)


class IntEnum(int, metaclass=_IntEnumType):
    """Number with a name."""

    def __repr__(self):
        return f"<{type(self).__name__}.{self.name}: {self.value}>"

    __str__ = int.__repr__
    __format__ = int.__format__
