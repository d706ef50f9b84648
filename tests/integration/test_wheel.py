"""The wheel works where the checkout is not: in an empty environment, as the README installs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import slipway
from support.host_programs import need_program

pytestmark = pytest.mark.debian("git")

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", re.S | re.M)


def run(*command: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command outside of the checkout; the environment does not lead to it either."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from the files that a clone of the checkout has."""
    directory = tmp_path_factory.mktemp("wheel")
    clone = directory / "clone"
    listed = run(need_program("git"), "ls-files", directory=ROOT).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "dist", "."]
    run(*pip, directory=clone)
    (built,) = (clone / "dist").iterdir()
    shutil.move(built, directory)
    shutil.rmtree(clone)
    return directory / built.name


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """Return the programs' directory of a new environment that has the wheel."""
    place = wheel.parent / "environment"
    run(sys.executable, "-m", "venv", place, directory=wheel.parent)
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    run(place / "bin/pip", "install", *constraints, wheel, directory=wheel.parent)
    return place / "bin"


def test_wheel_is_named_as_the_readme_says(wheel: Path) -> None:
    assert f"dist/{wheel.name}" in (ROOT / "README.md").read_text()


def test_wheel_has_all_that_is_no_module_too(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    languages = [path.name for path in (ROOT / "initramfs/languages").glob("*.toml")]

    for name in languages:
        assert any(entry.endswith(f"/{name}") for entry in names), name
    assert "slipway/py.typed" in names
    assert any(entry.startswith("slipway_agent/freeze/") for entry in names)
    assert not any(entry.startswith(("tests/", "bench/", "docs/")) for entry in names)


def test_commands_are_installed(environment: Path, tmp_path: Path) -> None:
    version = run(environment / "slipway", "--version", directory=tmp_path).stdout
    where = run(
        environment / "python", "-c", "print(__import__('slipway').__file__)", directory=tmp_path
    ).stdout

    assert slipway.__version__ in version
    assert Path(where).is_relative_to(environment.parent)


@pytest.mark.usefixtures("image_store", "installed_qemu")
def test_doctor_finds_nothing_missing(environment: Path, tmp_path: Path) -> None:
    report = run(environment / "slipway", "doctor", directory=tmp_path).stdout

    assert re.search(r"^ok +image +bash ", report, re.M)


@pytest.mark.usefixtures("image_store", "installed_qemu")
def test_bash_program_runs(environment: Path, tmp_path: Path) -> None:
    code = "echo $((6 * 7)) on $(uname -s)"

    ended = run(environment / "vmm-run", "--language", "bash", "-c", code, directory=tmp_path)

    assert ended.stdout == "42 on Linux\n"


@pytest.mark.usefixtures("image_store", "installed_qemu")
def test_example_of_the_readme_prints_what_it_says(environment: Path, tmp_path: Path) -> None:
    found = EXAMPLE.search((ROOT / "README.md").read_text())
    assert found is not None

    ended = run(environment / "python", "-c", found[1], directory=tmp_path)

    assert ended.stdout == found[2]
