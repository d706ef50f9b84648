"""Programs of the host that tests need, and the Debian packages that have them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[2] / ".ci" / "programs"
# Debian's ordinary users have no sbin directories in PATH.
_MORE = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def need_program(name: str) -> str:
    """Return the path of a program, or fail the test if this host has none.

    ``name`` is one of ``.ci/programs``, from which ``make test`` installs them.
    """
    found = find_program(name)
    if found is None:
        pytest.fail(describe_missing(name), pytrace=False)
    return found


def find_program(name: str) -> str | None:
    """Return the path of a program, also of one for administrators."""
    return shutil.which(name) or shutil.which(name, path=":".join(_MORE))


def describe_missing(name: str) -> str:
    """Return the sentence that names the Debian package of a missing program."""
    package = debian_packages()[name]
    return f"{name} is missing: Debian's package {package} has it, which 'make test' installs"


def debian_packages() -> dict[str, str]:
    """Return the Debian package of each program in ``.ci/programs``."""
    rows = (line.split() for line in TABLE.read_text("utf-8").splitlines())
    return {row[1]: row[2] for row in rows if row and row[0] != "#"}
