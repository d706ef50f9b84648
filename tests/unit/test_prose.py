"""Docstrings and pages are plain English (docs/style.md); numbers here are ceilings."""

from __future__ import annotations

from functools import cache

import pytest

from support.markdown import ROOT, find_pages
from support.prose import (
    PACKAGES,
    TOOLS,
    Docstring,
    find_docstrings,
    find_inline_raises,
    find_weak_openings,
    measure,
    measure_page,
)

# Weak words in 100 words of the docstrings of a package, and of the tools of tests.
WEAK_WORDS_PER_HUNDRED = 3.5
MEASURED = PACKAGES | {"support": TOOLS["support"]}
# The same in 100 words of a page, and the pages that are above that still. The house style lists
# the words themselves.
WEAK_WORDS_OF_A_PAGE = 5.2
WEAK_WORDS_OF_PAGES = {"docs/style.md": 9.8}


@cache
def docstrings_of(package: str) -> list[Docstring]:
    return list(find_docstrings(MEASURED[package]))


@pytest.mark.parametrize("package", MEASURED)
def test_weak_words_are_rare(package: str) -> None:
    found = docstrings_of(package)
    ranked = sorted(found, key=lambda docstring: -docstring.weak)[:10]

    assert measure(found).per_hundred <= WEAK_WORDS_PER_HUNDRED, "see docs/style.md:\n" + (
        "\n".join(f"{docstring.place}: {docstring.weak}" for docstring in ranked)
    )


@pytest.mark.parametrize("package", MEASURED)
def test_summaries_begin_with_a_noun_or_verb(package: str) -> None:
    found = find_weak_openings(docstrings_of(package))

    assert [f"{docstring.place}: {docstring.text}" for docstring in found] == [], "docs/style.md"


@pytest.mark.parametrize("package", PACKAGES)
def test_exceptions_are_listed_in_their_section(package: str) -> None:
    found = find_inline_raises(docstrings_of(package))

    assert [f"{docstring.place}: {docstring.text}" for docstring in found] == [], "docs/style.md"


@pytest.mark.parametrize(
    ("text", "is_inline"),
    [
        ("Check it. Raises OSError.", True),
        ("Check it; raises ``OSError``.", True),
        ("Check it; raises as :meth:`start`.", True),
        ("Check it.\n\nRaises:\n    OSError: no.", False),
        ("Check it. No content raises another exception.", False),
    ],
)
def test_inline_form_of_raises_is_found(text: str, is_inline: bool) -> None:
    docstring = Docstring(PACKAGES["host"], 1, "name", is_function=True, text=text)

    assert bool(find_inline_raises([docstring])) == is_inline


def test_weak_words_are_rare_in_pages(subtests: pytest.Subtests) -> None:
    for page in find_pages():
        name = str(page.relative_to(ROOT))
        with subtests.test(name):
            ceiling = WEAK_WORDS_OF_PAGES.get(name, WEAK_WORDS_OF_A_PAGE)
            assert measure_page(page.read_text()).per_hundred <= ceiling, "see docs/style.md"


def test_code_in_docstrings_is_not_counted() -> None:
    docstring = "Do it::\n\n    what = who(none)\n\nThere ``is one`` of :class:`None`.\n"

    words = Docstring(PACKAGES["host"], 1, "name", is_function=True, text=docstring).words

    assert words == ["do", "it", "there", "of"]
