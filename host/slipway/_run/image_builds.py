"""Images that are being made: one maker for all the runs that wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slipway._model.options import Options
from slipway._util.threads import call_in_daemon

if TYPE_CHECKING:
    from slipway._run.assets import Assets, Progress
    from slipway._run.launcher import Launcher
    from slipway_initramfs.languages.catalogue import Language


class Makings:
    """Has ``launcher`` make the images that are missing, each once, however many wait for it.

    A making goes on when those who wait have gone: it cannot be broken off, and who comes next has
    the use of it. So there are never more threads than images.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._under_way: dict[str, _Making] = {}

    async def made(self, language: Language, progress: Progress) -> None:
        """Wait until the image of ``language`` is there.

        Args:
            language: whose image it is.
            progress: called with lines for people, from another thread.

        Raises:
            ImageError: it cannot be made.
        """
        making = self._under_way.get(language.image)
        if making is None:
            making = self._under_way[language.image] = _Making(self._launcher, language)
            making.task.add_done_callback(lambda task: self._forget(language.image, task))
        making.listeners.append(progress)
        if making.told:
            progress(making.told)
        try:
            await asyncio.shield(making.task)
        finally:
            making.listeners.remove(progress)

    def _forget(self, image: str, task: asyncio.Task[Assets]) -> None:
        del self._under_way[image]
        if not task.cancelled():
            task.exception()  # where nobody waits any more, nobody is to be told


class _Making:
    """One image on its way, and who hears of it."""

    def __init__(self, launcher: Launcher, language: Language) -> None:
        self.listeners: list[Progress] = []
        self.told = ""
        """The last line, for those who come later."""
        # Nothing of a run: what makes an image may outlive all that wait for it.
        self.task = asyncio.create_task(
            call_in_daemon(lambda: launcher.find(language, Options(), self._tell))
        )

    def _tell(self, line: str) -> None:
        self.told = line
        for listener in list(self.listeners):
            listener(line)
