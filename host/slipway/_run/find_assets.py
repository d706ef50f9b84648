"""Search for the assets of a run in the store; missing and damaged ones are built."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway._run.assets import AssetRequest, build_assets
from slipway._run.image_errors import translated_image_errors
from slipway._util.errors import InputError
from slipway._util.units import format_transfer

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway.machine.model import Hypervisor
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image


# Forms of a kernel for each architecture, as bytes at offsets: an ELF file with its e_machine
# (elf(5)), the header of a bzImage, and that of arm64's Image.
_KERNEL_MARKS = {
    "amd64": (((0, b"\x7fELF"), (0x12, b"\x3e\0")), ((0x202, b"HdrS"),)),
    "arm64": (((0x38, b"ARM\x64"),),),
}
_KERNEL_FILES = {"amd64": "a vmlinux or bzImage file", "arm64": "an Image file"}
_KERNEL_HEAD = 0x206


def find_assets(
    language: Language,
    options: Options,
    store: ImageStore,
    progress: Progress,
    *,
    hypervisor: Hypervisor | None = None,
    repair: bool = False,
) -> Assets:
    """Find the assets of ``language``; missing ones are built.

    Without ``hypervisor`` that of ``options`` is chosen. It is checked before a build, which takes
    minutes; else the start of the machine checks it. With ``repair`` every byte is checked, and
    damaged assets are built again.

    Raises:
        HostError: an asset is missing, and the hypervisor is not available on this host.
        ImageError: an asset cannot be built.
        InputError: the machine would have too little memory, or the caller's kernel is invalid.
    """
    from slipway_initramfs.errors import ImageCorrupted

    if hypervisor is None:
        from slipway.machine.hypervisors import choose

        hypervisor = choose(options.machine, store.root, options.arch)
    request = AssetRequest(language, options, hypervisor)
    if options.kernel is not None:
        _check_kernel(options.kernel, hypervisor.architecture)
    with translated_image_errors():
        try:
            image = None if repair else store.image(language.image, hypervisor.architecture)
        except ImageCorrupted:
            image = None
        if image is None or not language.matches(image):
            image = _build_image(request, store, progress)
        try:
            return build_assets(image, request, store, progress, verified=repair)
        except ImageCorrupted:
            image = _build_image(request, store, progress)
            return build_assets(image, request, store, progress, verified=True)


def _check_kernel(kernel: Path, architecture: str) -> None:
    """Check the first bytes of a caller's ``kernel``: QEMU accepts any file, and reports nothing.

    Raises:
        InputError: the file is missing, cannot be read, or is not a kernel for ``architecture``.
    """
    hint = f"Name {_KERNEL_FILES[architecture]}."
    # Path.is_file raises for long names and for directories that may not be searched.
    if not os.path.isfile(kernel):  # noqa: PTH113
        raise InputError(f"kernel {kernel}: no such file", hint)
    try:
        with kernel.open("rb") as file:
            head = file.read(_KERNEL_HEAD)
    except OSError as error:
        raise InputError(f"cannot read the kernel {kernel}: {error.strerror}", hint) from None
    found = _find_kernel_architecture(head)
    if found is None:
        raise InputError(f"{kernel} is not a Linux kernel", hint)
    if found != architecture:
        raise InputError(
            f"kernel {kernel} is for {found}, and the machine has {architecture}",
            f"{hint} Or ask for a machine of {found}: arch={found}.",
        )


def _find_kernel_architecture(head: bytes) -> str | None:
    """Return the architecture of a kernel by its first bytes; None if they are not a kernel's."""
    for architecture, forms in _KERNEL_MARKS.items():
        if any(all(head.startswith(mark, at) for at, mark in form) for form in forms):
            return architecture
    return None


def _build_image(request: AssetRequest, store: ImageStore, progress: Progress) -> Image:
    """Build the image, unless the store has a sound one.

    The image serves runs on each hypervisor: it is built by the best of this host.

    Raises:
        HostError: the hypervisor of ``request`` is not available on this host.
        ImageError: of :mod:`slipway_initramfs.errors`; the image cannot be built.
    """
    from slipway._run.image_warmup import create_warmer
    from slipway.machine.hypervisors import choose
    from slipway_initramfs.build import build_image
    from slipway_initramfs.progress import BuildProgress
    from slipway_initramfs.source import SourceOptions

    def report_transfer(label: str, done: int, total: int) -> None:
        progress(f"downloading {label}: {format_transfer(done, total)}")

    language, own = request.language, request.hypervisor
    own.check()
    architecture = own.architecture
    best = own if request.options.machine == "auto" else choose("auto", store.root, architecture)
    # An image that exists keeps its kind of source, even if the default has changed.
    images = {(image.name, image.architecture) for image in store.images()}
    kind = "auto" if (language.image, architecture) in images else None
    return build_image(
        language,
        store,
        SourceOptions.from_environment(
            os.environ, kind=kind, emulated=best.is_emulated, architecture=architecture
        ),
        progress=BuildProgress(progress, progress, report_transfer),
        warmer=create_warmer(store, best, progress),
    )
