"""Reader of flattened device trees (Devicetree Specification 0.4, chapter 5), strict."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_MAGIC = 0xD00DFEED
_BEGIN_NODE, _END_NODE, _PROPERTY, _END = 1, 2, 3, 9


@dataclass(slots=True)
class ReadNode:
    """Node of a tree that was read."""

    properties: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, ReadNode] = field(default_factory=dict)

    def read_cells(self, name: str) -> list[int]:
        """Return a property's numbers of 32 bits."""
        value = self.properties[name]
        return list(struct.unpack(f">{len(value) // 4}I", value))

    def read_pairs(self, name: str) -> list[int]:
        """Return a property's numbers of 64 bits."""
        value = self.properties[name]
        return list(struct.unpack(f">{len(value) // 8}Q", value))

    def read_texts(self, name: str) -> list[str]:
        """Return a property's strings."""
        return self.properties[name].decode("utf-8", "surrogateescape").split("\0")[:-1]


def read_device_tree(blob: bytes) -> ReadNode:
    """Return the root of the tree in ``blob``; a wrong blob fails an assertion."""
    header = struct.unpack_from(">10I", blob)
    magic, total, structure, strings, reserved, version, compatible, _, names, size = header
    assert (magic, total, version, compatible) == (_MAGIC, len(blob), 17, 16)
    assert structure % 4 == reserved % 8 == 0
    assert blob[reserved : reserved + 16] == bytes(16)
    assert reserved + 16 <= structure
    assert structure + size <= strings
    assert strings + names <= len(blob)
    root = ReadNode()
    open_nodes: list[ReadNode] = []
    at, end = structure, structure + size
    while True:
        (token,) = struct.unpack_from(">I", blob, at)
        at += 4
        if token == _BEGIN_NODE:
            name = blob[at : blob.index(b"\0", at)].decode()
            at += len(name) // 4 * 4 + 4
            node = ReadNode()
            if open_nodes:
                assert name not in open_nodes[-1].children
                open_nodes[-1].children[name] = node
            else:
                assert name == ""
                root = node
            open_nodes.append(node)
        elif token == _PROPERTY:
            length, offset = struct.unpack_from(">II", blob, at)
            assert offset < names
            name = blob[strings + offset : blob.index(b"\0", strings + offset)].decode()
            assert not open_nodes[-1].children, "properties come before children"
            open_nodes[-1].properties[name] = blob[at + 8 : at + 8 + length]
            at += 8 + (length + 3) // 4 * 4
        elif token == _END_NODE:
            open_nodes.pop()
        else:
            assert token == _END
            assert not open_nodes
            assert at == end
            return root
