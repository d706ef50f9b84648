"""Hint after a run that booted because the store has no snapshot for it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from slipway._cli.snapshot_budget import read_budget_variable
from slipway._model.options import OPTIONS
from slipway._snapshots.key import NoSnapshot, SnapshotKey, check_clonable
from slipway._snapshots.store import SnapshotStore
from slipway._util.errors import SlipwayError
from slipway_initramfs.store.root import default_root

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._model.result import Result
    from slipway._run.assets import Assets
    from slipway_initramfs.store.image_store import ImageStore


def suggest_snapshot(assets: Assets, options: Options, store: ImageStore, result: Result) -> str:
    """Return a sentence with the command after which such runs start from a snapshot.

    Empty if the machine did not boot for lack of a snapshot, or if ``slipway image build`` takes
    no snapshot of such a machine.
    """
    is_default = assets.memory == assets.image.default_memory and options.cpus == 1
    if result.provenance.start != "cold" or not is_default:
        return ""
    try:
        if not _lacks_snapshot(assets, options, store):
            return ""
    except (NoSnapshot, SlipwayError):
        return ""
    seconds = result.timing.boot + result.timing.agent + result.timing.ready
    command = shlex.join(["slipway", "image", "build", *_list_arguments(assets, options, store)])
    return f"the machine booted in {seconds:.1f} s; for faster starts: {command}"


def _lacks_snapshot(assets: Assets, options: Options, store: ImageStore) -> bool:
    """Return whether the store could have a snapshot for the run, and does not.

    Raises:
        NoSnapshot: no clone can serve the run.
        SlipwayError: the store or this host cannot tell.
    """
    check_clonable(assets, options)
    if read_budget_variable() == 0:
        return False
    return SnapshotStore(store).find(SnapshotKey.of_run(assets, options)) is None


def _list_arguments(assets: Assets, options: Options, store: ImageStore) -> list[str]:
    """Return the arguments of ``slipway image build`` for a machine of ``options``."""
    arguments = []
    for name in ("machine", "arch", "port", "kernel"):
        value = getattr(options, name)
        if value != OPTIONS[name].default:
            arguments += [f"--{name}", value]
    if options.network is not None:
        arguments.append("--network")
    if store.root != default_root():
        arguments += ["--store", str(store.root)]
    return [*arguments, assets.image.name]
