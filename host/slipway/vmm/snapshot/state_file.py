"""What a VM is apart from its memory, as a file: a snapshot's state.

It begins with a name, the version of the format and the SHA-256 of what follows, which is one value
of :mod:`slipway.vmm.snapshot.canonical_msgpack`. The memory is a file of its own.
"""

from __future__ import annotations

import os
import struct

from slipway._model.errors import HostError
from slipway.vmm.pages import PAGE, merge_ranges
from slipway.vmm.record import record, replace
from slipway.vmm.snapshot import canonical_msgpack as pack
from slipway.vmm.spec import VmConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from slipway.vmm.pages import Range

# A change of what a VM is made of, of its devices, of where they are, is one of this as well.
VERSION = 2
# Far more than eight vCPUs with the largest of all registers.
MAX_BYTES = 4 << 20
MAX_CPUS = 64
MAX_RANGES = 4096

_HEADER = struct.Struct("<16sI32s")
_MAGIC = b"slipway-kvm\0\0\0\0\0"
_AGAIN = "Make the snapshot again."


@record
class Saved:
    """The state of a VM; ``memory`` in bytes. Vcpus and machine are the architecture's business.

    ``working_set`` is what of the memory its clones write to first, in bytes from its start.
    """

    architecture: str
    memory: int
    cpus: int
    virtio: bool
    vcpus: list[dict[str, bytes | int]]
    machine: dict[str, bytes | int]
    devices: dict[str, Any]
    working_set: list[Range]

    @property
    def config(self) -> VmConfig:
        """The configuration of the VM."""
        return VmConfig(self.memory, self.cpus, self.virtio)


_FIELDS = tuple(Saved.__annotations__)


def pack_body(saved: Saved) -> bytes:
    """What a VMM tells of its VM."""
    return pack.pack({name: getattr(saved, name) for name in _FIELDS})


def encode(saved: Saved) -> bytes:
    """The bytes of a file for ``saved``."""
    return seal(pack_body(saved))


def seal(body: bytes) -> bytes:
    """``body`` with what guards it before it."""
    from hashlib import sha256

    return _HEADER.pack(_MAGIC, VERSION, sha256(body).digest()) + body


def read(descriptor: int) -> bytes:
    """All of a state's file.

    Raises:
        HostError: it cannot be read, or is too long to be one.
    """
    try:
        size = os.fstat(descriptor).st_size
        data = os.pread(descriptor, MAX_BYTES + 1, 0)
    except OSError as error:
        raise HostError(f"the snapshot cannot be read: {error.strerror}", _AGAIN) from None
    if len(data) != size or size > MAX_BYTES:
        raise HostError("the snapshot's state has not the length of one", _AGAIN)
    return data


def decode(data: bytes) -> Saved:
    """The state in a file's bytes.

    Raises:
        HostError: it is damaged, of another version, or not what a VMM writes. Nothing that
            ``data`` may hold raises another exception.
    """
    from hashlib import sha256

    if len(data) < _HEADER.size:
        raise HostError("the snapshot's state ends too early", _AGAIN)
    magic, version, digest = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise HostError("the snapshot's state is none of the kvm machine's", _AGAIN)
    if version != VERSION:
        raise HostError(f"the snapshot has version {version}, and {VERSION} is needed", _AGAIN)
    body = data[_HEADER.size :]
    if sha256(body).digest() != digest:
        raise HostError("the snapshot's state is damaged: its digest is another", _AGAIN)
    return decode_body(body)


def decode_body(body: bytes) -> Saved:
    """The state that :func:`pack_body` wrote.

    Raises:
        HostError: it is none.
    """
    try:
        if len(body) > MAX_BYTES - _HEADER.size:
            raise ValueError("it is too long")
        return _check_state(pack.unpack(body))
    except ValueError as error:
        raise HostError(f"the snapshot's state is none: {error}", _AGAIN) from None


def _check_state(value: Any) -> Saved:
    if type(value) is not dict or value.keys() != set(_FIELDS):
        raise ValueError("it has other parts")
    saved = Saved(**value)
    if type(saved.architecture) is not str or type(saved.virtio) is not bool:
        raise ValueError("it does not say of what machine it is")
    if type(saved.memory) is not int or not saved.memory or saved.memory % PAGE:
        raise ValueError("it does not say how much memory there is")
    if type(saved.cpus) is not int or not 0 < saved.cpus <= MAX_CPUS:
        raise ValueError("it does not say how many vCPUs there are")
    if type(saved.vcpus) is not list or len(saved.vcpus) != saved.cpus:
        raise ValueError("it has another number of vCPUs")
    for parts in (*saved.vcpus, saved.machine):
        if type(parts) is not dict or not all(type(p) in (bytes, int) for p in parts.values()):
            raise ValueError("a part of the processors is none")
    if type(saved.devices) is not dict:
        raise ValueError("it has no devices")
    return replace(saved, working_set=_check_ranges(saved.working_set, saved.memory))


def _check_ranges(value: Any, size: int) -> list[Range]:
    """Raises ValueError unless they are pages of ``size`` bytes, in order."""
    if type(value) is not list or len(value) > MAX_RANGES:
        raise ValueError("it has no working set")
    ranges = []
    last = 0
    for item in value:
        if type(item) is not list or [type(at) for at in item] != [int, int]:
            raise ValueError("a range of its working set is none")
        start, end = item
        if start % PAGE or end % PAGE or not last <= start < end <= size:
            raise ValueError("a range of its working set is out of bounds")
        ranges.append((start, end))
        last = end
    return ranges


def add_working_set(state: bytes, ranges: Sequence[Range]) -> bytes:
    """The same state, of whose memory clones get ``ranges`` at once.

    Raises:
        HostError: ``state`` is none, or ``ranges`` are not in its memory.
    """
    saved = replace(decode(state), working_set=merge_ranges(ranges)[:MAX_RANGES])
    data = encode(saved)
    decode(data)
    return data
