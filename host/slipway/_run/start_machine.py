"""The start of a machine on the assets of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway.machine.model import Machine


async def start_machine(
    assets: Assets, options: Options, *, template: bool = False, network: int | None = None
) -> Machine:
    """Start a machine on ``assets``.

    ``template`` and ``network`` are as in :class:`slipway.machine.model.MachineSpec`.

    Raises:
        HostError: this host cannot run the machine.
        InputError: the machine cannot boot that kernel.
    """
    from slipway.machine.model import MachineSpec, PortKind

    spec = MachineSpec(
        kernel=assets.kernel_path,
        initrd=assets.initrd,
        kernel_arguments=assets.agent.kernel_arguments,
        memory_bytes=assets.memory,
        cpus=options.cpus,
        port=PortKind.SERIAL if assets.other_kernel is not None else PortKind.VIRTIO,
        boot_log=options.boot_log,
        template=template,
        network=network,
    )
    return await assets.hypervisor.start(spec)
