"""Launcher of machines: the seam between a run and the guest that it gets."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

from slipway._run.assets import verify_assets
from slipway._run.start_machine import choose_port, start_machine
from slipway._util.errors import ImageError
from slipway.machine.model import PortKind

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._run.booters import Booters
    from slipway._run.guest import Guest
    from slipway_initramfs.store.image_store import ImageStore


class DamagedImage(ImageError):
    """The image that was booted is damaged; no program has run.

    With ``rebuilt`` the image was found damaged before, and has been built again since.
    """

    def __init__(self, *, rebuilt: bool = False) -> None:
        if rebuilt:
            super().__init__(
                "the stored image was damaged, and is damaged again after it was built anew",
                "Check the disk of the image store: slipway doctor",
            )
        else:
            super().__init__(
                "the stored image is damaged", "A run of the language builds the image again."
            )


class Launcher(Protocol):
    """Supplier of machines with a ready agent."""

    async def launch(self, assets: Assets, options: Options) -> Guest:
        """Return a guest with a ready agent, for the caller alone.

        Raises:
            DamagedImage: the image that it was booted from is damaged.
            HostError: this host cannot run the machine.
        """
        ...

    async def release(self, guest: Guest) -> None:
        """Take back ``guest``, which :meth:`launch` returned."""
        ...


class ColdLauncher:
    """Launcher that boots a new machine for each run, from the images of ``store``."""

    def __init__(self, store: ImageStore, booters: Booters | None = None) -> None:
        """``booters`` are those of a runtime, which closes them."""
        self._store = store
        self._booters = booters

    async def launch(
        self, assets: Assets, options: Options, start_reason: str = "", *, template: bool = False
    ) -> Guest:
        """Boot a machine; see :meth:`Launcher.launch`.

        ``start_reason`` says why it is not a clone; ``template`` as in
        :class:`slipway.machine.model.MachineSpec`.
        """
        async with AsyncExitStack() as undo:
            network = link = None
            port = choose_port(assets, options)
            if options.network is not None or port is PortKind.TCP:
                # Most runs have no network, and are not to pay for the import.
                from slipway._run.guest_network import open_network

                network = open_network(undo, port)
                link = network.machine_end
            machine = await start_machine(
                assets, options, template=template, network=link, booters=self._booters
            )
            await undo.enter_async_context(machine)
            # Imported while the guest boots.
            from slipway._run.guest import Guest
            from slipway._run.start_info import StartInfo

            start_info = StartInfo("cold", start_reason, assets.hypervisor.reason)
            guest = Guest(machine, start_info, network)
            # A template serves machines with any rules, and connects to nothing itself.
            if options.network is not None and not template:
                await guest.start_gateway(options.network)
            elif port is PortKind.TCP:
                await guest.start_closed_gateway()
            await self._boot(guest, assets)
            undo.pop_all()
        return guest

    async def release(self, guest: Guest) -> None:
        """Stop the guest."""
        await guest.stop()

    async def _boot(self, guest: Guest, assets: Assets) -> None:
        """Wait for the agent while the bytes that boot are checked against their digests."""
        from slipway_initramfs.errors import ImageCorrupted

        check = asyncio.create_task(asyncio.to_thread(verify_assets, assets, self._store))
        try:
            await guest.wait_ready()
        finally:
            # A damaged image is the better explanation of a guest that did not boot.
            try:
                await check
            except ImageCorrupted:
                raise DamagedImage from None
