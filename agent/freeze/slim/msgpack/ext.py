"""Stand-in for msgpack.ext: types that the compiled module imports by name."""


class ExtType:
    """Unused: the protocol has no extension types."""


class Timestamp:
    """Unused: see ExtType."""
