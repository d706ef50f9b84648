"""Image builds under way: one build for all runs that wait for the image."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._model.options import Options
from slipway._run.assets import find_kernel_name
from slipway._util.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from slipway._run.assets import AssetRequest, Assets, Progress
    from slipway._run.images import ImageProvider


class ImageBuilds:
    """Builds of the images that ``images`` lacks, at most one per image and kernel at a time.

    A build goes on when all that wait for it are cancelled: it cannot be interrupted, and the next
    run has the use of it. The number of threads is bounded by the number of images.
    """

    def __init__(self, images: ImageProvider) -> None:
        self._images = images
        self._builds: dict[tuple[str, str, str], _Build] = {}

    async def ensure_built(self, request: AssetRequest, progress: Progress) -> None:
        """Wait until the image of ``request`` is built, on the hypervisor of the first such run.

        ``progress`` is called with lines for people, from another thread.

        Raises:
            ImageError: the image cannot be built.
        """
        kernel = find_kernel_name(request.options)
        key = request.language.image, request.hypervisor.architecture, kernel
        build = self._builds.get(key)
        if build is None:
            build = self._builds[key] = _Build(self._images, request)
            build.task.add_done_callback(lambda task: self._forget_build(key, task))
        build.listeners.append(progress)
        if build.last_line:
            progress(build.last_line)
        try:
            await asyncio.shield(build.task)
        finally:
            build.listeners.remove(progress)

    def _forget_build(self, key: tuple[str, str, str], task: asyncio.Task[Assets]) -> None:
        del self._builds[key]
        if not task.cancelled():
            task.exception()  # without a waiting run the error is read here, or asyncio logs it


class _Build:
    """Build of one image, and the listeners to its progress."""

    def __init__(self, images: ImageProvider, request: AssetRequest) -> None:
        self.listeners: list[Progress] = []
        # For listeners that come later.
        self.last_line = ""
        # No other options: the build may outlive the run that began it.
        options = Options(
            machine=request.options.machine,
            arch=request.options.arch,
            kernel=find_kernel_name(request.options) or None,
        )
        request = replace(request, options=options)
        self.task = asyncio.create_task(
            run_in_daemon_thread(lambda: images.find(request, self._report))
        )

    def _report(self, line: str) -> None:
        self.last_line = line
        for listener in list(self.listeners):
            listener(line)
