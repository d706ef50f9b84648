"""Check of a caller's kernel before a machine starts, the same for each hypervisor.

QEMU loads any file and reports nothing: its guest would be silent until the start is given up.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway._util.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

# Forms of a kernel for each architecture, as bytes at offsets: an ELF file with its e_machine
# (elf(5)), the header of a bzImage, and that of arm64's Image.
_MARKS = {
    "amd64": (((0, b"\x7fELF"), (0x12, b"\x3e\0")), ((0x202, b"HdrS"),)),
    "arm64": (((0x38, b"ARM\x64"),),),
}
_WANTED = {"amd64": "a vmlinux or bzImage file", "arm64": "an Image file"}
_HEAD = 0x206


def check_kernel_file(kernel: Path, architecture: str) -> None:
    """Check that ``kernel`` is a whole kernel for ``architecture``, as far as its headers tell.

    Raises:
        InputError: the file is missing, cannot be read, is cut short, or is of another kind.
    """
    hint = f"Name {_WANTED[architecture]}."
    # Path.is_file raises for long names and for directories that may not be searched.
    if not os.path.isfile(kernel):  # noqa: PTH113
        raise InputError(f"kernel {kernel}: no such file", hint)
    try:
        with kernel.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputError(f"cannot read the kernel {kernel}: {error.strerror}", hint) from None
    found = _find_architecture(head)
    if found not in (None, architecture):
        raise InputError(
            f"kernel {kernel} is for {found}, and the machine has {architecture}",
            f"{hint} Or ask for a machine of {found}: arch={found}.",
        )
    if architecture == "arm64":
        from slipway.vmm.arch.aarch64.kernel import check_kernel
    else:
        from slipway.vmm.arch.x86_64.kernel import check_kernel
    check_kernel(kernel)


def _find_architecture(head: bytes) -> str | None:
    """Return the architecture of a kernel by its first bytes; None if they are not a kernel's."""
    for architecture, forms in _MARKS.items():
        if any(all(head.startswith(mark, at) for at, mark in form) for form in forms):
            return architecture
    return None
