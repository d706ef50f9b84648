"""Makers of layers and packages for the tests of image making."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

from slipway_initramfs.spool import Spool


@dataclass(frozen=True)
class Entry:
    """One entry of a tar archive; the type follows tarfile's names."""

    name: str
    type: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    device: tuple[int, int] = (0, 0)


def file(name: str, data: bytes = b"", mode: int = 0o644) -> Entry:
    return Entry(name, tarfile.REGTYPE, data, mode=mode)


def directory(name: str, mode: int = 0o755) -> Entry:
    return Entry(name, tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, tarfile.SYMTYPE, link=target)


def hardlink(name: str, target: str) -> Entry:
    return Entry(name, tarfile.LNKTYPE, link=target)


def tar_bytes(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.name)
            member.type = entry.type
            member.size = len(entry.data)
            member.linkname = entry.link
            member.mode = entry.mode
            member.uid, member.gid = entry.owner
            member.devmajor, member.devminor = entry.device
            archive.addfile(member, io.BytesIO(entry.data))
    return buffer.getvalue()


def spool(data: bytes) -> Spool:
    spooled = Spool()
    spooled.append(data)
    return spooled


def layer(*entries: Entry) -> Spool:
    return spool(tar_bytes(*entries))


def ar_bytes(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out
