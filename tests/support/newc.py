"""Reading cpio archives, by the format's description and not by our writer."""

from __future__ import annotations


def unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each entry of a newc archive, by path and in its order."""
    entries: dict[str, tuple[int, bytes]] = {}
    position = 0
    while True:
        fields = [int(archive[position + at : position + at + 8], 16) for at in range(6, 110, 8)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[position + 110 : position + 110 + length - 1].decode()
        start = -(-(position + 110 + length) // 4) * 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (mode, archive[start : start + size])
        position = -(-(start + size) // 4) * 4
