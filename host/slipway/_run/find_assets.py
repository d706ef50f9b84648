"""Assets of a run: found in the store, or built when they are missing or damaged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway._model.errors import InputError
from slipway._run.assets import build_assets
from slipway._run.image_errors import translated_image_errors

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image


# ELF, the header of a bzImage, and that of arm64's Image.
_KERNEL_MAGICS = ((0, b"\x7fELF"), (0x202, b"HdrS"), (0x38, b"ARM\x64"))
_KERNEL_HEAD = 0x206


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
    with translated_image_errors():
        try:
            image = None if repair else store.image(language.image)
        except ImageCorrupted:
            image = None
        if image is None or not language.matches(image):
            image = _build(language, store, progress)
        try:
            return build_assets(image, language, options, store, progress, verified=repair)
        except ImageCorrupted:
            image = _build(language, store, progress)
            return build_assets(image, language, options, store, progress, verified=True)


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


def _build(language: Language, store: ImageStore, progress: Progress) -> Image:
    """Make the image, or find that it is there and sound."""
    from slipway._run.image_warmup import warmer
    from slipway.machine.hypervisors import choose
    from slipway_initramfs.build import build_image
    from slipway_initramfs.progress import BuildProgress
    from slipway_initramfs.source import SourceOptions

    def transfer(label: str, done: int, total: int) -> None:
        progress(f"downloading {label}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    # What is there already comes from where somebody wanted it, whatever the default is today.
    kind = "auto" if language.image in {image.name for image in store.images()} else None
    emulated = choose("auto", store.root).is_emulated
    return build_image(
        language,
        store,
        SourceOptions.from_environment(os.environ, kind=kind, emulated=emulated),
        progress=BuildProgress(progress, progress, transfer),
        warmer=warmer(store, progress),
    )
