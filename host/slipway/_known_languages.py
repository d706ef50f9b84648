"""What can be run, and which of it has an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._assets import errors_told_to_callers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway_initramfs.languages import Language
    from slipway_initramfs.store import ImageStore


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


def list_languages(store: ImageStore) -> tuple[LanguageInfo, ...]:
    """All languages that Slipway has or ``store`` was given, by name.

    Raises:
        ImageError: the store cannot be read.
    """
    from slipway_initramfs.languages import known_languages
    from slipway_initramfs.store import machine_architecture

    with errors_told_to_callers():
        known = known_languages(store)
        found: dict[str, dict[str, str]] = {name: {} for name in known}
        for image in store.images():
            if image.architecture == machine_architecture() and image.language in known:
                version = image.name.partition("@")[2]
                found[image.language][version] = known[image.language].toolchain.of(image)
        return tuple(_info(known[name], found[name], store) for name in sorted(known))


def _info(language: Language, found: dict[str, str], store: ImageStore) -> LanguageInfo:
    # What a bare name stands for may be one of the versions.
    meant = store.default(language.name).partition("@")[2]
    others = {version: text for version, text in found.items() if version}
    return LanguageInfo(
        language.name,
        language.aliases,
        language.suffixes,
        tuple(others),
        meant in found,
        found.get(meant, ""),
        others,
    )
