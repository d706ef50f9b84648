"""Languages that Slipway does not ship, on images of every kind, from file to output."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.store.image_store import ImageStore
from support.alpine_recipes import alpine_rpn
from support.container_images import write_layout
from support.debian_layers import Packages
from support.image_recipes import debian_python, distroless_lua, lua, scratch_rpn

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Commands
    from support.container_images import ContainerImage

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the images are amd64's"),
]

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-language.md"


@pytest.fixture(scope="session")
def packages(apt: Path, progress: Callable[[str], None]) -> Packages:
    return Packages(DebianArchive(apt, machine_architecture(), progress))


def describe(name: str, command: str, *, tools: bool) -> str:
    return f"""
name = "{name}"
suffixes = [".{name}"]
source = "main.{name}"
run = {{ command = ["{command}", "main.{name}"] }}
image = {{ workload = 32, tools = {str(tools).lower()} }}
"""


KINDS: dict[str, tuple[Callable[[Packages], ContainerImage], str, str, str, bytes]] = {
    "debian": (lua, "lua", "lua5.4", 'print("lua", 6 * 7)', b"lua\t42\n"),
    "distroless": (distroless_lua, "lua", "lua5.4", 'print("lua", os.getenv("HOME"))',
                   b"lua\t/work\n"),
    "alpine": (alpine_rpn, "rpn", "rpn", "6 7 * .", b"42\n"),
    "scratch": (lambda _: scratch_rpn(), "rpn", "/rpn", "6 7 * .", b"42\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_runs_on_each_kind_of_image(
    commands: Commands,
    store: ImageStore,
    apt: Path,
    packages: Packages,
    tmp_path: Path,
    kind: str,
) -> None:
    recipe, name, command, source, expected = KINDS[kind]
    write_layout(tmp_path / "layout", [recipe(packages)])
    language_file = tmp_path / f"{name}.toml"
    # Whatever an image lacks is added to the barest ones here, and does not get in their way.
    language_file.write_text(describe(name, command, tools=kind in ("distroless", "scratch")))
    store.apt.symlink_to(apt)
    program = tmp_path / f"program.{name}"
    program.write_text(source)

    built = commands(
        "slipway", "image", "build", "--no-snapshot", "--store", store.root,
        "--from", f"oci:{tmp_path}/layout", "--language-file", language_file,
    )  # fmt: skip
    ran = commands("vmm-run", "--store", store.root, program)

    assert built.code == 0, built.stderr
    assert (ran.code, ran.stdout) == (0, expected), ran.stderr
    assert commands.leftovers() == []


def test_pythons_modules_are_compiled_to_the_same_bytes_in_any_machine(
    commands: Commands, pristine_store: Path, apt: Path, packages: Packages, tmp_path: Path
) -> None:
    write_layout(tmp_path / "layout", [debian_python(packages)])
    program = tmp_path / "program.py"
    program.write_text("import json; print(json.__cached__)")
    digests = []
    for name in ("first", "second"):
        store = ImageStore(shutil.copytree(pristine_store, tmp_path / name))
        store.apt.symlink_to(apt)
        built = commands(
            "slipway", "image", "build", "--no-snapshot", "--store", store.root,
            "--from", f"oci:{tmp_path}/layout", "python",
        )  # fmt: skip
        assert built.code == 0, built.stderr
        image = store.image("python")
        assert image is not None
        digests.append(image.digest)
    ran = commands("vmm-run", "--store", store.root, program)

    assert digests[0] == digests[1]
    assert ran.stdout == b"/usr/lib/python3.11/json/__pycache__/__init__.cpython-311.pyc\n"


def test_the_language_file_of_the_page_works_unchanged(
    commands: Commands, store: ImageStore, apt: Path, tmp_path: Path
) -> None:
    [text] = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "lua.toml").write_text(text)
    (tmp_path / "hello.lua").write_text("print(_VERSION, ...)")
    store.apt.symlink_to(apt)

    built = commands(
        "slipway", "image", "build", "--no-snapshot", "--store", store.root, "--source", "debian",
        "--language-file", tmp_path / "lua.toml",
    )  # fmt: skip
    ran = commands("slipway", "run", "--store", store.root, tmp_path / "hello.lua", "--", "one")

    assert built.code == 0, built.stderr
    assert (ran.code, ran.stdout) == (0, b"Lua 5.4\tone\n"), ran.stderr
