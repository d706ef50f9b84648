"""Flattened device trees (Devicetree Specification 0.4, chapter 5)."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# magic, totalsize, off_dt_struct, off_dt_strings, off_mem_rsvmap, version, last_comp_version,
# boot_cpuid_phys, size_dt_strings, size_dt_struct
_HEADER = struct.Struct(">10I")
_MAGIC = 0xD00DFEED
_VERSION, _LAST_COMPATIBLE = 17, 16
# The map of reserved memory is only its end.
_NO_RESERVATIONS = bytes(16)
_BEGIN_NODE, _END_NODE, _PROPERTY, _END = (struct.pack(">I", token) for token in (1, 2, 3, 9))
_PROPERTY_HEADER = struct.Struct(">II")


class Node:
    """Node of a tree: its properties as encoded values, and its children, both in their order."""

    __slots__ = ("children", "name", "properties")

    def __init__(self, name: str, properties: Mapping[str, bytes], *children: Node) -> None:
        self.name = name
        self.properties = properties
        self.children = children


def encode_cells(*values: int) -> bytes:
    """Return numbers of 32 bits."""
    return struct.pack(f">{len(values)}I", *values)


def encode_pairs(*values: int) -> bytes:
    """Return numbers of two cells each: addresses and sizes."""
    return struct.pack(f">{len(values)}Q", *values)


def encode_texts(*texts: str) -> bytes:
    """Return a list of strings; undecodable bytes are kept (surrogateescape)."""
    return b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in texts)


def flatten(root: Node) -> bytes:
    """Return the blob of the tree below ``root``, whose name is empty."""
    strings: dict[str, int] = {}
    structure = bytearray()
    _append_node(structure, root, strings)
    structure += _END
    names = encode_texts(*strings)
    at_structure = _HEADER.size + len(_NO_RESERVATIONS)
    at_strings = at_structure + len(structure)
    header = _HEADER.pack(
        *(_MAGIC, at_strings + len(names), at_structure, at_strings, _HEADER.size),
        *(_VERSION, _LAST_COMPATIBLE, 0, len(names), len(structure)),
    )
    return header + _NO_RESERVATIONS + structure + names


def _append_node(structure: bytearray, node: Node, strings: dict[str, int]) -> None:
    structure += _BEGIN_NODE + _pad(encode_texts(node.name))
    for name, value in node.properties.items():
        if name not in strings:
            strings[name] = sum(len(known) + 1 for known in strings)
        structure += _PROPERTY + _PROPERTY_HEADER.pack(len(value), strings[name]) + _pad(value)
    for child in node.children:
        _append_node(structure, child, strings)
    structure += _END_NODE


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
