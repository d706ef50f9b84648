"""Input file of a run."""

# Not "from __future__ import annotations": the types of fields are read at each start.
import os
from dataclasses import dataclass

from slipway._model.values import convert, read_field_types
from slipway._util.public import public


@public
@dataclass(frozen=True, slots=True, init=False)
class InputFile:
    """Input file for the working directory: the ``path`` there, and ``data``, bytes or a text.

    Raises:
        InputError: an argument is of another type.
    """

    path: str
    data: bytes
    mode: int

    def __init__(self, path: str | os.PathLike[str], data: bytes | str, mode: int = 0o644) -> None:
        given = {"path": path, "data": data, "mode": mode}
        for name, kind in read_field_types(InputFile).items():
            value = convert(f"{name} of an InputFile", kind, given[name])
            object.__setattr__(self, name, value)
