"""Programs of this host that compile a kernel, and the Debian packages of missing ones."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.child_process import Hung, Supervision, run_program
from slipway_initramfs.errors import BuildFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

# Prefix of the cross compiler's programs, and the package that depends on them all.
_CROSS = {
    "amd64": ("x86_64-linux-gnu-", "gcc-x86-64-linux-gnu"),
    "arm64": ("aarch64-linux-gnu-", "gcc-aarch64-linux-gnu"),
}
# Programs for the host itself, by their packages (Documentation/process/changes.rst of Linux).
_PROGRAMS = {
    "gcc": "gcc",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
}
# Headers for programs of the build: objtool, which reads and rewrites objects of x86-64.
_HEADERS = {"amd64": {"gelf.h": "libelf-dev"}, "arm64": dict[str, str]()}
_SECONDS = 60.0
# Where programs of a build are looked for, as PATH.
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class BuildTools:
    """Compiler and friends for one ``architecture``.

    ``prefix`` is that of the compiler's programs, such as ``aarch64-linux-gnu-``; empty for this
    host's own. ``compiler`` is the first line of its ``--version``.
    """

    architecture: str
    prefix: str
    compiler: str


def find_build_tools(architecture: str, search_path: str = SEARCH_PATH) -> BuildTools:
    """Find the programs and headers that compile a kernel for ``architecture``.

    Raises:
        BuildFailed: some are missing; the hint is the command that installs them.
    """
    native = architecture == machine_architecture()
    prefix, package = ("", "gcc") if native else _CROSS[architecture]
    programs = {**_PROGRAMS, f"{prefix}gcc": package, f"{prefix}ld": "binutils"}
    if not native:
        programs[f"{prefix}ld"] = package
    missing = {
        name: of for name, of in programs.items() if not shutil.which(name, path=search_path)
    }
    if "gcc" not in missing:
        headers = _HEADERS[architecture]
        missing |= {name: of for name, of in headers.items() if not _has_header(name)}
    if missing:
        packages = sorted({*missing.values(), *(["libc6-dev"] if "gcc" in missing else [])})
        raise BuildFailed(
            f"compiling a kernel takes {', '.join(missing)}, which this host lacks",
            f"Install them: apt-get update && apt-get install {' '.join(packages)}",
        )
    return BuildTools(architecture, prefix, _read_version(f"{prefix}gcc"))


def build_environment() -> Mapping[str, str]:
    """Return the variables of all programs of a build: none of the caller's, such as MAKEFLAGS."""
    return {"PATH": SEARCH_PATH, "LC_ALL": "C", "HOME": "/nonexistent"}


def _has_header(name: str) -> bool:
    command = ["gcc", "-E", "-include", name, "-x", "c", "/dev/null", "-o", "/dev/null"]
    return _run(command) is not None


def _read_version(compiler: str) -> str:
    version = _run([compiler, "--version"])
    if not version:
        raise BuildFailed(f"{compiler} --version fails", "Install the compiler again.")
    return "".join(filter(str.isprintable, version.splitlines()[0]))[:200]


def _run(command: list[str]) -> str | None:
    """Return the output of a program, or None if it fails."""
    try:
        done = run_program(command, build_environment(), Supervision(_SECONDS))
    except (OSError, Hung):
        return None
    return done.stdout if done.code == 0 else None
