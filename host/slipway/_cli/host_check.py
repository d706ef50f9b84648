"""Check of the host before a server starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._run.image_errors import translated_image_errors

if TYPE_CHECKING:
    from pathlib import Path


def check_host(store: Path | None, machine: str, arch: str, kernel: str | None = None) -> None:
    """Check that the image store can be read, and that the host can run such machines.

    The small ``kernel``, which no run compiles, must be there.

    Raises:
        HostError: the store cannot be read, or the hypervisor is not available.
        ImageError: the store has no small kernel.
        InputError: the hypervisor has no machines of this architecture.
    """
    from slipway.machine.hypervisors import choose
    from slipway_initramfs.kernel_build import build_kernel
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import SMALL_KERNEL

    images = ImageStore(store)
    with translated_image_errors():
        images.images()
    hypervisor = choose(machine, images.root, arch)
    if kernel == SMALL_KERNEL:
        with translated_image_errors():
            build_kernel(images, architecture=hypervisor.architecture, name=kernel)
    hypervisor.check()
