"""Check of the host before a server starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._run.image_errors import translated_image_errors

if TYPE_CHECKING:
    from pathlib import Path


def check_host(store: Path | None, machine: str, arch: str) -> None:
    """Check that the image store can be read, and that the host can run such machines.

    Raises:
        HostError: the store cannot be read, or the hypervisor is not available.
        InputError: the hypervisor has no machines of this architecture.
    """
    from slipway.machine.hypervisors import choose
    from slipway_initramfs.store.image_store import ImageStore

    images = ImageStore(store)
    with translated_image_errors():
        images.images()
    choose(machine, images.root, arch).check()
