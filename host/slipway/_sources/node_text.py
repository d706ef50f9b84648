"""Detection of JavaScript modules by their text.

A source is a module if it contains syntax that a CommonJS script cannot have: import and export
declarations, ``import.meta``, and ``await`` outside of functions. Ambiguous sources are scripts.
"""

from __future__ import annotations

import re
from typing import Final

from slipway._sources.words import split_words

# Bytes. The syntax of a module stands near its beginning.
MAX_READ: Final = 256 * 1024
_WORDS = re.compile(rb"\b(?:import|export|await)\b")
# Each alternative consumes all it has examined, closed or not: the cost is linear for any text.
_PIECE = re.compile(
    r"""
    (?P<space>[^\S\n]+ | //[^\n]* | /\*.*?(?:\*/|\Z) | \n)
    | (?P<string>"(?:[^"\\\n]|\\.)*"? | '(?:[^'\\\n]|\\.)*'?)
    | (?P<word>[\w$\#]+)
    | (?P<mark>=> | \+\+ | -- | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_TEMPLATE = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*(?:`|\$\{)?", re.DOTALL)
_PATTERN = re.compile(r"(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\]?)*/?\w*")
_META = re.compile(r"\s*meta\b")
# Words after which a slash begins a regular expression, and marks after which it does not.
_BEFORE_PATTERN: Final = split_words(
    "return typeof case in of delete void throw new else do await yield instanceof"
)
_OPERANDS: Final = frozenset(")]}") | {"++", "--"}
# Words before a parenthesis that is followed by a block, and not by the body of a function.
_HEADS: Final = split_words("if for while switch catch with await")
_STATEMENTS: Final = split_words("const let var if for while try switch throw do")
_EXPORTED: Final = split_words("default const let var function class async { *")
_OPERATORS: Final = split_words("in of instanceof")


def is_module(source: bytes) -> bool:
    """Tell if ``source`` is a module and cannot be a script."""
    head = source[:MAX_READ]
    return _WORDS.search(head) is not None and _Scan(head.decode("utf-8", "replace")).finds_mark()


class _Scan:
    """Scan of the tokens of a source, with the brackets and functions open around each."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = max(text.find("\n"), 0) if text.startswith("#!") else 0
        self._last = ""
        # Open brackets: the kind of each, and for "(" the word before it.
        self._open: list[tuple[str, str]] = []
        self._head = ""  # of the parenthesis that was closed last
        self._functions = 0
        # Depth of an arrow function whose body is an expression and has not ended.
        self._arrow: int | None = None

    def finds_mark(self) -> bool:
        """Tell if a token makes the source a module."""
        before, fresh = "", False
        while self._position < len(self._text):
            match = _PIECE.match(self._text, self._position)
            assert match is not None
            kind, piece = str(match.lastgroup), match[0]
            self._position = match.end()
            if kind == "space":
                fresh = fresh or "\n" in piece
                continue
            if self._is_mark(before, kind, piece, fresh=fresh):
                return True
            if self._last == "=>" and piece != "{":
                self._arrow = len(self._open)
            before = piece if kind == "word" and self._last != "." else ""
            self._last = self._take(kind, piece, fresh=fresh)
            fresh = False
        return False

    def _is_mark(self, word: str, kind: str, piece: str, *, fresh: bool) -> bool:
        """Tell if ``word`` and the following ``piece`` make the source a module."""
        if word == "import" and piece == ".":
            return _META.match(self._text, self._position) is not None
        if word == "import":
            return not self._open and (kind in {"word", "string"} or piece in {"{", "*"})
        if word == "export":
            return not self._open and piece in _EXPORTED
        if word == "for":
            return piece == "await" and self._is_outside()
        # A new statement may begin on the next line: in scripts, "await" is a name.
        operand = kind in {"word", "string"} and piece not in _OPERATORS
        return word == "await" and operand and not fresh and self._is_outside()

    def _is_outside(self) -> bool:
        """Tell if the position is outside of all functions."""
        return not self._functions and self._arrow is None

    def _take(self, kind: str, piece: str, *, fresh: bool) -> str:
        """Consume ``piece`` with the construct that it begins; return the new last token."""
        if kind == "string":
            return "string"
        if piece == "/" and self._begins_pattern(fresh=fresh):
            self._skip(_PATTERN)
            return "string"
        if piece == "`":
            return self._take_template()
        if piece == "{":
            body = self._last == "=>" or (self._last == ")" and self._head not in _HEADS)
            self._functions += body
            self._open.append(("function" if body else piece, ""))
        elif piece in {"(", "["}:
            self._open.append((piece, self._last))
        elif piece in {")", "]", "}"}:
            return self._close(piece)
        elif self._arrow == len(self._open) and (
            piece in {";", ","} or (fresh and piece in _STATEMENTS)
        ):
            self._arrow = None
        return piece

    def _close(self, piece: str) -> str:
        what, head = self._open.pop() if self._open else ("", "")
        self._head = head
        if self._arrow is not None and self._arrow > len(self._open):
            self._arrow = None
        self._functions -= what == "function"
        return self._take_template() if what == "`" else piece

    def _take_template(self) -> str:
        """Skip to the end of a template, or to its next expression; return the new last token."""
        if self._skip(_TEMPLATE).endswith("${"):
            self._open.append(("`", ""))
            return "("
        return "string"

    def _begins_pattern(self, *, fresh: bool) -> bool:
        """Tell if a slash here begins a regular expression instead of dividing."""
        last = self._last
        if last == "}":
            return fresh
        if last == ")":
            return self._head in _HEADS
        word = last[:1].isalnum() or last[:1] in {"_", "$"}
        return last in _BEFORE_PATTERN if word else last not in _OPERANDS

    def _skip(self, what: re.Pattern[str]) -> str:
        match = what.match(self._text, self._position)
        assert match is not None
        self._position = match.end()
        return match[0]
