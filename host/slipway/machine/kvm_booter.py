"""Booter of the hypervisor ``kvm``: a zygote, whose children boot, and boot templates."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from slipway._util.errors import HostError, SlipwayError
from slipway._util.threads import run_shielded
from slipway.machine.host_limits import HostLimits, HostNeed
from slipway.machine.kvm import KvmMachine
from slipway.machine.kvm_boot_template import can_boot, create_boot_template, measure_memory
from slipway.machine.kvm_parts import VmmSockets, build_config, encode_start_message
from slipway.machine.zygote_handle import ZygoteHandle

if TYPE_CHECKING:
    from slipway.machine.model import Hypervisor, MachineSpec, MemoryReserve
    from slipway.vmm.spec import BootTemplate

    Key = tuple[tuple[int, ...], ...]
    """Device, inode, size and times of kernel and initramfs: changed files have another key."""

BOOT_ZYGOTE = "slipway.vmm.process.boot_zygote"
# Images that are booted in turn; the least recently booted goes first.
MAX_TEMPLATES = 4


class KvmBooter:
    """Booter that forks VMMs of a zygote, started by the first boot.

    A new zygote takes the place of one that has ended. The first boot of an image has a template
    made beside it, for the later ones.
    """

    def __init__(self, reserve: MemoryReserve | None = None) -> None:
        """``reserve`` counts the memory of the templates."""
        self._reserve = reserve
        self._zygote: ZygoteHandle | None = None
        self._starting = asyncio.Lock()
        self._closed = False
        # The least recently used first. Without a template: it cannot be made, or is being made.
        self._templates: dict[Key, BootTemplate | None] = {}
        self._making: set[asyncio.Task[None]] = set()

    @property
    def template_bytes(self) -> int:
        """Memory of all templates, in bytes."""
        return sum(measure_memory(each) for each in self._templates.values() if each is not None)

    @property
    def is_making(self) -> bool:
        """True while a template is being made."""
        return bool(self._making)

    async def start(self, spec: MachineSpec, hypervisor: Hypervisor) -> KvmMachine:
        """Start a VMM; see :meth:`slipway.machine.model.Booter.start`."""
        hypervisor.check()
        zygote = await self._find_zygote()
        key = _identify(spec)
        template = self._find_template(key, spec.memory_bytes)
        machine = await boot_machine(zygote, spec, hypervisor, template)
        self._begin_template(key, spec)
        return machine

    async def _find_zygote(self) -> ZygoteHandle:
        """Return a zygote that runs, for any number of boots at once."""
        async with self._starting:
            if self._closed:
                raise HostError("the booter is closed")
            if self._zygote is not None and self._zygote.has_ended:
                await self._zygote.close()
                self._zygote = None
            if self._zygote is None:
                self._zygote = await ZygoteHandle.start(BOOT_ZYGOTE)
            return self._zygote

    # --- Templates -----------------------------------------------------------------------------

    def _find_template(self, key: Key, memory_bytes: int) -> BootTemplate | None:
        template = self._templates.get(key)
        if template is None or not can_boot(template, memory_bytes):
            return None
        self._templates[key] = self._templates.pop(key)
        return template

    def _begin_template(self, key: Key, spec: MachineSpec) -> None:
        """Begin to make the template of ``key``, unless that was begun before."""
        if key and key not in self._templates and not self._closed:
            while len(self._templates) >= MAX_TEMPLATES:
                self._drop_template(next(iter(self._templates)))
            self._templates[key] = None
            self._making.add(task := asyncio.create_task(self._make_template(key, spec)))
            task.add_done_callback(self._making.discard)

    async def _make_template(self, key: Key, spec: MachineSpec) -> None:
        with suppress(SlipwayError), ExitStack() as unused:  # boots go on without

            async def make() -> BootTemplate:
                template = await asyncio.to_thread(create_boot_template, spec.kernel, spec.initrd)
                unused.callback(os.close, template.file)
                return template

            template = await run_shielded(make())
            size = measure_memory(template)
            is_wanted = not self._closed and key in self._templates and _identify(spec) == key
            if is_wanted and (self._reserve is None or self._reserve.reserve(size)):
                self._templates[key] = template
                unused.pop_all()

    def _drop_template(self, key: Key) -> int:
        """Forget the template of ``key``; return the bytes that are free now."""
        template = self._templates.pop(key)
        if template is None:
            return 0
        size = measure_memory(template)
        os.close(template.file)  # VMMs that boot from it have it mapped
        if self._reserve is not None:
            self._reserve.free(size)
        return size

    def evict(self, memory: int) -> None:
        """Drop templates, least recently used first; see :meth:`Booter.evict`."""
        for key in list(self._templates):
            if memory > 0:
                memory -= self._drop_template(key)

    async def close(self) -> None:
        """Start no more VMMs; see :meth:`slipway.machine.model.Booter.close`."""
        async with self._starting:
            self._closed = True
            if self._making:
                await asyncio.wait(self._making)
            for key in list(self._templates):
                self._drop_template(key)
            if self._zygote is not None:
                await self._zygote.close()


async def boot_machine(
    zygote: ZygoteHandle,
    spec: MachineSpec,
    hypervisor: Hypervisor,
    template: BootTemplate | None = None,
) -> KvmMachine:
    """Return the machine of a new child of ``zygote`` that boots ``spec``.

    Raises:
        InputError: a file cannot be booted.
        HostError: the child cannot be forked, or cannot run the VM.
    """
    config = build_config(spec)
    message = encode_start_message(spec, template)
    network = () if spec.network is None else (spec.network,)
    files = () if template is None else (template.file,)
    limits = HostLimits.open(HostNeed.of_spec(hypervisor, spec))
    with ExitStack() as ours:
        ours.callback(limits.discard)
        with ExitStack() as theirs:
            sockets = VmmSockets.open(config.port, ours, theirs)
            given = (*sockets.theirs, *network, *files)
            process = await zygote.spawn(given, limits.descriptor)
        machine = KvmMachine(
            process,
            sockets.channel,
            config,
            hypervisor,
            boot_log=spec.boot_log,
            limits=limits,
        )
        await machine.start_vm(sockets, message)
        ours.pop_all()
    return machine


def _identify(spec: MachineSpec) -> Key:
    """Return the key of the files of ``spec``; empty if one is missing, as the boot will report."""
    try:
        found = [path.stat() for path in (spec.kernel, spec.initrd)]
    except (OSError, ValueError):
        return ()
    return tuple(
        (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns)
        for each in found
    )
