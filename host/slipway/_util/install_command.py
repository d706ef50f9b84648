"""Command that installs a missing program, for the hints of errors and for ``slipway doctor``."""

from __future__ import annotations


def format_install_command(package: str) -> str:
    """Return the command that installs Debian's ``package`` as root, to be pasted into a shell.

    A fresh Debian has no package lists, and QEMU recommends 150 MB that machines do not need.
    """
    return f"apt-get update && apt-get install --no-install-recommends {package}"
