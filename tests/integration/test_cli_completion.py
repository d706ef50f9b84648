"""Completion of our command lines by the shells themselves, and the manual pages."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from slipway._cli.program import COMMANDS
from support.commands import Commands

if TYPE_CHECKING:
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore

# What is typed before the key is pressed, and what is offered.
LINES = {
    "slipway ": [*COMMANDS, "help"],
    "slipway im": ["image"],
    "slipway image bu": ["build"],
    "slipway image build --so": ["--source"],
    "slipway image build --source ": ["auto", "registry", "debian"],
    "slipway image remove ": ["bash"],
    "slipway image build ja": ["javascript"],
    "slipway run --machine ": ["auto", "kvm", "qemu"],
    "slipway run --build-timeo": ["--build-timeout"],
    "slipway run s": ["source.py"],
    "slipway help sn": ["snapshot"],
    "slipway completion ": ["bash", "zsh", "fish"],
    "vmm-run --language py": ["python"],
    "vmm-run --timeout 5s s": ["source.py"],
    "vmm-run --store d": ["directory"],
    "vmm-run --kernel s": ["source.py"],
}
# Each prints one line of words for each line that it reads. Bash is asked as its line editor does
# it: by the function that `complete` names, which gets the words so far.
SHELLS = {
    "bash": """
        source <(slipway completion bash)
        while IFS= read -r line; do
            specification=$(complete -p "${line%% *}")
            eval "COMP_WORDS=(${line/% / \\"\\"})"
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            function=${specification##*-F }
            ${function% *}
            echo "${COMPREPLY[@]}"
        done
    """,
    "fish": """
        slipway completion fish | source
        while read --local --delimiter \\n line
            set words (complete -C $line | string split --fields 1 \\t)
            echo (string trim --right --chars / -- $words)
        end
    """,
}


@pytest.fixture
def shell(
    commands: Commands, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Commands:
    """A shell finds the commands, an image store, and a few files."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/slipway").symlink_to(store.root)
    here = tmp_path / "here"
    (here / "directory").mkdir(parents=True)
    (here / "source.py").touch()
    monkeypatch.chdir(here)
    commands.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    commands.environment["PATH"] = f"{Commands.path('')}:/usr/bin:/bin"
    return commands


@pytest.mark.parametrize(
    "name",
    [
        "bash",
        pytest.param("fish", marks=pytest.mark.debian("fish")),
    ],
)
def test_shells_complete(shell: Commands, name: str) -> None:
    lines = "".join(f"{line}\n" for line in LINES).encode()

    found = run(shell, name, SHELLS[name], lines)

    offered = dict(zip(LINES, (sorted(line.split()) for line in found), strict=True))
    assert offered == {line: sorted(words) for line, words in LINES.items()}


def run(shell: Commands, name: str, script: str, lines: bytes = b"") -> list[str]:
    """The lines that a shell without its user's settings prints."""
    bare = {"bash": "--norc", "fish": "--no-config", "zsh": "-f"}[name]
    command = (name, bare, "-c", script)
    ended = subprocess.run(
        command, env=shell.environment, input=lines, capture_output=True, check=True
    )
    return ended.stdout.decode().splitlines()


@pytest.mark.debian("zsh")
def test_zsh_takes_the_script(shell: Commands) -> None:
    script = (
        'autoload -U compinit; compinit -D; eval "$(slipway completion zsh)"\n'
        "print $_comps[slipway] $_comps[vmm-run]; print -l $_shtab_slipway_image_list_options"
    )

    functions, *options = run(shell, "zsh", script)

    assert functions == "_shtab_slipway _shtab_vmm_run"
    assert "--json[print JSON records]" in options


@pytest.mark.debian("mandoc", "col")
def test_manual_pages_are_sound(commands: Commands, tmp_path: Path) -> None:
    ended = commands("slipway", "man", "--output", tmp_path / "man1")
    pages = sorted((tmp_path / "man1").iterdir())

    names = {"slipway", "vmm-run", *(f"slipway-{name}" for name in COMMANDS)}
    assert (ended.code, {page.stem for page in pages}) == (0, names)
    found = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages], capture_output=True, check=False
    )
    # The date is left out: a page is of a version.
    assert [line for line in found.stdout.splitlines() if b"missing date" not in line] == []


@pytest.mark.debian("mandoc", "col")
def test_manual_page_tells_what_the_help_tells(commands: Commands) -> None:
    page = commands("slipway", "man", "run")
    helped = commands("slipway", "run", "--help")
    shown = subprocess.run(
        ["mandoc", "-T", "ascii", "-O", "width=200"],
        input=page.stdout,
        capture_output=True,
        check=True,
    )
    text = subprocess.run(
        ["col", "-b"], input=shown.stdout, capture_output=True, check=True
    ).stdout.decode()

    for word in helped.stdout.decode().split():
        if word.startswith("--"):
            assert word.strip(",.;") in text
    assert "slipway-run - run a program" in text
    assert commands("slipway", "man", "vmm-run").stdout == page.stdout
    assert "125 Slipway failed" in " ".join(text.split())


def test_manual_page_that_cannot_be_written_is_told(commands: Commands) -> None:
    ended = commands("slipway", "man", "--output", "/proc/nowhere")

    assert ended.code == 125
    assert "cannot write the pages to /proc/nowhere" in ended.stderr
