"""Image builds under way: one build for all runs that wait for the image."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._model.options import Options
from slipway._run.assets import find_kernel_name
from slipway._run.build_policy import BuildPolicy
from slipway._util.shares import Holdings, Share
from slipway._util.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from slipway._run.assets import AssetRequest, Assets, Progress
    from slipway._run.images import ImageProvider
    from slipway_initramfs.languages.language import Language

    _Key = tuple[str, str, str]
    """Name, architecture and kernel of an image."""

# Builds at once: each uses the network, the disk and a machine.
MAX_BUILDS = 2


class ImageBuilds:
    """Builds of the images that ``images`` lacks, at most one per image and kernel at a time.

    At most ``most`` builds are under way, and one for each user; the others wait, and users take
    turns. A build goes on when all that wait for it are cancelled: it cannot be interrupted, and
    the next run has the use of it.

    Attributes:
        holdings: builds under way, by the user whose turn it was.
    """

    def __init__(
        self, images: ImageProvider, policy: BuildPolicy | None = None, most: int = MAX_BUILDS
    ) -> None:
        self._images = images
        self._policy = policy or BuildPolicy()
        self._builds: dict[_Key, _Build] = {}
        self.holdings = Holdings(most)
        # Number of the last turn of each user with waiting builds.
        self._turns: dict[str, int] = {}
        self._clock = 0

    def check_allowed(self, language: Language, options: Options, share: Share) -> None:
        """Check that ``share`` may have the image of ``language`` built. Blocks; for a thread.

        Raises:
            BuildNotAllowed: the operator does not allow it.
        """
        is_known = self._images.is_known(language, options)
        self._policy.check(language.image, share, is_known=is_known)

    async def ensure_built(self, request: AssetRequest, progress: Progress, share: Share) -> None:
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
        build.listeners.append((share.user, progress))
        try:
            self._begin_next()
            if build.task is None:
                progress("waiting for the build of another image")
            elif build.last_line:
                progress(build.last_line)
            await build.begun.wait()
            assert build.task is not None
            await asyncio.shield(build.task)
        finally:
            build.listeners.remove((share.user, progress))
            if build.task is None and not build.listeners:
                del self._builds[key]

    def _begin_next(self) -> None:
        """Begin builds while there is room, for the users whose last turn is longest ago."""
        waiting = {key: build for key, build in self._builds.items() if build.task is None}
        users = {user for build in waiting.values() for user, _ in build.listeners}
        self._turns = {user: self._turns.get(user, 0) for user in users}
        while self.holdings.has_room(Share()):
            free = [user for user in users if not self.holdings.of_user(user)]
            turn = min(
                (
                    (self._turns[user], number, user, key)
                    for number, (key, build) in enumerate(waiting.items())
                    for user in free
                    if any(user == other for other, _ in build.listeners)
                ),
                default=None,
            )
            if turn is None:
                return
            _, _, user, key = turn
            self._clock += 1
            self._turns[user] = self._clock
            self._begin(waiting.pop(key), key, Share(user))

    def _begin(self, build: _Build, key: _Key, share: Share) -> None:
        """Begin a build in the turn of the user of ``share``."""
        self.holdings.add(share)
        task = build.begin()

        def end(_: asyncio.Task[Assets]) -> None:
            del self._builds[key]
            self.holdings.remove(share)
            if not task.cancelled():
                task.exception()  # without a waiting run it is read here, or asyncio logs it
            self._begin_next()

        task.add_done_callback(end)


class _Build:
    """Build of one image, and the users that wait for it, each with its listener."""

    def __init__(self, images: ImageProvider, request: AssetRequest) -> None:
        self.listeners: list[tuple[str, Progress]] = []
        # For listeners that come later.
        self.last_line = ""
        self.task: asyncio.Task[Assets] | None = None
        self.begun = asyncio.Event()
        self._images = images
        # No other options: the build may outlive the run that began it.
        machine, arch = request.options.machine, request.options.arch
        kernel = find_kernel_name(request.options) or None
        options = Options(machine=machine, arch=arch, kernel=kernel)
        self._request = replace(request, options=options)

    def begin(self) -> asyncio.Task[Assets]:
        """Start the build in a thread."""
        self.task = asyncio.create_task(
            run_in_daemon_thread(lambda: self._images.find(self._request, self._report))
        )
        self.begun.set()
        return self.task

    def _report(self, line: str) -> None:
        self.last_line = line
        for _, listener in list(self.listeners):
            listener(line)
