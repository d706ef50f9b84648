"""What a run boots: kernel, initramfs and agent, found in the store or made now."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._errors import ImageError, InputError
from slipway._request import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slipway._request import Options
    from slipway.machine import Machine
    from slipway_initramfs.freeze import Agent
    from slipway_initramfs.languages import Language
    from slipway_initramfs.records import Image, Kernel
    from slipway_initramfs.store import ImageStore

    Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Assets:
    """Everything that a machine is started from.

    ``memory`` is the machine's, in bytes; ``other_kernel`` the caller's own kernel, if it has one;
    ``state`` the store's directory.
    """

    image: Image
    kernel: Kernel
    agent: Agent
    initrd: Path
    other_kernel: Path | None
    memory: int
    state: Path

    @property
    def kernel_path(self) -> Path:
        """The kernel that boots."""
        return self.other_kernel or self.kernel.path


@contextmanager
def errors_told_to_callers() -> Iterator[None]:
    """Errors of making and finding images, as those of our own tree."""
    from slipway_initramfs.errors import ImageError as BuildError
    from slipway_initramfs.errors import UnknownLanguage

    try:
        yield
    except UnknownLanguage as error:
        raise InputError(error.message, error.hint) from None
    except BuildError as error:
        raise ImageError(error.message, error.hint) from error


def find_language(name: str) -> Language:
    """The language called ``name``.

    Raises:
        InputError: there is none; the hint has the nearest names.
    """
    from slipway_initramfs import languages

    with errors_told_to_callers():
        return languages.by_name(name)


def language_of_file(path: Path) -> Language:
    """The language whose suffix ``path`` has.

    Raises:
        InputError: none has it.
    """
    from slipway_initramfs import languages

    with errors_told_to_callers():
        return languages.by_suffix(path)


def find_assets(
    language: Language,
    options: Options,
    store: ImageStore,
    progress: Progress,
    *,
    repair: bool = False,
) -> Assets:
    """Find what ``language`` runs on; what is missing is made first.

    With ``repair`` every byte of what is found is checked, and what is damaged made anew.

    Raises:
        ImageError: it cannot be made.
        InputError: the machine would have too little memory, or the kernel is no file.
    """
    from slipway_initramfs.errors import ImageCorrupted
    from slipway_initramfs.freeze import agent as freeze_agent

    # os.path says no where a name is too long or a directory may not be searched; Path raises.
    if options.kernel is not None and not os.path.isfile(options.kernel):  # noqa: PTH113
        raise InputError(f"there is no kernel {options.kernel}", "Name a vmlinux or bzImage file.")
    with errors_told_to_callers():
        try:
            image = None if repair else store.image(language.name)
            kernel = None if repair else store.kernel()
        except ImageCorrupted:
            image = kernel = None
        if image is not None and not image.is_current(language.recipe.plain()):
            image = None
        if image is None or kernel is None:
            image, kernel = _build(language, store, progress)
        memory = _machine_memory(image, options.memory)
        agent = freeze_agent(store, image.architecture, progress, verify=repair)
        # The modules are the kernel's: another kernel takes none of them.
        modules = kernel if options.kernel is None else None
        try:
            initrd = store.initrd(image, modules, agent.path)
        except ImageCorrupted:
            image, kernel = _build(language, store, progress)
            initrd = store.initrd(image, kernel if modules else None, agent.path)
    return Assets(image, kernel, agent, initrd, options.kernel, memory, store.root)


def _build(language: Language, store: ImageStore, progress: Progress) -> tuple[Image, Kernel]:
    """Make the image and the kernel, or find that they are there and sound."""
    from slipway_initramfs.build import build_image, build_kernel

    kernel = build_kernel(store, progress=progress)
    return build_image(language, store, progress=progress), kernel


def _machine_memory(image: Image, wanted: int | None) -> int:
    if wanted is None:
        return image.default_memory
    if wanted < image.minimum_memory:
        minimum = -(-image.minimum_memory // MIB)
        raise InputError(
            f"{image.name} needs {minimum} MiB of memory to boot, and {wanted // MIB} are given",
            f"Use --memory {minimum} or more; the default is {image.default_memory // MIB}.",
        )
    return wanted


async def start_machine(assets: Assets, options: Options) -> tuple[Machine, str]:
    """Start the machine that ``options`` ask for on ``assets``; it, and why it is that one.

    Raises:
        HostError: this host cannot run it.
        InputError: there is no such machine, or it cannot boot that kernel.
    """
    from slipway.machine import MachineSpec, choose

    spec = MachineSpec(
        kernel=assets.kernel_path,
        initrd=assets.initrd,
        kernel_arguments=assets.agent.kernel_arguments,
        memory_bytes=assets.memory,
        state=assets.state,
        cpus=options.cpus,
        serial_port=assets.other_kernel is not None,
        boot_log=options.boot_log,
    )
    machine, reason = choose(options.machine, assets.state)
    return await machine.start(spec), reason


def verify(assets: Assets, store: ImageStore) -> None:
    """Check every byte of what is being booted against its digest.

    Raises:
        ImageCorrupted: of :mod:`slipway_initramfs.errors`; what is damaged is made again by
            :func:`find_assets` with ``repair``.
    """
    own_kernel = assets.other_kernel is None
    store.verify_initrd(assets.image, assets.kernel if own_kernel else None, assets.agent.archive)
    if own_kernel:
        assets.kernel.image.verify()
