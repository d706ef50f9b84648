"""Snapshot keys: the machine of a snapshot, and all that the snapshot depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING

from slipway._run.start_machine import choose_port
from slipway._util.units import MIB
from slipway.machine.model import PortKind
from slipway_initramfs.store.records import DEBIAN_KERNEL

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway_initramfs.languages.language import Language

# Increased with each change of the contents of snapshots; snapshots of other formats are stale.
FORMAT = 1
# Fields of a language without effect in the guest, or covered by the digest of its image.
_ELSEWHERE = frozenset({"aliases", "suffixes", "debian", "registry", "version"})


@dataclass(frozen=True, slots=True)
class SnapshotKey:
    """Identity of a snapshot.

    ``image``, ``architecture``, ``hypervisor`` and ``kernel`` are names, ``port`` is that of the
    agent. With
    ``network`` the machine has a network interface, for any rules. ``inputs`` is a digest (64
    hexadecimal digits) of everything that the snapshot depends on; ``parts`` are the digests of the
    single inputs by name, to report which input has changed.
    """

    image: str
    architecture: str
    hypervisor: str
    memory_bytes: int
    cpus: int
    inputs: str
    parts: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    network: bool = False
    port: PortKind = PortKind.VIRTIO
    kernel: str = DEBIAN_KERNEL

    @classmethod
    def of_run(cls, assets: Assets, options: Options) -> SnapshotKey:
        """Return the key of snapshots that can serve a run with ``options``.

        Raises:
            HostError: this host cannot run such a machine.
        """
        port = choose_port(assets, options)
        return cls.of(assets, options.cpus, network=options.network is not None, port=port)

    @classmethod
    def of(
        cls,
        assets: Assets,
        cpus: int,
        *,
        network: bool = False,
        port: PortKind = PortKind.VIRTIO,
    ) -> SnapshotKey:
        """Return the key of snapshots that can serve a machine on ``assets``.

        An agent whose port is TCP has a ``network`` in any case.

        Raises:
            HostError: this host cannot run such a machine.
        """
        from slipway_protocol import __version__

        parts = {
            "version": f"{__version__} {FORMAT}",
            "image": assets.image.digest,
            "kernel": assets.kernel.digest,
            "agent": assets.agent.digest,
            "arguments": json_digest(assets.agent.kernel_arguments),
            "language": language_digest(assets.language),
            "host": json_digest(assets.hypervisor.fingerprint()),
        }
        network = network or port is PortKind.TCP
        image, memory = assets.image.name, assets.memory
        machine = assets.hypervisor.architecture, assets.hypervisor.name
        inputs = json_digest([image, *machine, memory, cpus, network, port, parts])
        pairs, kernel = tuple(parts.items()), assets.kernel.name
        return cls(image, *machine, memory, cpus, inputs, pairs, network, port, kernel)

    def replaces(self, other: SnapshotKey) -> bool:
        """Return True if ``other`` has the same name: at most the inputs differ."""
        return self.name == other.name

    @property
    def name(self) -> str:
        """Name of the snapshot in the store."""
        machine = self.architecture, self.hypervisor
        words = [self.image, *machine, f"{self.memory_bytes // MIB}m", str(self.cpus)]
        if self.port is not PortKind.VIRTIO:
            words.append(self.port)
        if self.network and self.port is not PortKind.TCP:
            words.append("network")
        if self.kernel != DEBIAN_KERNEL:
            words.append(self.kernel)
        return "-".join(words)


# Why a snapshot is stale, by the part that differs.
DIFFERENCES = {
    "version": "from another version of Slipway",
    "image": "its image was replaced",
    "kernel": "the kernel was replaced",
    "agent": "the agent was replaced",
    "arguments": "the agent was replaced",
    "language": "its language file was changed",
    "host": "from another CPU, kernel or VMM",
}


def find_difference(stored: SnapshotKey, wanted: SnapshotKey) -> str:
    """Return why a stored snapshot is stale for ``wanted``, a key of the same name; "" if not."""
    if stored == wanted:
        return ""
    parts = dict(stored.parts)
    different = (name for name, digest in wanted.parts if parts.get(name) != digest)
    return DIFFERENCES.get(next(different, ""), "of another machine")


class NoSnapshot(Exception):
    """No clone can serve the run; ``reason`` is for the run's provenance."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def build_missing_error(key: SnapshotKey, difference: str = "") -> NoSnapshot:
    """Return the error for a store without a snapshot of ``key``, with any port but the usual.

    With ``difference``, the store has a stale snapshot of this name.
    """
    if difference:
        return NoSnapshot(f"no matching snapshot: {key.name} is stale ({difference})")
    suffix = "" if key.port is PortKind.VIRTIO else f" for the port {key.port}"
    return NoSnapshot(f"no matching snapshot{suffix}")


def check_clonable(assets: Assets, options: Options) -> None:
    """Check that a clone may serve a run with ``options``.

    Raises:
        NoSnapshot: the run needs a boot.
    """
    if assets.other_kernel is not None:
        raise NoSnapshot("the run boots its own kernel")
    if options.boot_log:
        raise NoSnapshot("the run shows the boot log")


def json_digest(value: object) -> str:
    """Return the BLAKE2b digest of ``value`` as sorted JSON: 64 hexadecimal digits.

    Mappings and dataclasses count as JSON objects.
    """
    # hashlib takes milliseconds to import.
    from _blake2 import blake2b

    text = json.dumps(value, sort_keys=True, default=_convert_to_json)
    return str(blake2b(text.encode(), digest_size=32).hexdigest())


def language_digest(language: Language) -> str:
    """Return the digest of a language's commands, sample and variables.

    All else of a language is part of its image.
    """
    names = [each.name for each in fields(language) if each.name not in _ELSEWHERE]
    return json_digest({name: getattr(language, name) for name in names})


def _convert_to_json(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")
