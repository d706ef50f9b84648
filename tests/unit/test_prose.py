"""Docstrings are plain English (docs/style.md): the numbers here are ceilings that only go down."""

from __future__ import annotations

from functools import cache

import pytest

from support.prose import PACKAGES, Docstring, find_docstrings, find_weak_openings, measure

# Weak words in 100 words of docstrings. The aim is 5.
WEAK_WORDS_PER_HUNDRED = {"host": 8.7, "initramfs": 6.1, "agent": 4.0, "protocol": 4.0}
# Summaries of modules and classes that begin with a weak word. The aim is 0.
WEAK_OPENINGS = {"host": 101, "initramfs": 36, "agent": 0, "protocol": 0}


@cache
def docstrings_of(package: str) -> list[Docstring]:
    return list(find_docstrings(PACKAGES[package]))


@pytest.mark.parametrize("package", PACKAGES)
def test_weak_words_are_rare(package: str) -> None:
    found = docstrings_of(package)
    ranked = sorted(found, key=lambda docstring: -docstring.weak)[:10]

    assert measure(found).per_hundred <= WEAK_WORDS_PER_HUNDRED[package], "see docs/style.md:\n" + (
        "\n".join(f"{docstring.place}: {docstring.weak}" for docstring in ranked)
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_summaries_begin_with_a_noun_or_verb(package: str) -> None:
    found = find_weak_openings(docstrings_of(package))

    assert len(found) <= WEAK_OPENINGS[package], "see docs/style.md:\n" + "\n".join(
        f"{docstring.place}: {docstring.text.splitlines()[0]}" for docstring in found
    )


def test_code_in_docstrings_is_not_counted() -> None:
    docstring = "Do it::\n\n    what = who(none)\n\nThere ``is one`` of :class:`None`.\n"

    words = Docstring(PACKAGES["host"], 1, "name", is_function=True, text=docstring).words

    assert words == ["do", "it", "there", "of"]
