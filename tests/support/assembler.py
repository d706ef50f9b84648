"""Parts of an assembler that are the same for all processors: bytes, labels, and jumps to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class Assembler:
    """Machine code for the address ``origin``; each method appends instructions."""

    def __init__(self, origin: int) -> None:
        self._origin = origin
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []

    def raw(self, code: bytes) -> Self:
        """Append instructions as bytes."""
        self._code += code
        return self

    def label(self, name: str) -> Self:
        """Let jumps to ``name`` go here."""
        self._labels[name] = len(self._code)
        return self

    def address(self, name: str) -> int:
        """Return the place of the label ``name`` in the guest's memory."""
        return self._origin + self._labels[name]

    def has(self, name: str) -> bool:
        """Check for a label."""
        return name in self._labels

    def jump_by(self, code: bytes, at: int, name: str) -> Self:
        """Append a jump to a label, whose distance belongs at byte ``at`` of ``code``."""
        self._jumps.append((len(self._code) + at, name))
        return self.raw(code)

    def build(self) -> bytes:
        """Return the machine code, with its jumps linked."""
        for at, name in self._jumps:
            self.link(self._code, at, self._labels[name])
        return bytes(self._code)

    def link(self, code: bytearray, at: int, target: int) -> None:
        """Write the distance to ``target`` into the jump with the distance at ``at``."""
        raise NotImplementedError
