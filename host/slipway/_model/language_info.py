"""What callers are told of a language."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # type of a field
from dataclasses import dataclass

from slipway._util.public import public


@public
@dataclass(frozen=True, slots=True)
class LanguageInfo:
    """A language that can be run.

    ``built`` says whether the image that its name stands for is there, and ``toolchain`` what
    compiles or interprets in it (``rustc 1.63.0``; "" where that is unknown). ``versions`` are the
    others that have an image, and ``toolchains`` tells of each what is in it.
    """

    name: str
    aliases: tuple[str, ...]
    suffixes: tuple[str, ...]
    versions: tuple[str, ...]
    built: bool
    toolchain: str
    toolchains: Mapping[str, str]
