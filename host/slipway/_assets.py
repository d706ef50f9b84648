"""What a run boots: kernel, initramfs and agent, found in the store or made now."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slipway._errors import ImageError, InputError
from slipway._sizing import machine_memory

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


# ELF, the header of a bzImage, and that of arm64's Image.
_KERNEL_MAGICS = ((0, b"\x7fELF"), (0x202, b"HdrS"), (0x38, b"ARM\x64"))
_KERNEL_HEAD = 0x206


@dataclass(frozen=True, slots=True)
class Assets:
    """Everything that a machine is started from.

    ``language`` is as this image has it, with the variables that the image sets; ``memory`` is the
    machine's, in bytes; ``other_kernel`` the caller's own kernel, if it has one; ``state`` the
    store's directory.
    """

    language: Language
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
    from slipway_initramfs.errors import InvalidLanguage, InvalidReference, UnknownLanguage

    try:
        yield
    except (InvalidLanguage, InvalidReference, UnknownLanguage) as error:
        raise InputError(error.message, error.hint) from None
    except BuildError as error:
        raise ImageError(error.message, error.hint) from error


def find_language(name: str, store: ImageStore | None = None) -> Language:
    """The language called ``name``, or ``name@version``, that Slipway has or ``store`` was given.

    Raises:
        InputError: there is none; the hint has the nearest names.
    """
    from slipway_initramfs import languages

    with errors_told_to_callers():
        return languages.by_name(name, store)


def language_of_file(path: Path, store: ImageStore | None = None) -> Language:
    """The language whose suffix ``path`` has.

    Raises:
        InputError: none has it.
    """
    from slipway_initramfs import languages

    with errors_told_to_callers():
        return languages.by_suffix(path, store)


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

    if options.kernel is not None:
        _check_kernel(options.kernel)
    with errors_told_to_callers():
        try:
            image = None if repair else store.image(language.image)
        except ImageCorrupted:
            image = None
        if image is None or not language.matches(image):
            image = _build(language, store, progress)
        try:
            return _boot_assets(image, language, options, store, progress, verified=repair)
        except ImageCorrupted:
            image = _build(language, store, progress)
            return _boot_assets(image, language, options, store, progress, verified=True)


def _check_kernel(kernel: Path) -> None:
    """Check that a caller's ``kernel`` looks like one: QEMU takes anything, and does not say so.

    Raises:
        InputError: it does not, or cannot be read.
    """
    hint = "Name a vmlinux or bzImage file."
    # os.path says no where a name is too long or a directory may not be searched; Path raises.
    if not os.path.isfile(kernel):  # noqa: PTH113
        raise InputError(f"there is no kernel {kernel}", hint)
    try:
        with kernel.open("rb") as file:
            head = file.read(_KERNEL_HEAD)
    except OSError as error:
        raise InputError(f"cannot read the kernel {kernel}: {error.strerror}", hint) from None
    if not any(head[at:].startswith(magic) for at, magic in _KERNEL_MAGICS):
        raise InputError(f"{kernel} is no Linux kernel", hint)


def boot_assets(
    image: Image, language: Language, options: Options, store: ImageStore, progress: Progress
) -> Assets:
    """What ``image`` boots from, with kernel and agent made where they are missing.

    Raises:
        ImageError: they cannot be made.
        InputError: the machine would have too little memory.
    """
    with errors_told_to_callers():
        return _boot_assets(image, language, options, store, progress, verified=False)


def _boot_assets(
    image: Image,
    language: Language,
    options: Options,
    store: ImageStore,
    progress: Progress,
    *,
    verified: bool,
) -> Assets:
    """Do so; with ``verified`` every byte of kernel and agent is checked as well."""
    from slipway_initramfs.errors import ImageCorrupted
    from slipway_initramfs.freeze import agent as freeze_agent
    from slipway_initramfs.initrds import find_initrd

    kernel = None
    if not verified:
        with suppress(ImageCorrupted):
            kernel = store.kernel()
    if kernel is None:
        from slipway_initramfs.build import build_kernel

        kernel = build_kernel(store, progress=progress)
    memory = machine_memory(image, language, options)
    agent = freeze_agent(store, image.architecture, progress, verify=verified)
    # The modules are the kernel's: another kernel takes none of them.
    initrd = find_initrd(store, image, kernel if options.kernel is None else None, agent.path)
    adapted = replace(language, environment={**image.environment, **language.environment})
    return Assets(adapted, image, kernel, agent, initrd, options.kernel, memory, store.root)


def _build(language: Language, store: ImageStore, progress: Progress) -> Image:
    """Make the image, or find that it is there and sound."""
    from slipway._warm import is_emulated, warmer
    from slipway_initramfs.build import build_image
    from slipway_initramfs.reports import Reports
    from slipway_initramfs.source import Choices

    def transfer(label: str, done: int, total: int) -> None:
        progress(f"downloading {label}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    # What is there already comes from where somebody wanted it, whatever the default is today.
    kind = "auto" if language.image in {image.name for image in store.images()} else None
    return build_image(
        language,
        store,
        Choices.of_environment(os.environ, kind=kind, emulated=is_emulated(store)),
        reports=Reports(progress, progress, transfer),
        warmer=warmer(store, progress),
    )


async def start_machine(
    assets: Assets, options: Options, *, template: bool = False
) -> tuple[Machine, str]:
    """Start the machine that ``options`` ask for on ``assets``; it, and why it is that one.

    ``template`` as in :class:`slipway.machine.MachineSpec`.

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
        template=template,
    )
    machine, reason = choose(options.machine, assets.state)
    return await machine.start(spec), reason


def verify(assets: Assets, store: ImageStore) -> None:
    """Check every byte of what is being booted against its digest.

    Raises:
        ImageCorrupted: of :mod:`slipway_initramfs.errors`; what is damaged is made again by
            :func:`find_assets` with ``repair``.
    """
    from slipway_initramfs.initrds import verify_initrd

    kernel = assets.kernel if assets.other_kernel is None else None
    verify_initrd(store, assets.image, kernel, assets.agent.archive)
    if kernel is not None:
        kernel.image.verify()
