"""Loader of the files that a guest boots from."""

from __future__ import annotations

from slipway.vmm.files import place_initramfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.arch.model import Architecture
    from slipway.vmm.memory import GuestMemory
    from slipway.vmm.pages import Range
    from slipway.vmm.spec import BootSpec


def load_files(
    architecture: Architecture, memory: GuestMemory, spec: BootSpec
) -> tuple[int, Range]:
    """Load kernel and initramfs; return the kernel's entry, and the initramfs's address and size.

    Raises:
        InputError: the kernel is invalid, or the files do not fit.
        HostError: an archive cannot be read.
    """
    end = architecture.find_initramfs_end(memory)
    with architecture.open_kernel(spec.kernel) as kernel:
        kernel.check_fits(end)
        kernel.load_into(memory)
        return kernel.entry, place_initramfs(memory, spec.initramfs, kernel.end, end)
