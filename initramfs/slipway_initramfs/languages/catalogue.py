"""Catalogue of languages: the built-in ones, and those added to a store.

Each language is a TOML file. Slipway brings a set of files; ``slipway image build --language-file``
adds others to a store. ``docs/adding-a-language.md`` explains every key.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from slipway_initramfs.errors import ImageCorrupted, ImageError, InvalidLanguage, UnknownLanguage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore

# Kind of the store's records of added language files.
LANGUAGE_KIND = "language"
_PAGE = "docs/adding-a-language.md"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


# Languages unknown to Slipway, and their suffixes. For these no similar name is suggested.
_OTHERS = """
ada .adb basic .bas clojure .clj cobol .cob crystal .cr csharp .cs c# .cs d .d dart .dart
elixir .ex elixir .exs erlang .erl fish .fish fortran .f90 fsharp .fs f# .fs groovy .groovy
haskell .hs java .java jsx .jsx julia .jl kotlin .kt kotlin .kts lisp .lisp lua .lua matlab .m
nim .nim objective-c .m ocaml .ml pascal .pas perl .pl php .php powershell .ps1 prolog .pro r .r
racket .rkt raku .raku ruby .rb scala .scala scheme .scm sql .sql swift .swift tcl .tcl
typescript .ts tsx .tsx v .v zig .zig zsh .zsh
"""


def find_directory() -> Path:
    """Find the directory of the built-in language files.

    A wheel has them inside the package, a checkout beside it.
    """
    installed = Path(__file__).parents[1] / "language_files"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "languages"


@cache
def builtin_languages() -> Mapping[str, Language]:
    """Return the built-in languages, by name."""
    found = (load_language(path) for path in sorted(find_directory().glob("*.toml")))
    return MappingProxyType({language.name: language for language in found})


def known_languages(store: ImageStore) -> Mapping[str, Language]:
    """Return the built-in languages and those added to ``store``, by name."""
    return MappingProxyType({**builtin_languages(), **_load_stored(store)})


def find_language(name: str, store: ImageStore | None = None) -> Language:
    """Return the language with this name or alias, in any case, with an optional ``@version``.

    Raises:
        UnknownLanguage: the language is unknown, or the version invalid.
    """
    wanted, at, version = name.strip().partition("@")
    wanted = wanted.lower()
    if at and not _VERSION.fullmatch(version):
        raise UnknownLanguage(
            f"invalid version of a language: {version[:40]!r}",
            "Write for example rust@1.80: letters, digits, dots, '-' and '_'.",
        )
    languages = list(_list_known(store))
    known = {alias: language for language in languages for alias in language.aliases}
    # Names last: a name takes precedence over an alias of another language.
    known |= {language.name: language for language in languages}
    if wanted not in known:
        raise _make_unknown_error(f"unknown language {name[:40]!r}", wanted, list(known))
    found = known[wanted]
    # An alias such as "mjs" is the language in a file with this suffix.
    if wanted in found.aliases and f".{wanted}" in found.suffixes:
        found = found.with_suffix(f".{wanted}")
    return replace(found, version=version) if version else found


def find_language_by_suffix(path: str | Path, store: ImageStore | None = None) -> Language:
    """Return the language of a source file, by its suffix.

    Raises:
        UnknownLanguage: no language has the suffix.
    """
    suffix = Path(path).suffix
    known: dict[str, Language] = {}
    for language in _list_known(store):
        known |= dict.fromkeys(language.suffixes, language)
    # ".C" is C++ by an old custom; otherwise case does not matter.
    suffix_known = suffix if suffix in known else suffix.lower()
    found = known.get(suffix_known)
    if found is None:
        what = f"the suffix {suffix[:40]!r}" if suffix else "files without a suffix"
        raise _make_unknown_error(f"no language has {what}", suffix.lower(), list(known))
    return found.with_suffix(suffix_known)


def load_language(path: Path) -> Language:
    """Read a language file.

    Raises:
        InvalidLanguage: the file cannot be read or is invalid; the message names file and key.
    """
    from slipway_initramfs.languages import toml_file

    return toml_file.parse_language(toml_file.read_file(path), path.name)


def check_new_name(name: str) -> None:
    """Check that ``name`` is not the name or an alias of a built-in language.

    Raises:
        InvalidLanguage: the name is taken.
    """
    if any(name in (known.name, *known.aliases) for known in builtin_languages().values()):
        raise InvalidLanguage(
            f"{name!r} is a built-in language", "Choose another name with --name."
        )


def store_language(store: ImageStore, name: str, text: bytes) -> None:
    """Add the language file ``text`` to ``store`` as ``name``."""
    with store.building(f"language-{name}"):
        store.put_record(LANGUAGE_KIND, name, {"file": text.decode()})


def _list_known(store: ImageStore | None) -> Iterable[Language]:
    # Added languages first: built-in languages take precedence if both claim a suffix.
    return (*(_load_stored(store).values() if store else ()), *builtin_languages().values())


def _load_stored(store: ImageStore) -> dict[str, Language]:
    from slipway_initramfs.languages import toml_file
    from slipway_initramfs.store import manifests

    given = {}
    for name in store.names(LANGUAGE_KIND):
        try:
            record = store.record(LANGUAGE_KIND, name)
            if record is not None:
                text = manifests.get_text(record, "file")
                language = toml_file.parse_language(text.encode(), f"the language file of {name}")
                # Under another name a language does not claim its aliases.
                aliases = language.aliases if language.name == name else ()
                given[name] = replace(language, name=name, aliases=aliases)
        except (InvalidLanguage, ImageCorrupted):
            # A damaged file, or one that only an older version accepts: unknown until it is added
            # again, but no reason to refuse all others.
            continue
    return given


def _make_unknown_error(message: str, wanted: str, known: list[str]) -> ImageError:
    import difflib

    cutoff = 0.75 if wanted.startswith(".") else 0.6
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=cutoff)
    if near and wanted not in _OTHERS.split():
        return UnknownLanguage(message, f"Did you mean {' or '.join(near)}?")
    return UnknownLanguage(
        message, f"Known: {', '.join(sorted(known))}. To add another, see {_PAGE}."
    )
