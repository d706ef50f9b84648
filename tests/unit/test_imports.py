"""The rooms of the house: imports point one way, and no modules import each other in a circle."""

from __future__ import annotations

from support.imports import (
    ABOVE,
    ORDER,
    find_circles,
    find_floors,
    find_imports_between_rooms,
    find_relative_imports,
    read_imports,
    room_of,
)

MAX_ROOMS = 16
MAX_FLOORS = 9


def test_no_modules_import_each_other_in_a_circle() -> None:
    circles = find_circles(read_imports())

    assert circles == []


def test_finds_a_circle_behind_other_imports() -> None:
    imports = {
        "start": frozenset({"a"}),
        "a": frozenset({"b", "end"}),
        "b": frozenset({"c"}),
        "c": frozenset({"a"}),
        "end": frozenset[str](),
    }

    assert find_circles(imports) == [("a", "b", "c")]


def test_every_module_of_the_host_stands_in_a_room() -> None:
    rooms = {room for group in ORDER for room in group}

    outside = {
        module
        for module in read_imports()
        if module.partition(".")[0] == "slipway" and room_of(module) not in rooms
    }

    assert outside == ABOVE
    assert len(rooms) <= MAX_ROOMS


def test_rooms_import_only_rooms_of_earlier_groups() -> None:
    group_of = {room: number for number, group in enumerate(ORDER) for room in group}

    wrong = [
        f"{module} imports {other}"
        for module, other in find_imports_between_rooms()
        if group_of[room_of(module)] <= group_of[room_of(other)]
    ]

    assert wrong == []


def test_rooms_stand_on_few_floors() -> None:
    floors = find_floors()

    assert len(floors) <= MAX_FLOORS, floors


def test_nothing_in_a_room_imports_the_public_namespace() -> None:
    wrong = [
        module
        for module, imported in read_imports().items()
        if imported & ABOVE and module not in ABOVE
    ]

    assert wrong == []


def test_imports_are_absolute() -> None:
    assert list(find_relative_imports()) == []


def test_packages_import_only_the_packages_below_them() -> None:
    below = {
        "slipway_protocol": set[str](),
        "slipway_agent": {"slipway_protocol"},
        "slipway_initramfs": {"slipway_protocol"},
        "slipway": {"slipway_protocol", "slipway_initramfs"},
    }

    wrong = [
        f"{module} imports {other}"
        for module, imported in read_imports().items()
        for other in imported
        if (own := module.partition(".")[0]) != (its := other.partition(".")[0])
        and its not in below[own]
    ]

    assert wrong == []
