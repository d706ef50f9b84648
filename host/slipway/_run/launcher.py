"""The seam between a run and where its machine comes from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from slipway._model.errors import ImageError
from slipway._run.assets import verify
from slipway._run.find_assets import find_assets
from slipway._run.start_machine import start_machine

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway._run.guest import Guest
    from slipway_initramfs.languages.catalogue import Language
    from slipway_initramfs.store.image_store import ImageStore


class DamagedImage(ImageError):
    """What was booted is not what was stored; nothing of a program has run."""

    def __init__(self) -> None:
        super().__init__(
            "the stored image is damaged and was damaged again after it had been made anew",
            "Check the disk of the image store: slipway doctor",
        )


class Launcher(Protocol):
    """Finds what a run boots from, and gives it a machine with a ready agent."""

    def find(
        self, language: Language, options: Options, progress: Progress, *, repair: bool = False
    ) -> Assets:
        """What ``language`` runs on; what is missing is made, and with ``repair`` what is damaged.

        Raises:
            ImageError: it cannot be made.
            InputError: the machine would have too little memory.
        """
        ...

    def is_built(self, language: Language) -> bool:
        """Whether :meth:`find` has nothing to make that takes long."""
        ...

    async def launch(self, assets: Assets, options: Options) -> Guest:
        """A guest whose agent is ready, and that nobody else has.

        Raises:
            DamagedImage: it was booted from what is damaged.
            HostError: this host cannot run it.
        """
        ...

    async def release(self, guest: Guest) -> None:
        """The run in ``guest``, which :meth:`launch` gave, is over."""
        ...


class ColdLauncher:
    """Boots a new machine for each run, from the images of ``store``."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def find(
        self, language: Language, options: Options, progress: Progress, *, repair: bool = False
    ) -> Assets:
        """Find them in the store; see :meth:`Launcher.find`."""
        return find_assets(language, options, self._store, progress, repair=repair)

    def is_built(self, language: Language) -> bool:
        """Whether the image and the kernel are in the store."""
        from slipway_initramfs.errors import ImageCorrupted

        try:
            image = self._store.image(language.image)
            return image is not None and language.matches(image) and bool(self._store.kernel())
        except ImageCorrupted:
            return False

    async def launch(
        self, assets: Assets, options: Options, start_reason: str = "", *, template: bool = False
    ) -> Guest:
        """Boot; see :meth:`Launcher.launch`. ``start_reason``: why it is not cloned."""
        machine = await start_machine(assets, options, template=template)
        try:
            # Imported while the guest boots; nothing before it needs them.
            from slipway._run.guest import Guest, Origin

            guest = Guest(machine, Origin("cold", start_reason, assets.hypervisor.reason))
            await self._boot(guest, assets)
        except BaseException:
            await machine.stop()
            raise
        return guest

    async def release(self, guest: Guest) -> None:
        """End it."""
        await guest.stop()

    async def _boot(self, guest: Guest, assets: Assets) -> None:
        """Wait for the agent while the bytes that boot are checked against their digests."""
        from slipway_initramfs.errors import ImageCorrupted

        check = asyncio.create_task(asyncio.to_thread(verify, assets, self._store))
        try:
            await guest.wait_ready()
        finally:
            # A damaged image is the better explanation of a guest that did not boot.
            try:
                await check
            except ImageCorrupted:
                raise DamagedImage from None
