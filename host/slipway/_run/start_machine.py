"""The start of a machine on the assets of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway.machine import Machine


async def start_machine(
    assets: Assets, options: Options, *, template: bool = False
) -> tuple[Machine, str]:
    """Start the machine that ``options`` ask for on ``assets``; it, and why it is that one.

    ``template`` as in :class:`slipway.machine.MachineSpec`.

    Raises:
        HostError: this host cannot run it.
        InputError: there is no such machine, or it cannot boot that kernel.
    """
    from slipway.machine import MachineSpec, choose

    spec = MachineSpec(
        kernel=assets.kernel_path,
        initrd=assets.initrd,
        kernel_arguments=assets.agent.kernel_arguments,
        memory_bytes=assets.memory,
        state=assets.state,
        cpus=options.cpus,
        serial_port=assets.other_kernel is not None,
        boot_log=options.boot_log,
        template=template,
    )
    machine, reason = choose(options.machine, assets.state)
    return await machine.start(spec), reason
