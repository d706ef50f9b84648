from __future__ import annotations

import re

from support.imports import ROOT, read_imports

# A module may import its own room, and the rooms before it. Modules without a room stand for
# themselves: those that all rooms need come first, those that make and carry images last.
ORDER = (
    "errors",
    "units",
    "architectures",
    "progress",
    "child_process",
    "disk",
    "compression",
    "tar",
    "rootfs",
    "store",
    "languages",
    "debian",
    "linux",
    "oci",
    "agent_sources",
    "freeze",
    "source",
    "warmup",
    "kernel_package",
    "small_kernel_build",
    "kernel_build",
    "build",
    "image_archive",
    "image_export",
    "image_import",
)
ROOMS = {"disk", "compression", "tar", "rootfs", "store", "languages", "debian", "linux", "oci"}


def parts_of(package: str) -> dict[str, frozenset[str]]:
    """Return for each room the rooms of the same package that it imports."""
    parts: dict[str, frozenset[str]] = {}
    for module, imported in read_imports().items():
        top, _, rest = module.partition(".")
        if top == package and rest:
            others = {other.split(".")[1] for other in imported if other.startswith(f"{package}.")}
            room = rest.partition(".")[0]
            parts[room] = parts.get(room, frozenset()) | (others - {room})
    return parts


def test_every_module_stands_in_a_known_room() -> None:
    assert set(parts_of("slipway_initramfs")) == set(ORDER)


def test_rooms_import_only_rooms_before_them() -> None:
    wrong = [
        f"{room} imports {other}"
        for room, others in parts_of("slipway_initramfs").items()
        for other in sorted(others.difference(ORDER[: ORDER.index(room)]))
    ]

    assert wrong == []


def test_the_page_of_images_names_all_modules() -> None:
    page = (ROOT / "docs/images.md").read_text()
    rows = re.findall(r"^\| (?:`\w+` )?\| (`\w+`(?:, `\w+`)*) \|", page, re.M)
    modules = [module for module in read_imports() if module.startswith("slipway_initramfs.")]
    files = [module for module in modules if module.partition(".")[2] not in ROOMS]

    assert sorted(re.findall(r"\w+", " ".join(rows))) == sorted(
        module.rpartition(".")[2] for module in files
    )
