"""The rooms of the house: imports point one way, and no modules import each other in a circle."""

from __future__ import annotations

from support.imports import find_circles, read_imports, room_of

# A module may import its own room, and the rooms of the floors before it. docs/architecture.md
# draws them.
FLOORS = (
    ("_util", "_model"),
    ("vmm", "_wire", "_sources", "_admission"),
    ("machine", "_remote"),
    ("_run",),
    ("_snapshots",),
    ("_local",),
    ("_server", "_blocking", "_mcp"),
    ("_cli",),
)
# The one arrow on a floor.
WITHIN_FLOOR = {("_model", "_util")}
# The public namespace and ``python -m slipway``, which stand above all rooms.
ABOVE = {"slipway", "slipway.__main__"}


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
    rooms = {room for floor in FLOORS for room in floor}

    outside = {
        module
        for module in read_imports()
        if module.partition(".")[0] == "slipway" and room_of(module) not in rooms
    }

    assert outside == ABOVE
    assert len(rooms) <= 15
    assert len(FLOORS) <= 8


def test_rooms_import_only_rooms_of_earlier_floors() -> None:
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}

    wrong = [
        f"{module} imports {other}"
        for module, imported in read_imports().items()
        if module.partition(".")[0] == "slipway" and module not in ABOVE
        for other in imported
        if other.partition(".")[0] == "slipway"
        and other not in ABOVE
        and (own := room_of(module)) != (its := room_of(other))
        and (own, its) not in WITHIN_FLOOR
        and floor_of[own] <= floor_of[its]
    ]

    assert wrong == []


def test_nothing_in_a_room_imports_the_public_namespace() -> None:
    wrong = [
        module
        for module, imported in read_imports().items()
        if imported & ABOVE and module not in ABOVE
    ]

    assert wrong == []


def test_packages_import_only_the_packages_below_them() -> None:
    below = {
        "slipway_protocol": set[str](),
        "slipway_agent": {"slipway_protocol"},
        "slipway_initramfs": {"slipway_protocol", "slipway_agent"},
        "slipway": {"slipway_protocol", "slipway_agent", "slipway_initramfs"},
    }

    wrong = [
        f"{module} imports {other}"
        for module, imported in read_imports().items()
        for other in imported
        if (own := module.partition(".")[0]) != (its := other.partition(".")[0])
        and its not in below[own]
    ]

    assert wrong == []
