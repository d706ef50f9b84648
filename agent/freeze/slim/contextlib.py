"""Stand-in for contextlib, with the decorator that sliplib uses."""


def contextmanager(function):
    """Return a function whose generator runs around a with statement."""

    def make(*values, **named):
        return _Manager(function(*values, **named))

    return make


class _Manager:
    def __init__(self, generator):
        self._generator = generator

    def __enter__(self):
        return next(self._generator)

    def __exit__(self, kind, error, _trace):
        if error is None:
            next(self._generator, None)
            return False
        try:
            self._generator.throw(error)
        except StopIteration:
            return True
        return False
