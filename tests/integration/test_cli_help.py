"""What the command line tells of itself, and how it answers slips."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from slipway._cli import VERBS
from slipway_protocol import __version__
from support.commands import Ended

if TYPE_CHECKING:
    from support.commands import Commands


@pytest.mark.parametrize(
    "command",
    [
        ("slipway", "--version"),
        ("slipway", "-V"),
        ("slipway", "version"),
        ("slipway", "run", "--version"),
        ("vmm-run", "--version"),
        ("python", "-m", "slipway", "--version"),
    ],
    ids=" ".join,
)
def test_version_is_told(commands: Commands, command: tuple[str, ...]) -> None:
    assert commands(*command) == Ended(0, f"slipway {__version__}\n".encode(), "")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("vmm-run", "--help"), "vmm-run [options]"),
        (("slipway", "run", "--help"), "slipway run [options]"),
        (("slipway", "help", "run"), "slipway run [options]"),
        (("slipway", "help", "image", "build"), "slipway image build [-h]"),
        (("python", "-m", "slipway", "help", "run"), "python -m slipway run [options]"),
        (("python", "-m", "slipway"), "python -m slipway VERB"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_help_names_the_command_that_was_typed(
    commands: Commands, command: tuple[str, ...], name: str
) -> None:
    ended = commands(*command)

    assert (ended.stdout.decode() + ended.stderr).startswith(f"usage: {name}")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(commands: Commands, verb: str) -> None:
    asked = commands("slipway", verb, "--help")
    helped = commands("slipway", "help", verb)

    assert (asked.code, asked.stderr) == (0, "")
    assert asked.stdout.startswith(f"usage: slipway {verb} ".encode())
    assert helped == asked


@pytest.mark.parametrize(
    ("command", "error", "hint"),
    [
        ("slipway imge list", "unknown verb 'imge'", "Did you mean image?"),
        ("slipway xyz", "unknown verb 'xyz'", "Verbs: run, "),
        ("slipway help xyz", "unknown verb 'xyz'", "Verbs: run, "),
        ("slipway --frobnicate", "unknown option '--frobnicate'", "See: slipway --help"),
        ("slipway image lst", "unknown verb 'lst'", "Did you mean list?"),
        ("slipway image", "VERB is missing", "Verbs: build, list, "),
        ("slipway image list --jsn", "unknown option '--jsn'", "Did you mean --json?"),
        ("slipway image --store x list", "--store is an option of verbs", "image VERB --store"),
        ("slipway image list --store=", "'' is no path", "See: slipway image list --help"),
        ("slipway image list x", "'x' is an argument too many", "See: slipway image list --help"),
        ("slipway image inspect", "IMAGE is missing", "See: slipway image inspect --help"),
        ("slipway image build --source x c", "--source is 'x'", "See: slipway image build"),
        ("slipway image build --arch arm c", "--arch is 'arm'", "Did you mean arm64?"),
        ("slipway snapshot remove --al", "unknown option '--al'", "Did you mean --all?"),
        ("slipway serve --api-socket x", "unknown option", "Did you mean --api-sock?"),
        ("slipway serve --max-vms=few", "'few' is not a whole number", "See: slipway serve"),
        ("slipway serve --grace=-1s", "'-1s' is a negative time", "See: slipway serve"),
        ("slipway serve --api-sock s --max-vms 0", "--max-vms is 0", "Leave --max-vms out"),
        ("slipway mcp --max-vms 0", "--max-vms is 0", "Leave --max-vms out"),
        ("slipway mcp --machine vax", "--machine is 'vax'", "See: slipway mcp --help"),
        ("slipway doctor --store", "--store needs a value", "See: slipway doctor --help"),
        ("vmm-run", "FILE is missing", "Name a source file: vmm-run FILE"),
        ("vmm-run --mem 5 a.py", "unknown option '--mem'", "Did you mean --memory"),
        ("vmm-run --json=yes a.py", "--json takes no value", "See: vmm-run --help"),
        ("vmm-run --env a.py --env", "--env needs a value", "is written --env=VALUE"),
        ("vmm-run a.py x", "'x' is an argument too many", "'--': vmm-run a.py -- x"),
        ("vmm-run a.py --port 8", "unknown option '--port'", "'--': vmm-run FILE -- ARGS"),
        ("vmm-run -c 1 --language py x", "two sources", "vmm-run -c CODE -- ARGS"),
        ("vmm-run -c 1", "the source of -c has no suffix", "Name its --language."),
        ("slipway /etc/passwd", "unknown verb", "To run that file: slipway run /etc/passwd"),
        ("vmm-run --timeout 2h /etc/fstab --language sh", "--timeout is 7200", "Leave --timeout"),
        ("vmm-run --timeout 5x a.py", "'5x' is not a time", "See: vmm-run --help"),
        ("vmm-run --memory 5Q a.py", "'5Q' is not a size", "See: vmm-run --help"),
        ("vmm-run --language ruby a.py", "'ruby'", "Known are bash, "),
        ("vmm-run --language java a.py", "'java'", "docs/adding-a-language.md"),
        ("vmm-run a.rb", "'.rb'", "docs/adding-a-language.md"),
        ("vmm-run --language javascrpt a.py", "'javascrpt'", "Did you mean javascript?"),
    ],
)
def test_slip_is_answered_with_a_sentence_and_a_hint(
    commands: Commands, command: str, error: str, hint: str
) -> None:
    ended = commands(*command.split())

    assert (ended.code, ended.stdout) == (2, b"")
    told, hinted = ended.stderr.splitlines()
    assert told.startswith("slipway: error: ")
    assert error in told
    assert hinted.startswith("slipway: hint: ")
    assert hint in hinted


def test_starts_without_what_only_other_verbs_need() -> None:
    slow = ("difflib", "httpx", "rich", "pydantic", "fastapi")
    program = (
        "import sys\n"
        "from slipway._cli import run\n"
        "run.parser('vmm-run').parse_args(['--timeout', '5s', 'a.py'])\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert loaded.stdout == b"[]\n"
