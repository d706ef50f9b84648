"""Adds members to the tar archive of a layer, as container tools write them."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

EPOCH = 1_700_000_000
"""When everything was made that no package brings, in seconds since 1970."""


class LayerWriter:
    """Adds members to a layer; paths have no leading slash. Directories are added once."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._directories: set[str] = set()

    def file(self, path: str, data: bytes | str = b"", mode: int = 0o644, owner: int = 0) -> None:
        content = data.encode() if isinstance(data, str) else data
        member = self._member(path, tarfile.REGTYPE, mode, owner)
        member.size = len(content)
        self._archive.addfile(member, io.BytesIO(content))

    def directory(self, path: str, mode: int = 0o755, owner: int = 0) -> None:
        self.add(self._member(path, tarfile.DIRTYPE, mode, owner))

    def symlink(self, path: str, target: str) -> None:
        member = self._member(path, tarfile.SYMTYPE, 0o777)
        member.linkname = target
        self._archive.addfile(member)

    def hardlink(self, path: str, target: str, mode: int = 0o644) -> None:
        member = self._member(path, tarfile.LNKTYPE, mode)
        member.linkname = target
        self._archive.addfile(member)

    def whiteout(self, path: str) -> None:
        """Remove what a lower layer has at ``path`` (OCI image specification, "Whiteouts")."""
        parent, slash, name = path.rpartition("/")
        self.file(f"{parent}{slash}.wh.{name}", mode=0)

    def opaque(self, path: str) -> None:
        """Remove what lower layers have in the directory ``path``."""
        self.directory(path)
        self.file(f"{path}/.wh..wh..opq", mode=0)

    def add(self, member: tarfile.TarInfo, content: BinaryIO | None = None) -> None:
        """Add a member of another archive, its owners' names left out as docker does."""
        if member.isdir():
            if member.name in self._directories:
                return
            self._directories.add(member.name)
        member.uname = member.gname = ""
        self._archive.addfile(member, content)

    @staticmethod
    def _member(path: str, kind: bytes, mode: int, owner: int = 0) -> tarfile.TarInfo:
        member = tarfile.TarInfo(path)
        member.type, member.mode, member.mtime = kind, mode, EPOCH
        member.uid = member.gid = owner
        return member
