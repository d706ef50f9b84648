"""Griffe extension: fields show their types; the help of a run option is their description."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class PlainAnnotations(griffe.Extension):
    """Converter of ``Annotated[type, ...]`` to the type, with the help of an ``Option``."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Convert the annotation of ``attr``."""
        annotation = attr.annotation
        if not isinstance(annotation, griffe.ExprSubscript) or str(annotation.left) != "Annotated":
            return
        kind, *notes = annotation.slice.elements
        attr.annotation = kind
        for note in notes:
            if isinstance(note, griffe.ExprCall) and str(note.function) == "Option":
                text = ast.literal_eval(str(note.arguments[0]))
                attr.docstring = griffe.Docstring(f"{text[0].upper()}{text[1:]}.", parent=attr)
