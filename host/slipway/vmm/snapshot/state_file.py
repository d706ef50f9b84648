"""State of a snapshot as a file: all of a VM but its memory, which is another file.

The file starts with a magic, the version of the format, and the SHA-256 of the rest, a value of
:mod:`slipway.vmm.snapshot.canonical_msgpack`.
"""

from __future__ import annotations

import os
import struct

from slipway._util.errors import HostError
from slipway.vmm.pages import PAGE, merge_ranges
from slipway.vmm.record import record, replace
from slipway.vmm.snapshot import canonical_msgpack
from slipway.vmm.spec import PORTS, VmConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from slipway.vmm.pages import Range

# A change of the VM, of its devices or of their addresses needs a new version as well.
VERSION = 5
# Eight vCPUs with the largest register sets take much less.
MAX_BYTES = 4 << 20
MAX_CPUS = 64
MAX_RANGES = 4096

_HEADER = struct.Struct("<16sI32s")
_MAGIC = b"slipway-kvm\0\0\0\0\0"
_AGAIN = "Make the snapshot again."


@record
class Saved:
    """State of a VM; ``memory`` in bytes. The architecture defines ``vcpus`` and ``machine``.

    ``working_set`` are the ranges that clones write to first, in bytes from the memory's start.
    """

    architecture: str
    memory: int
    cpus: int
    port: str
    network: bool
    vcpus: list[dict[str, bytes | int]]
    machine: dict[str, bytes | int]
    devices: dict[str, Any]
    working_set: list[Range]

    @property
    def config(self) -> VmConfig:
        """The configuration of the VM."""
        return VmConfig(self.memory, self.cpus, self.port, self.network)


_FIELDS = tuple(Saved.__annotations__)


def pack_body(saved: Saved) -> bytes:
    """Return the state as a VMM sends it, without a header."""
    return canonical_msgpack.pack({name: getattr(saved, name) for name in _FIELDS})


def encode(saved: Saved) -> bytes:
    """Return the file of ``saved``."""
    return seal(pack_body(saved))


def seal(body: bytes) -> bytes:
    """Return ``body`` behind its header."""
    from hashlib import sha256

    return _HEADER.pack(_MAGIC, VERSION, sha256(body).digest()) + body


def read(descriptor: int) -> bytes:
    """Return the content of a state's file.

    Raises:
        HostError: the file cannot be read, or is too long.
    """
    try:
        size = os.fstat(descriptor).st_size
        data = os.pread(descriptor, MAX_BYTES + 1, 0)
    except OSError as error:
        raise HostError(f"the snapshot cannot be read: {error.strerror}", _AGAIN) from None
    if len(data) != size or size > MAX_BYTES:
        raise HostError("the snapshot's state has an invalid length", _AGAIN)
    return data


def decode(data: bytes) -> Saved:
    """Return the state in the file ``data``.

    Raises:
        HostError: the file is damaged, of another version, or invalid. No content raises another
            exception.
    """
    from hashlib import sha256

    if len(data) < _HEADER.size:
        raise HostError("the snapshot's state ends too early", _AGAIN)
    magic, version, digest = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise HostError("the snapshot's state is not of the hypervisor kvm", _AGAIN)
    if version != VERSION:
        raise HostError(f"the snapshot has version {version}, and {VERSION} is needed", _AGAIN)
    body = data[_HEADER.size :]
    if sha256(body).digest() != digest:
        raise HostError("the snapshot's state is damaged: its digest differs", _AGAIN)
    return decode_body(body)


def decode_body(body: bytes) -> Saved:
    """Return the state that :func:`pack_body` wrote.

    Raises:
        HostError: the body is invalid.
    """
    try:
        if len(body) > MAX_BYTES - _HEADER.size:
            raise ValueError("too long")
        return _check_state(canonical_msgpack.unpack(body))
    except ValueError as error:
        raise HostError(f"the snapshot's state is invalid: {error}", _AGAIN) from None


def check_architecture(saved: Saved, machine: str) -> None:
    """Check that the snapshot is of an architecture; ``machine`` is its name in uname(2).

    Raises:
        HostError: the snapshot is of another.
    """
    if saved.architecture != machine:
        raise HostError(
            f"the snapshot is of a machine for {saved.architecture:.20}, and this host is"
            f" {machine}",
            _AGAIN,
        )


def _check_state(value: Any) -> Saved:
    if type(value) is not dict or value.keys() != set(_FIELDS):
        raise ValueError("unexpected parts")
    saved = Saved(**value)
    if type(saved.architecture) is not str:
        raise ValueError("its architecture is invalid")
    if saved.port not in PORTS or type(saved.network) is not bool:
        raise ValueError("its port or network is invalid")
    if type(saved.memory) is not int or not saved.memory or saved.memory % PAGE:
        raise ValueError("its memory size is invalid")
    if type(saved.cpus) is not int or not 0 < saved.cpus <= MAX_CPUS:
        raise ValueError("its number of vCPUs is invalid")
    if type(saved.vcpus) is not list or len(saved.vcpus) != saved.cpus:
        raise ValueError("a vCPU is missing")
    for parts in (*saved.vcpus, saved.machine):
        if type(parts) is not dict or not all(type(p) in (bytes, int) for p in parts.values()):
            raise ValueError("a part of a processor is invalid")
    if type(saved.devices) is not dict:
        raise ValueError("its devices are missing")
    return replace(saved, working_set=_check_ranges(saved.working_set, saved.memory))


def _check_ranges(value: Any, size: int) -> list[Range]:
    """Return ``value`` as ranges of pages in ``size`` bytes, in ascending order.

    Raises:
        ValueError: the value has another form.
    """
    if type(value) is not list or len(value) > MAX_RANGES:
        raise ValueError("its working set is invalid")
    ranges = []
    last = 0
    for item in value:
        if type(item) is not list or [type(at) for at in item] != [int, int]:
            raise ValueError("a range of its working set is invalid")
        start, end = item
        if start % PAGE or end % PAGE or not last <= start < end <= size:
            raise ValueError("a range of its working set is out of bounds")
        ranges.append((start, end))
        last = end
    return ranges


def add_working_set(state: bytes, ranges: Sequence[Range]) -> bytes:
    """Return a copy of ``state`` whose clones get the pages of ``ranges`` at their start.

    Raises:
        HostError: the state is invalid, or a range is outside of its memory.
    """
    saved = replace(decode(state), working_set=merge_ranges(ranges)[:MAX_RANGES])
    data = encode(saved)
    decode(data)
    return data
