"""What snapshots are of, and what they depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Final

from slipway._util.units import MIB

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway_initramfs.languages.language import Language

FORMAT: Final = 1
"""Raised whenever snapshots come to hold something else; those of others are of no use then."""
# Of a language these decide nothing in the guest, or the image is made of them and has a digest.
_ELSEWHERE: Final = frozenset({"aliases", "suffixes", "debian", "registry", "version"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What a snapshot is of.

    ``image`` is the image's name, ``machine`` the machine's; ``inputs`` are 64 hexadecimal digits
    that stand for all that the snapshot depends on, ``parts`` are the same one by one, so that it
    can be told which of them has changed.
    """

    image: str
    machine: str
    memory_bytes: int
    cpus: int
    inputs: str
    parts: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, assets: Assets, cpus: int) -> Shape:
        """What a snapshot for a machine on these assets has to be of.

        Raises:
            HostError: this host cannot run such a machine.
        """
        from slipway_protocol import __version__

        parts = {
            "version": f"{__version__} {FORMAT}",
            "image": assets.image.digest,
            "kernel": assets.kernel.digest,
            "agent": assets.agent.digest,
            "arguments": digest_of(assets.agent.kernel_arguments),
            "language": language_digest(assets.language),
            "host": digest_of(assets.hypervisor.fingerprint()),
        }
        name, memory = assets.hypervisor.name, assets.memory
        inputs = digest_of([assets.image.name, name, memory, cpus, parts])
        return cls(assets.image.name, name, memory, cpus, inputs, tuple(parts.items()))

    def is_same_machine(self, other: Shape) -> bool:
        """Whether ``other`` differs at most in what it is made of: one takes the other's place."""
        names = ("image", "machine", "memory_bytes", "cpus")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @property
    def key(self) -> str:
        """The name in the store."""
        return f"{self.image}-{self.machine}-{self.memory_bytes // MIB}m-{self.cpus}"


class NoSnapshot(Exception):
    """A run cannot be served by a clone; ``reason`` says why, for its provenance."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_clonable(assets: Assets, options: Options) -> None:
    """Check that clones of a snapshot may serve such a run.

    Raises:
        NoSnapshot: the run needs a boot.
    """
    if assets.other_kernel is not None:
        raise NoSnapshot("it boots a kernel of its own")
    if options.boot_log:
        raise NoSnapshot("its boot is to be seen")


def digest_of(value: object) -> str:
    """64 hexadecimal digits that stand for ``value``, which is made of plain values."""
    # hashlib takes milliseconds to import.
    from _blake2 import blake2b

    text = json.dumps(value, sort_keys=True, default=_plain)
    return str(blake2b(text.encode(), digest_size=32).hexdigest())


def language_digest(language: Language) -> str:
    """What stands for all of a language that is not in its image: commands, sample, variables."""
    names = [each.name for each in fields(language) if each.name not in _ELSEWHERE]
    return digest_of({name: getattr(language, name) for name in names})


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    raise TypeError(f"{type(value).__name__} is not made of plain values")
