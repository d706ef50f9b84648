"""Assets of a run on a hypervisor that a test names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from slipway.machine.hypervisors import choose
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from slipway._run.assets import Assets


def with_hypervisor(assets: Assets, name: str) -> Assets:
    """Return ``assets`` for machines of the hypervisor ``name``."""
    return replace(assets, hypervisor=choose(name, ImageStore().root))
