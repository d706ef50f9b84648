"""Slot of a run or session: admission, image, launch and release of one machine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from slipway._run.assets import AssetRequest
from slipway._run.launcher import DamagedImage
from slipway._util.errors import InputError
from slipway._util.threads import run_in_daemon_thread, run_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._admission.admission import Admission
    from slipway._admission.ticket import Needs, Ticket
    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway._run.guest import Guest
    from slipway._run.image_builds import ImageBuilds
    from slipway._run.images import ImageProvider
    from slipway._run.launcher import Launcher
    from slipway._util.shares import Share
    from slipway_initramfs.languages.language import Language


_T = TypeVar("_T")


def ignore_progress(_line: str) -> None:
    """Ignore a line about an image build."""


@dataclass(frozen=True, slots=True)
class SlotContext:
    """Parts that the slots of one runtime share.

    A program that runs a single job has neither ``admission`` nor ``builds``.
    """

    images: ImageProvider
    launcher: Launcher
    admission: Admission | None = None
    builds: ImageBuilds | None = None


class Slot:
    """Place of one machine, from its admission to its release.

    The order of calls is :meth:`find_if_built`, :meth:`enter`, :meth:`wait_admitted`,
    :meth:`launch`, :meth:`release`, :meth:`leave`. Without an admission it is :meth:`find`,
    :meth:`launch`, :meth:`release`.
    """

    def __init__(
        self,
        context: SlotContext,
        language: Language,
        options: Options,
        share: Share | None = None,
        *,
        check: Callable[[Assets], None] | None = None,
        assets: Assets | None = None,
    ) -> None:
        """Remember what is to be launched.

        Args:
            context: the parts that all slots of a runtime share.
            language: selects the image.
            options: give the machine its memory, CPUs and kernel.
            share: the user and key that the machine is for. Default: a share of this process.
            check: called with the assets before admission; an InputError ends the slot.
            assets: known beforehand where another machine is used or cloned.
        """
        self._context = context
        self._language = language
        self._options = options
        self._share = share
        self._check = check
        self._assets = assets
        self._request: AssetRequest | None = None
        self._memory_factor = 1
        self._ticket: Ticket | None = None
        self.progress: Progress = ignore_progress

    @property
    def assets(self) -> Assets:
        """The assets of the machine; known after :meth:`find` or :meth:`wait_admitted`."""
        assert self._assets is not None
        return self._assets

    @property
    def position(self) -> int | None:
        """Number of runs that are started before this one, while it is queued."""
        return self._ticket.position if self._ticket is not None else None

    def find(self, *, repair: bool = False) -> None:
        """Find the assets, or build them, which blocks for minutes.

        With ``repair`` all bytes are checked, and damaged files are built again.

        Raises:
            HostError: they are missing, and this host cannot run the machine.
            ImageError: they cannot be built.
            InputError: the machine would have too little memory.
        """
        assets = self._assets
        if assets is None or repair:
            request = self._build_request()
            assets = self._context.images.find(request, self.progress, repair=repair)
        if self._check is not None:
            self._check(assets)
        self._assets = assets

    async def find_if_built(self) -> None:
        """Find the assets if the image is built, else leave that to :meth:`wait_admitted`.

        Raises:
            BuildNotAllowed: the image is missing, and the operator does not let it be made.
            ImageError: a part of them cannot be built.
            InputError: the machine would have too little memory.
        """
        if self._assets is not None:
            self.find()
        else:
            await asyncio.to_thread(self._find_if_built)

    def _find_if_built(self) -> None:
        if self._context.images.is_built(self._language, self._options):
            self.find()
        else:
            self._check_build_allowed()

    def _check_build_allowed(self) -> None:
        if self._context.builds is not None:
            share = self._find_share()
            self._context.builds.check_allowed(self._language, self._options, share)

    async def build_missing(self) -> None:
        """Find the assets; a missing image is built first, once for all runs that wait for it.

        Raises:
            HostError: the image is missing, and this host cannot run the machine.
            ImageError: the image cannot be built.
            InputError: the machine would have too little memory.
        """
        assert self._context.builds is not None
        if self._assets is None:
            request = await asyncio.to_thread(self._check_host)
            await self._context.builds.ensure_built(request, self.progress, self._find_share())
            await asyncio.to_thread(self.find)

    def _check_host(self) -> AssetRequest:
        """Check the hypervisor before a build, which takes minutes.

        Raises:
            HostError: this host lacks something for the hypervisor.
        """
        request = self._build_request()
        request.hypervisor.check()
        return request

    def _build_request(self) -> AssetRequest:
        """Choose the hypervisor at the first call; all machines of this slot run on it."""
        if self._request is None:
            if self._assets is not None:
                hypervisor = self._assets.hypervisor
            else:
                hypervisor = self._context.images.choose_hypervisor(self._options)
            self._request = AssetRequest(self._language, self._options, hypervisor)
        return self._request

    def enter(self, on_position: Callable[[int], None] | None = None) -> None:
        """Enter the admission; ``on_position`` is called with each position in the queue.

        Raises:
            Busy: the queue is full.
            InputError: the machine needs more than the capacity.
        """
        assert self._context.admission is not None
        needs = self._check_needs() if self._assets is not None else None
        self._ticket = self._context.admission.enter(self._find_share(), needs)
        self._ticket.on_position = on_position
        if on_position is not None and self._ticket.position is not None:
            on_position(self._ticket.position)

    async def wait_admitted(self) -> None:
        """Wait for room; a missing image is built first.

        Raises:
            Busy: another share got the place in the queue.
            HostError: the image is missing, and this host cannot run the machine.
            ImageError: the image cannot be built.
            InputError: the machine needs more than the capacity.
        """
        admission, ticket = self._context.admission, self._ticket
        assert admission is not None
        assert ticket is not None
        if self._assets is None:
            await run_until(self.build_missing(), ticket.decided)
        if ticket.refusal is None:
            if ticket.needs is None:
                admission.declare(ticket, self._check_needs())
            await ticket.decided.wait()
        if ticket.refusal is not None:
            raise ticket.refusal

    def set_idle(self, give_way: Callable[[], None] | None) -> None:
        """Let ``give_way`` be called when another share needs the machine; None: never."""
        if self._ticket is not None:
            assert self._context.admission is not None
            self._context.admission.set_idle(self._ticket, give_way)

    @property
    def is_wanted(self) -> bool:
        """True if another share waits for the machine, and has to be let in between two runs."""
        admission, ticket = self._context.admission, self._ticket
        return admission is not None and ticket is not None and admission.is_wanted(ticket)

    def leave(self) -> None:
        """Leave the admission; may be called again."""
        # These may hold the input files of a job, and its handle with the result.
        self._check = None
        self.progress = ignore_progress
        if self._ticket is not None:
            self._ticket.on_position = None
            assert self._context.admission is not None
            self._context.admission.leave(self._ticket)

    async def launch(self) -> Guest:
        """Launch a guest; an image that is found damaged is built again, once.

        Raises:
            HostError: this host cannot run the machine.
            ImageError: the image was damaged again, or cannot be built.
        """
        launcher = self._context.launcher
        return await self.boot_sound(lambda assets: launcher.launch(assets, self._options))

    async def boot_sound(self, boot: Callable[[Assets], Awaitable[_T]]) -> _T:
        """Return what ``boot`` does with the assets; damaged ones are built again, once.

        Raises:
            ImageError: the image was damaged again, or cannot be built.
        """
        try:
            return await boot(self.assets)
        except DamagedImage:
            await asyncio.to_thread(self._check_build_allowed)
            # No job has run: the image is checked before the agent's first job.
            self.progress("the stored image is damaged; building it again")
            await run_in_daemon_thread(lambda: self.find(repair=True))
        try:
            return await boot(self.assets)
        except DamagedImage:
            raise DamagedImage(rebuilt=True) from None

    async def release(self, guest: Guest) -> None:
        """Give ``guest`` back to its launcher."""
        await self._context.launcher.release(guest)

    def for_fork(self, launcher: Launcher) -> Slot:
        """Return a slot for a clone of this machine, which ``launcher`` makes.

        A clone may have its memory twice: as it was at the fork, and what was changed since.

        Raises:
            InputError: both machines together need more than the capacity.
        """
        admission = self._context.admission
        assert admission is not None
        context = replace(self._context, launcher=launcher)
        fork = Slot(context, self._language, self._options, self._share, assets=self._assets)
        fork._memory_factor = 2
        capacity, needs = admission.capacity, (self._count_needs(), fork._count_needs())
        if (
            capacity.machines < 2
            or capacity.memory < sum(each.memory for each in needs)
            or capacity.cpus < sum(each.cpus for each in needs)
        ):
            raise InputError(
                "never room for this session and a fork of it at once",
                "Give the runtime or server more max_machines, memory_budget or cpus.",
            )
        return fork

    def _find_share(self) -> Share:
        # A single run needs no share, and is not to pay for the import.
        from slipway._util.shares import Share

        return self._share or Share()

    def _check_needs(self) -> Needs:
        """Check and return the needs of the machine.

        Raises:
            InputError: the needs exceed the capacity of the whole runtime.
        """
        assert self._context.admission is not None
        needs = self._count_needs()
        self._context.admission.check(needs)
        return needs

    def _count_needs(self) -> Needs:
        """Count memory and CPUs of the machine."""
        # A single run needs no admission, and is not to pay for its import.
        from slipway._admission.ticket import Needs

        assets = self.assets
        memory = (self._memory_factor - 1) * assets.memory + assets.footprint
        memory += self._options.fetched_bytes  # the files of the result
        if self._options.network is not None:
            from slipway.machine.gateway.bounds import MAX_MEMORY

            memory += MAX_MEMORY
        return Needs(memory, self._options.cpus)
