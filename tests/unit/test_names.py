"""One word, one thing (docs/style.md)."""

from __future__ import annotations

import pytest

from support.prose import PACKAGES, TOOLS, find_classes, find_participles, is_participle

# Class names that the glossary has better words for.
OLD_CLASS_NAMES = (
    "Calls Choices Conversation Disk Ground Idle Keeper Line Makings Outlet Patience Place Shape "
    "Shelf Spare Stock Terms Verbs Vms Warmth Watcher"
)


NAMED = PACKAGES | TOOLS


@pytest.mark.parametrize("package", NAMED)
def test_class_names_have_one_meaning(package: str) -> None:
    shared = {name: homes for name, homes in find_classes(NAMED[package]).items() if homes[1:]}

    assert shared == {}


@pytest.mark.parametrize("package", NAMED)
def test_class_names_are_words_of_the_field(package: str) -> None:
    found = find_classes(NAMED[package])

    assert {name: found[name] for name in found.keys() & set(OLD_CLASS_NAMES.split())} == {}


@pytest.mark.parametrize("package", NAMED)
def test_functions_are_named_by_verbs(package: str) -> None:
    assert find_participles(NAMED[package]) == [], "use verb + object"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_told", True),
        ("opened", True),
        ("made", True),
        ("feed", False),
        ("read", False),
        ("on_ended", False),
        ("close_all", False),
    ],
)
def test_participles_are_recognised(name: str, expected: bool) -> None:
    assert is_participle(name) is expected
