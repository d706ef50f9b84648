"""Search for the assets of a run in the store; missing and damaged ones are built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._run.assets import AssetRequest, build_assets
from slipway._run.image_errors import translated_image_errors
from slipway._util.units import format_transfer

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway.machine.model import Hypervisor
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image


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
    if isinstance(options.kernel, Path):
        from slipway._run.kernel_file import check_kernel_file

        check_kernel_file(options.kernel, hypervisor.architecture)
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
