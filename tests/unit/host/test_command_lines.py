"""Slips on the command line: each is answered with a sentence and a hint, before any work."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from slipway import _cli
from slipway._util.errors import InputError
from slipway.machine.qemu_targets import find_target

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("command", "error", "hint"),
    [
        ("slipway imge list", "unknown command 'imge'", "Did you mean image?"),
        ("slipway xyz", "unknown command 'xyz'", "Commands: run, "),
        ("slipway help xyz", "unknown command 'xyz'", "Commands: run, "),
        ("slipway --frobnicate", "unknown option '--frobnicate'", "See: slipway --help"),
        ("slipway image lst", "unknown command 'lst'", "Did you mean list?"),
        ("slipway image", "missing COMMAND", "Commands: build, list, "),
        ("slipway image list --jsn", "unknown option '--jsn'", "Did you mean --json?"),
        (
            "slipway image --store x list",
            "--store belongs after the command",
            "image COMMAND --store",
        ),
        ("slipway image list --store=", "the path is empty", "See: slipway image list --help"),
        ("slipway image list x", "unexpected argument 'x'", "See: slipway image list --help"),
        ("slipway image inspect", "missing IMAGE", "See: slipway image inspect --help"),
        ("slipway image build --source x c", "--source is 'x'", "See: slipway image build"),
        ("slipway image build --arch arm c", "--arch is 'arm'", "Did you mean arm64?"),
        ("slipway snapshot remove --al", "unknown option '--al'", "Did you mean --all?"),
        ("slipway serve --api-socket x", "unknown option", "Did you mean --api-sock?"),
        ("slipway serve --max-machines=few", "'few' is not a whole number", "See: slipway serve"),
        ("slipway serve --grace=-1s", "'-1s' is a negative time", "See: slipway serve"),
        ("slipway mcp --max-machines 0", "--max-machines is 0", "Leave out --max-machines"),
        ("slipway serve --api-sock x --network pyp", "rule 'pyp'", "Did you mean 'pypi'?"),
        ("slipway mcp --network pyp", "rule 'pyp'", "Did you mean 'pypi'?"),
        ("slipway mcp --machine vax", "--machine is 'vax'", "See: slipway mcp --help"),
        ("slipway doctor --store", "--store needs a value", "See: slipway doctor --help"),
        ("vmm-run", "missing FILE", "Name a source file: vmm-run FILE"),
        ("vmm-run --mem 5 a.py", "unknown option '--mem'", "Did you mean --memory"),
        ("vmm-run --json=yes a.py", "--json takes no value", "See: vmm-run --help"),
        ("vmm-run --env a.py --env", "--env needs a value", "as --env=VALUE"),
        ("vmm-run a.py x", "unexpected argument 'x'", "'--': vmm-run a.py -- x"),
        ("vmm-run a.py --size 8", "unknown option '--size'", "'--': vmm-run FILE -- ARGS"),
        ("vmm-run -c 1 --language py x", "two sources", "vmm-run -c CODE -- ARGS"),
        ("vmm-run -c 1", "missing --language for a source of -c", "Name it: --language python"),
        ("slipway /etc/passwd", "unknown command", "To run that file: slipway run /etc/passwd"),
        (
            "vmm-run --timeout 2h /etc/fstab --language sh",
            "--timeout is 7200 s, ",
            "Leave out --timeout",
        ),
        ("vmm-run --memory 99T -c 1 --language sh", "at most 65536 MiB", "Leave out --memory"),
        (
            "vmm-run --network-rate 0 --allow pypi -c 1 --language sh",
            "--network-rate is 0, and must be at least 1 KiB and at most 1048576 MiB",
            "Leave out --network-rate for the default.",
        ),
        ("slipway image import --json=", "--json takes no value", "See: slipway image import"),
        ("slipway image export bash --store x", "missing FILE", "See: slipway image export"),
        ("vmm-run --env =x -c 1 --language sh", "--env has the invalid name ''", "A name has"),
        ("vmm-run --timeout 5x a.py", "'5x' is not a time", "See: vmm-run --help"),
        ("vmm-run --memory 5Q a.py", "'5Q' is not a size", "See: vmm-run --help"),
        ("vmm-run --language ruby a.py", "'ruby'", "Known: bash, "),
        ("vmm-run --language java a.py", "'java'", "docs/adding-a-language.md"),
        ("vmm-run a.rb", "'.rb'", "docs/adding-a-language.md"),
        ("vmm-run --language javascrpt a.py", "'javascrpt'", "Did you mean javascript?"),
    ],
)
def test_slip_is_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, error: str, hint: str
) -> None:
    # A QEMU that is there, and not started.
    (tmp_path / find_target().program).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [f"/somewhere/bin/{program}", *arguments])
    run = {"slipway": _cli._run_slipway, "vmm-run": _cli._run_vmm_run}[program]

    with pytest.raises(InputError) as caught:
        run(arguments)

    assert error in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
