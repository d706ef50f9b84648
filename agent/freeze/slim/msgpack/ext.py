"""The types that the compiled module asks for by name; the protocol has no extension types."""


class ExtType:
    """Never made: the protocol allows extensions of no length."""


class Timestamp:
    """Never made: see ExtType."""
