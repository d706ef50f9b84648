"""Configuration of the small kernel: the wanted options, and a check that Kconfig took them.

The options stand in files of assignments with comments, one file for all architectures and one for
each: ``make allnoconfig`` answers "no" to every other option that has a prompt
(Documentation/kbuild/kconfig.rst of Linux, KCONFIG_ALLCONFIG).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipway_initramfs.errors import BuildFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMON = "common.config"
_OPTION = re.compile(r'(CONFIG_[A-Z0-9_]+)=(y|-?\d+|0x[0-9a-f]+|"[^"\\]*")')
# Missing options that an error names.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class KernelConfiguration:
    """Wanted options of one architecture; ``text`` is the content of both files."""

    architecture: str
    text: str
    options: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Digest of the options, without the comments, in hexadecimal digits."""
        lines = sorted(f"{name}={value}\n" for name, value in self.options.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check_result(self, text: str) -> None:
        """Check the ``.config`` that Kconfig has written.

        Raises:
            BuildFailed: Kconfig has refused an option: the source lacks it or its dependencies.
        """
        lines = set(text.splitlines())
        missing = [
            f"{name}={value}"
            for name, value in self.options.items()
            if f"{name}={value}" not in lines
        ]
        if missing:
            named = ", ".join(missing[:_NAMED])
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise BuildFailed(
                f"this Linux has no {named}{more}, which the small kernel needs",
                "Use Debian's kernel: slipway kernel use debian",
            )


def find_directory() -> Path:
    """Find the directory of the files.

    A wheel has them inside the package, a checkout beside it.
    """
    installed = Path(__file__).parents[1] / "kernel_files"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "kernel"


def read_configuration(architecture: str, directory: Path | None = None) -> KernelConfiguration:
    """Read the options for ``architecture`` from a ``directory``, by default our own.

    Raises:
        BuildFailed: the files for it are missing, or break a rule.
    """
    directory = directory or find_directory()
    text, options = "", dict[str, str]()
    for name in (_COMMON, f"{architecture}.config"):
        try:
            part = (directory / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BuildFailed(f"no small kernel for the architecture {architecture!r}") from None
        for number, line in enumerate(part.splitlines(), 1):
            if not line or line.startswith("#"):
                continue
            match = _OPTION.fullmatch(line)
            if match is None or match[1] in options:
                reason = "no option" if match is None else "an option that stands there twice"
                raise BuildFailed(f"{name}, line {number}: {line[:80]!r} is {reason}")
            options[match[1]] = match[2]
        text += part
    return KernelConfiguration(architecture, text, options)
