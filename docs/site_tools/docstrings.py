"""Griffe extension: the reStructuredText of docstrings becomes Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")
_LITERAL_ALONE = re.compile(r"^[ \t]*::[ \t]*\n", re.M)
_LITERAL = re.compile(r"::[ \t]*$", re.M)


class Markdown(griffe.Extension):
    """Converter of roles and literal blocks in the docstrings of public names."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Convert the docstring of ``obj``."""
        if obj.docstring is not None:
            text = _LITERAL_ALONE.sub("", obj.docstring.value)
            obj.docstring.value = _ROLE.sub(r"`\1`", _LITERAL.sub(":", text))
