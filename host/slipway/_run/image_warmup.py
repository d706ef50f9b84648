"""Warm-up of an image: one command in a machine of the image, and the file that it writes."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from slipway._util.errors import ImageError, SlipwayError
from slipway._util.text import to_plain_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway.machine.model import Hypervisor
    from slipway_initramfs.languages.recipes import Warmup
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image
    from slipway_initramfs.warmup import Warmer

# An emulated machine compiles a standard library in a quarter of an hour.
SECONDS = 3600
_SHOWN_OUTPUT = 2000


def create_warmer(
    store: ImageStore, hypervisor: Hypervisor, progress: Callable[[str], None]
) -> Warmer:
    """Create the function that runs warm-ups in machines of ``hypervisor``.

    Kernel and agent come from ``store``.
    """

    def warm(image: Image, warm_up: Warmup) -> bytes:
        from slipway_initramfs.errors import BuildFailed

        try:
            return asyncio.run(_run_warmup(image, warm_up, store, hypervisor, progress))
        except SlipwayError as error:
            raise BuildFailed(
                f"the image cannot be warmed up: {error.message}", error.hint
            ) from error

    return warm


async def _run_warmup(
    image: Image,
    warm_up: Warmup,
    store: ImageStore,
    hypervisor: Hypervisor,
    progress: Callable[[str], None],
) -> bytes:
    from slipway._model.bounds import MAX_FILE_BYTES
    from slipway._model.options import MAX_CPUS, Options
    from slipway._run.assets import AssetRequest, find_boot_assets
    from slipway._run.job_request import JobRequest
    from slipway._run.launcher import ColdLauncher
    from slipway._run.output_sink import OutputTail
    from slipway._util.units import MIB
    from slipway_initramfs.languages.language import Language, Limits
    from slipway_initramfs.languages.language import Phase as Command
    from slipway_initramfs.languages.recipes import RegistryRecipe
    from slipway_initramfs.warmup import OUTPUT

    limits = Limits(SECONDS, SECONDS, 0, 512, 1024, 1024, 1)
    language = Language(
        name="warming",
        aliases=(),
        suffixes=(),
        source=".warming",
        build=None,
        run=Command(warm_up.command, limits),
        environment={},
        debian=None,
        registry=RegistryRecipe(),
    )
    options = Options(
        outputs=(OUTPUT,),
        fetch_limit=MAX_FILE_BYTES,
        memory=image.minimum_memory + warm_up.memory * MIB,
        cpus=min(os.cpu_count() or 1, MAX_CPUS),
    )
    request = AssetRequest(language, options, hypervisor)
    assets = await asyncio.to_thread(find_boot_assets, image, request, store, progress)
    tail = OutputTail(_SHOWN_OUTPUT)
    progress("warming the image up in a machine of its own")
    async with await ColdLauncher(store).launch(assets, options) as guest:
        report = await guest.run(JobRequest(assets.language, b"", options), tail)
    if OUTPUT in report.files and report.succeeded:
        return report.files[OUTPUT][1]
    raise _build_failure(warm_up.command[0], bytes(tail.data), report.missing.get(OUTPUT, ""))


def _build_failure(program: str, output: bytes, missing: str) -> ImageError:
    """Build the error for a warm-up without a file; ``output`` is as hostile as the image."""
    words = " ".join(to_plain_line(output.decode("utf-8", "replace")).split())
    return ImageError(f"{program} failed in the image: {words or missing or 'no output'}")
