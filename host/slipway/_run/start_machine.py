"""The start of a machine on the assets of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._run.booters import Booters
    from slipway.machine.model import Machine, PortKind


def choose_port(assets: Assets, options: Options) -> PortKind:
    """Return the port of the agent in a machine on ``assets``.

    By default it is the fastest. A kernel of the caller's may have no driver for that, and we have
    no modules for it: the agent takes the port that it finds.
    """
    from slipway.machine.model import PortKind

    if options.port != PortKind.AUTO:
        return PortKind(options.port)
    return PortKind.VIRTIO if assets.other_kernel is None else PortKind.AUTO


async def start_machine(
    assets: Assets,
    options: Options,
    *,
    template: bool = False,
    network: int | None = None,
    booters: Booters | None = None,
) -> Machine:
    """Start a machine on ``assets``, with ``booters`` of a runtime if given.

    ``template`` and ``network`` are as in :class:`slipway.machine.model.MachineSpec`.

    Raises:
        HostError: this host cannot run the machine.
        InputError: the machine cannot boot that kernel.
    """
    from slipway.machine.model import MachineSpec

    spec = MachineSpec(
        kernel=assets.kernel_path,
        initrd=assets.initrd,
        kernel_arguments=assets.agent.kernel_arguments,
        memory_bytes=assets.memory,
        cpus=options.cpus,
        port=choose_port(assets, options),
        boot_log=options.boot_log,
        template=template,
        network=network,
    )
    if booters is not None:
        return await booters.start(spec, assets.hypervisor)
    return await assets.hypervisor.start(spec)
