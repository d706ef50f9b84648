"""Languages by name and suffix, with their images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipway._model.arguments import check_language
from slipway._model.language_info import LanguageInfo
from slipway._model.values import convert
from slipway._run.image_errors import translated_image_errors

if TYPE_CHECKING:
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image


def find_language(name: str, store: ImageStore | None = None) -> Language:
    """Find the language ``name``, or ``name@version``, of Slipway or of ``store``.

    Raises:
        InputError: the language is unknown; the hint has the nearest names.
    """
    from slipway_initramfs.languages import catalogue

    with translated_image_errors():
        return catalogue.find_language(name, store)


def find_language_of_file(path: Path, store: ImageStore | None = None) -> Language:
    """Find the language with the suffix of ``path``.

    Raises:
        InputError: no language has this suffix.
    """
    from slipway_initramfs.languages import catalogue

    with translated_image_errors():
        return catalogue.find_language_by_suffix(path, store)


def select_language(language: object, source: object, store: ImageStore) -> Language:
    """Select a language by name, or by the suffix of ``source`` if that is a path.

    Raises:
        InputError: the language is unknown.
    """
    name = check_language(language, source)
    if name is not None:
        return find_language(name, store)
    return find_language_of_file(convert("source", Path, source), store)


def list_languages(store: ImageStore, architecture: str = "auto") -> tuple[LanguageInfo, ...]:
    """List all languages of Slipway and of ``store``, by name.

    Versions and toolchains are those of images for ``architecture``; ``auto`` is the host's.

    Raises:
        ImageError: the store cannot be read.
    """
    from slipway_initramfs.architectures import machine_architecture
    from slipway_initramfs.languages.catalogue import known_languages

    wanted = machine_architecture() if architecture == "auto" else architecture
    with translated_image_errors():
        known = known_languages(store)
        images: dict[str, list[Image]] = {name: [] for name in known}
        for image in store.images():
            if image.language in known:
                images[image.language].append(image)
        return tuple(
            _build_info(known[name], images[name], store, wanted) for name in sorted(known)
        )


def _build_info(
    language: Language, images: list[Image], store: ImageStore, architecture: str
) -> LanguageInfo:
    versions = {
        image.name.partition("@")[2]: language.toolchain.of(image)
        for image in images
        if image.architecture == architecture
    }
    # A name without a version stands for the default, which may be a version.
    defaults = [
        image
        for image in images
        if image.name == (store.default(language.name, image.architecture) or language.name)
    ]
    default = store.default(language.name, architecture).partition("@")[2]
    others = {version: text for version, text in versions.items() if version}
    return LanguageInfo(
        language.name,
        language.aliases,
        language.suffixes,
        tuple(others),
        default in versions,
        versions.get(default, ""),
        others,
        tuple(image.architecture for image in defaults),
    )
