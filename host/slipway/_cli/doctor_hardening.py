"""Findings of ``slipway doctor`` about settings of the host that separate guests: they inform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipway._cli.finding import Finding
from slipway._util.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIBLINGS = "devices/system/cpu/smt"
_WEAKNESSES = "devices/system/cpu/vulnerabilities"
_GUIDE = "see docs/hardening.md"


def examine_hardening(root: Path = Path("/")) -> Iterator[Finding]:
    """Yield a finding for each setting; ``root`` has the directories ``proc`` and ``sys``."""
    yield _check_cgroups()
    yield _check_siblings(root / "sys" / _SIBLINGS)
    yield _check_merging(root / "sys/kernel/mm/ksm/run")
    yield _check_mitigations(root / "sys" / _WEAKNESSES)
    yield _check_swap(root / "proc/swaps")
    yield _check_core_files(root / "proc/sys/kernel/core_pattern")
    yield _check_tracing(root / "proc/sys/kernel/yama/ptrace_scope")


def _read(path: Path) -> str:
    """Return the text of a file, stripped; empty if the kernel has none."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _check_cgroups() -> Finding:
    from slipway.jail.cgroup_place import find_free_place

    try:
        place = find_free_place()
    except HostError as error:
        found = f"machines have no cgroup of their own, only limits of processes: {error.message}"
        return Finding("cgroups", False, found, f"optional: {error.hint}", needed=False)
    found = f"each machine has limits of memory, processes and CPU, below {place}"
    return Finding("cgroups", True, found, needed=False)


def _check_siblings(directory: Path) -> Finding:
    if _read(directory / "active") != "1":
        return Finding("smt", True, "no core has two threads at work", needed=False)
    found = "guests of different runs may share a core, and observe each other's timing"
    fix = f"optional: turn SMT off (nosmt in the kernel's arguments); {_GUIDE}"
    return Finding("smt", False, found, fix, needed=False)


def _check_merging(path: Path) -> Finding:
    if _read(path) in {"", "0", "2"}:
        return Finding("ksm", True, "equal pages of processes are not merged", needed=False)
    found = "the kernel merges equal pages, by which one process can find out about another's"
    fix = f"optional: echo 2 >/sys/kernel/mm/ksm/run; {_GUIDE}"
    return Finding("ksm", False, found, fix, needed=False)


def _check_mitigations(directory: Path) -> Finding:
    try:
        texts = {path.name: _read(path) for path in sorted(directory.iterdir())}
    except OSError:
        return Finding("mitigations", False, "the kernel reports none", _GUIDE, needed=False)
    if open_ones := [name for name, text in texts.items() if text.startswith("Vulnerable")]:
        found = f"this processor is vulnerable: {', '.join(open_ones)}"
        fix = (
            "optional: update microcode and kernel, and leave mitigations on (no mitigations=off);"
            f" {_GUIDE}"
        )
        return Finding("mitigations", False, found, fix, needed=False)
    found = f"in force for all of the {len(texts)} weaknesses of processors that the kernel knows"
    return Finding("mitigations", True, found, needed=False)


def _check_swap(path: Path) -> Finding:
    if len(_read(path).splitlines()) < 2:
        return Finding("swap", True, "no memory of guests gets to a disk", needed=False)
    found = "memory of guests may be written to swap, unless their cgroups forbid that"
    fix = f"optional: turn swap off, or encrypt the device; {_GUIDE}"
    return Finding("swap", False, found, fix, needed=False)


def _check_core_files(path: Path) -> Finding:
    pattern = _read(path)
    if not pattern.startswith("|"):
        found = "no program gets the memory of a process that crashes"
        return Finding("core files", True, found, needed=False)
    program = pattern[1:].split(" ")[0]
    found = f"{program} gets the memory of a process that crashes, whatever its limits"
    fix = f"optional: sysctl kernel.core_pattern=core; {_GUIDE}"
    return Finding("core files", False, found, fix, needed=False)


def _check_tracing(path: Path) -> Finding:
    scope = _read(path)
    if scope in {"1", "2", "3"}:
        found = f"kernel.yama.ptrace_scope is {scope}: no process traces one that is not its child"
        return Finding("tracing", True, found, needed=False)
    found = "a process may trace any other of its user"
    fix = f"optional: sysctl kernel.yama.ptrace_scope=1; {_GUIDE}"
    return Finding("tracing", False, found, fix, needed=False)
