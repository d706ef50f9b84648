"""Assets of a machine: kernel, initramfs and agent."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slipway._run.image_errors import translated_image_errors
from slipway._run.sizing import choose_machine_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway._model.options import Options
    from slipway.machine.model import Hypervisor
    from slipway_initramfs.freeze import Agent
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image, Kernel

    Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Assets:
    """Kernel, initramfs, agent and hypervisor of a machine.

    ``language`` includes the environment of the image; ``memory`` is that of the machine, in bytes;
    ``other_kernel`` is the caller's own kernel. ``hypervisor`` is chosen once for all machines of
    these assets.
    """

    language: Language
    image: Image
    kernel: Kernel
    agent: Agent
    initrd: Path
    other_kernel: Path | None
    memory: int
    hypervisor: Hypervisor

    @property
    def footprint(self) -> int:
        """The upper bound on the host memory that the machine takes, in bytes."""
        memory = self.memory + self.hypervisor.overhead
        if self.hypervisor.keeps_boot_files:
            memory += _measure_file(self.kernel_path) + _measure_file(self.initrd)
        return memory

    @property
    def kernel_path(self) -> Path:
        """The kernel that boots."""
        return self.other_kernel or self.kernel.path


def _measure_file(path: Path) -> int:
    """Return the size of a file; 0 for a missing file, which the boot reports."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


@dataclass(frozen=True, slots=True)
class AssetRequest:
    """Language, options and hypervisor of a machine whose assets are wanted."""

    language: Language
    options: Options
    hypervisor: Hypervisor


def find_boot_assets(
    image: Image, request: AssetRequest, store: ImageStore, progress: Progress
) -> Assets:
    """Find the assets that boot ``image``; a missing or stale kernel or agent is built.

    Raises:
        HostError: the kernel is missing or stale, and the hypervisor is not available on this host.
        ImageError: the kernel or the agent cannot be built.
        InputError: the machine would have too little memory.
    """
    with translated_image_errors():
        return build_assets(image, request, store, progress, verified=False)


def build_assets(
    image: Image, request: AssetRequest, store: ImageStore, progress: Progress, *, verified: bool
) -> Assets:
    """Find the assets as :func:`find_boot_assets` does, with the errors of slipway_initramfs.

    With ``verified`` every byte of kernel and agent is checked.
    """
    from slipway_initramfs.errors import ImageCorrupted
    from slipway_initramfs.freeze import freeze_agent
    from slipway_initramfs.store.initrds import find_initrd

    language, options, hypervisor = request.language, request.options, request.hypervisor
    kernel, name, arch = None, find_kernel_name(options), hypervisor.architecture
    if not verified:
        with suppress(ImageCorrupted):
            kernel = find_kernel(store, arch, options)
    if kernel is None or not kernel.is_current:
        from slipway_initramfs.kernel_build import build_kernel

        hypervisor.check()
        kernel = build_kernel(store, architecture=arch, name=name, progress=progress)
    memory = choose_machine_memory(image, language, options)
    agent = freeze_agent(store, image.architecture, progress, verify=verified)
    # Modules fit only the kernel that they were built with.
    other = None if isinstance(options.kernel, str) else options.kernel
    initrd = find_initrd(store, image, kernel if other is None else None, agent.path)
    adapted = replace(language, environment={**image.environment, **language.environment})
    return Assets(adapted, image, kernel, agent, initrd, other, memory, hypervisor)


def find_kernel_name(options: Options) -> str:
    """Return the name of the store's kernel that a caller wants; empty for the one in use.

    A kernel of the caller's own is a path; then the agent's modules are those of the one in use.
    """
    return options.kernel if isinstance(options.kernel, str) else ""


def find_kernel(store: ImageStore, architecture: str | None, options: Options) -> Kernel | None:
    """Find the store's kernel for a machine with ``options``; it may be stale.

    ``architecture`` is by default that of this host.

    Raises:
        ImageCorrupted: of :mod:`slipway_initramfs.errors`; its record is damaged.
    """
    from slipway_initramfs.architectures import machine_architecture

    name = find_kernel_name(options)
    if not name:
        return store.kernel(architecture)
    return store.find_kernel(architecture or machine_architecture(), name)


def verify_assets(assets: Assets, store: ImageStore) -> None:
    """Check every byte of the files that a machine boots against their digests.

    Raises:
        ImageCorrupted: a file is damaged; :func:`find_assets` builds it again with ``repair``. The
            class is that of :mod:`slipway_initramfs.errors`.
    """
    from slipway_initramfs.store.initrds import verify_initrd

    kernel = assets.kernel if assets.other_kernel is None else None
    verify_initrd(store, assets.image, kernel, assets.agent.archive)
    if kernel is not None:
        kernel.image.verify()
