"""One word, one thing (docs/style.md): the numbers and lists here only become smaller."""

from __future__ import annotations

import pytest

from support.prose import PACKAGES, find_classes, find_participles, is_participle

# Class names that several modules of a package define, each time with the same meaning.
SHARED_CLASS_NAMES = {
    "host": "File",
    "initramfs": "",
    "agent": "",
    "protocol": "",
}
# Class names that the glossary has better words for, and those of them that are to be renamed yet.
OLD_CLASS_NAMES = (
    "Calls Choices Conversation Disk Ground Idle Keeper Line Makings Outlet Patience Place Shape "
    "Shelf Spare Stock Terms Verbs Vms Warmth Watcher"
)
NOT_RENAMED_YET = ""
# Functions that are named by a bare participle. The aim is 0.
PARTICIPLES = {"host": 2, "initramfs": 0, "agent": 0, "protocol": 0}


@pytest.mark.parametrize("package", PACKAGES)
def test_class_names_have_one_meaning(package: str) -> None:
    shared = {name: homes for name, homes in find_classes(PACKAGES[package]).items() if homes[1:]}

    unexpected = shared.keys() - set(SHARED_CLASS_NAMES[package].split())
    assert not unexpected, {name: shared[name] for name in unexpected}


@pytest.mark.parametrize("package", PACKAGES)
def test_class_names_are_words_of_the_field(package: str) -> None:
    old = set(OLD_CLASS_NAMES.split()) - set(NOT_RENAMED_YET.split())
    found = find_classes(PACKAGES[package])

    assert {name: found[name] for name in found.keys() & old} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_named_by_verbs(package: str) -> None:
    found = find_participles(PACKAGES[package])

    assert len(found) <= PARTICIPLES[package], "\n".join(["use verb + object:", *found])


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
