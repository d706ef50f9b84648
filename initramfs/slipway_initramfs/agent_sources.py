"""Sources of the agent: their place, their contents and fingerprints of them (freeze.py)."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slipway_initramfs.errors import BuildFailed

_SOURCES = (".py", ".toml")


class AgentSources:
    """Directories of Slipway's part of the agent, in a checkout or in an installed distribution."""

    def __init__(self) -> None:
        self.agent = _find_package("slipway_agent")
        self.protocol = _find_package("slipway_protocol")
        self.sliplib = _find_package("sliplib")
        inside, beside = self.agent / "freeze", self.agent.parent / "freeze"
        self.freeze = inside if inside.is_dir() else beside

    def fingerprint(self) -> str:
        """Return a digest of the names, sizes and times of all files that the agent is made of."""
        from _blake2 import blake2b

        digest = blake2b(digest_size=16)
        for directory in self._list_directories():
            with os.scandir(directory) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.endswith(_SOURCES):
                        status = entry.stat()
                        note = f"{entry.name} {status.st_size} {status.st_mtime_ns}\n"
                        digest.update(note.encode())
        for path in self._list_files_beside():
            status = path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def digest(self) -> str:
        """Return a digest of the agent's sources without Debian's packages, equal everywhere."""
        import hashlib

        files = [
            path
            for directory in self._list_directories()
            for path in sorted(directory.iterdir())
            if path.name.endswith(_SOURCES)
        ]
        digest = hashlib.sha256()
        for path in (*files, *self._list_files_beside()):
            data = path.read_bytes()
            digest.update(f"{path.parent.name}/{path.name} {len(data)}\n".encode() + data)
        return digest.hexdigest()

    def _list_directories(self) -> tuple[Path, ...]:
        return self.agent, self.protocol, self.freeze, self.freeze / "slim"

    def _list_files_beside(self) -> tuple[Path, ...]:
        return self.sliplib / "slip.py", Path(__file__).with_name("freeze.py")

    def version(self) -> str:
        """Return the version that the agent reports."""
        text = (self.protocol / "__init__.py").read_text(encoding="utf-8")
        return text.partition('__version__ = "')[2].partition('"')[0]

    def contents(self) -> dict[str, Any]:
        """Return the table of files and their origins: contents.toml."""
        import tomllib

        return tomllib.loads((self.freeze / "contents.toml").read_text(encoding="utf-8"))


@cache
def _find_package(name: str) -> Path:
    """Find the directory of an installed package, once in a process: each run asks for three.

    Raises:
        BuildFailed: the package is missing.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise BuildFailed(
            f"cannot freeze the agent: the package {name} is not installed",
            "Install Slipway again: pip install slipway-vmm",
        )
    return Path(spec.submodule_search_locations[0])
