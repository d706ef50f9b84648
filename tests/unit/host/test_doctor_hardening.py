"""Findings about settings of the host, read from trees that look like its /proc and /sys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway._cli.doctor_hardening import examine_hardening

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._cli.finding import Finding

CPU = "sys/devices/system/cpu"
SAFE = {
    f"{CPU}/smt/active": "0\n",
    "sys/kernel/mm/ksm/run": "0\n",
    f"{CPU}/vulnerabilities/meltdown": "Not affected\n",
    f"{CPU}/vulnerabilities/retbleed": "Mitigation: untrained return thunk\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
    "proc/sys/kernel/core_pattern": "core\n",
    "proc/sys/kernel/yama/ptrace_scope": "1\n",
}


def examine(root: Path, **changes: str) -> dict[str, Finding]:
    """Return the findings of a safe host with ``changes``, by the last part of a file's path."""
    for path, text in SAFE.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(changes.get(file.name, text))
    return {finding.need: finding for finding in examine_hardening(root)}


def test_settings_that_separate_guests_are_met(tmp_path: Path) -> None:
    found = examine(tmp_path)

    del found["cgroups"]  # that of this host
    assert len(found) == 6
    assert all(finding.met for finding in found.values())


@pytest.mark.parametrize(
    ("file", "text", "need", "words"),
    [
        ("active", "1\n", "smt", "may share a core"),
        ("run", "1\n", "ksm", "merges equal pages"),
        ("meltdown", "Vulnerable\n", "mitigations", "vulnerable: meltdown"),
        ("swaps", "Filename\n/dev/vda2 partition 1 0 -2\n", "swap", "written to swap"),
        ("core_pattern", "|/usr/lib/coredump %P\n", "core files", "/usr/lib/coredump gets"),
        ("ptrace_scope", "0\n", "tracing", "any other of its user"),
    ],
)
def test_setting_that_lets_guests_meet_is_noted_with_a_fix(
    tmp_path: Path, file: str, text: str, need: str, words: str
) -> None:
    finding = examine(tmp_path, **{file: text})[need]

    assert not finding.met
    assert not finding.needed
    assert words in finding.found
    assert finding.fix


def test_kernel_without_the_files_is_told_as_it_is(tmp_path: Path) -> None:
    found = {finding.need: finding for finding in examine_hardening(tmp_path)}

    assert found["smt"].met
    assert found["ksm"].met
    assert not found["mitigations"].met
    assert not found["tracing"].met
