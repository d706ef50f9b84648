"""Description of a language for callers."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # type of a field
from dataclasses import dataclass

from slipway._util.public import public


@public
@dataclass(frozen=True, slots=True)
class LanguageInfo:
    """Description of a known language.

    ``built`` is True if the default image is in the store. ``toolchain`` is the compiler or
    interpreter of that image (``rustc 1.63.0``, or "" if unknown). ``versions`` are other versions
    with an image, and ``toolchains`` their compilers or interpreters. All of these are about
    machines of the default architecture of runtime or server. ``architectures`` (``amd64``,
    ``arm64``) are all those whose default image is in the store.
    """

    name: str
    aliases: tuple[str, ...]
    suffixes: tuple[str, ...]
    versions: tuple[str, ...]
    built: bool
    toolchain: str
    toolchains: Mapping[str, str]
    architectures: tuple[str, ...]
