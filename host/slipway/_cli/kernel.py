"""``slipway kernel``: kernels that machines boot."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from slipway._cli.command_group import CommandGroup
from slipway._cli.tables import Column, format_table
from slipway._cli.terminal import print_text, write_line
from slipway._model.options import OPTIONS
from slipway._util.units import format_mib, to_mebibytes
from slipway_initramfs.store.records import DEBIAN_KERNEL, KERNELS, SMALL_KERNEL

if TYPE_CHECKING:
    import argparse

    from slipway._cli.parser import Parser
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Kernel


def run_command(arguments: list[str], prog: str) -> int:
    """Run one command of ``slipway kernel``.

    Raises:
        SlipwayError: the command failed.
    """
    return _build_group(prog).run(arguments)


def build_parser(prog: str) -> Parser:
    """Return the parser of all commands."""
    return _build_group(prog).parser


def _build_group(prog: str) -> CommandGroup:
    group = CommandGroup(
        prog,
        "Kernels that machines boot: Debian's cloud kernel, and the small kernel, which is compiled"
        " from Debian's source and starts sooner.",
    )
    build = group.add(
        "build",
        _build_kernel,
        "compile the small kernel; machines boot it, unless Debian's was chosen",
    )
    _add_arch(build)
    build.add_argument(
        "--refresh", action="store_true", help="look for a newer source in Debian's archive"
    )
    listing = group.add(
        "list", _list_kernels, "list the kernels of the store; * marks those in use"
    )
    listing.add_argument("--json", action="store_true", help="print JSON records")
    use = group.add("use", _use_kernel, "choose the kernel that machines boot")
    use.add_argument("name", choices=KERNELS, help="kernel to boot")
    _add_arch(use)
    remove = group.add("remove", _remove_kernel, "remove a kernel; running machines continue")
    remove.add_argument("name", choices=KERNELS, help="kernel to remove")
    _add_arch(remove)
    return group


def _add_arch(parser: Parser) -> None:
    parser.add_argument(
        "--arch",
        choices=OPTIONS["arch"].choices,
        default="auto",
        help="architecture (default: that of this host)",
    )


def _find_architecture(parsed: argparse.Namespace) -> str:
    from slipway_initramfs.architectures import machine_architecture

    return machine_architecture() if parsed.arch == "auto" else str(parsed.arch)


def _build_kernel(parsed: argparse.Namespace, store: ImageStore) -> int:
    from slipway._cli.interruption import report_interruption
    from slipway._cli.progress import Progress
    from slipway_initramfs.small_kernel_build import build_small_kernel

    architecture, progress, began = _find_architecture(parsed), Progress(), time.monotonic()
    with report_interruption(store, progress):
        kernel = build_small_kernel(
            store, architecture=architecture, progress=progress, refresh=parsed.refresh
        )
    progress.clear()
    size, seconds = format_mib(kernel.image.size, 0), time.monotonic() - began
    write_line(f"small: Linux {kernel.version}, {size}, {seconds:.1f} s")
    used = store.kernel(architecture)
    boots = used is not None and used.name == SMALL_KERNEL
    other = DEBIAN_KERNEL if boots else SMALL_KERNEL
    write_line(
        f"{architecture} machines boot {SMALL_KERNEL if boots else DEBIAN_KERNEL};"
        f" to change that: slipway kernel use {other} --arch {architecture}"
    )
    return 0


def _list_kernels(parsed: argparse.Namespace, store: ImageStore) -> int:
    records = [_describe_kernel(kernel, store) for kernel in store.kernels()]
    if parsed.json:
        print_text(json.dumps(records, indent=1) + "\n")
        return 0
    if not records:
        write_line(
            "no kernels yet; the first run fetches Debian's; to compile: slipway kernel build"
        )
        return 0
    columns = (
        *(Column(name) for name in ("NAME", "ARCH", "VERSION", "PACKAGE")),
        *(Column("MIB", right=True), Column("STATE", cut=True)),
    )
    rows = [
        (
            record["name"] + ("*" if record["in_use"] else ""),
            record["architecture"],
            record["version"],
            f"{record['package']} {record['package_version']}",
            to_mebibytes(record["disk_bytes"]),
            f"stale: {record['stale']}" if record["stale"] else "current",
        )
        for record in records
    ]
    print_text(format_table(columns, rows, sys.stdout))
    return 0


def _use_kernel(parsed: argparse.Namespace, store: ImageStore) -> int:
    from slipway_initramfs.kernel_package import adopt_installed_kernel

    architecture = _find_architecture(parsed)
    if parsed.name == SMALL_KERNEL and store.find_kernel(architecture, SMALL_KERNEL) is None:
        adopt_installed_kernel(store, architecture)
    store.choose_kernel(parsed.name, architecture)
    kernel = store.kernel(architecture)
    if kernel is not None and kernel.name == parsed.name:
        write_line(f"{architecture} machines boot Linux {kernel.version} ({kernel.name})")
    elif parsed.name == DEBIAN_KERNEL:
        write_line(f"{architecture} machines boot Debian's kernel, which the next run fetches")
    else:
        write_line(
            f"the small kernel is from another version of Slipway; to make it again: slipway kernel"
            f" build --arch {architecture}"
        )
    return 0


def _remove_kernel(parsed: argparse.Namespace, store: ImageStore) -> int:
    from slipway_initramfs.store.garbage_collection import remove_kernel

    architecture = _find_architecture(parsed)
    freed = remove_kernel(store, architecture, parsed.name)
    write_line(f"removed {parsed.name} for {architecture}: {format_mib(freed, 0)}")
    return 0


def _describe_kernel(kernel: Kernel, store: ImageStore) -> dict[str, Any]:
    from slipway_initramfs.errors import ImageError

    used = None
    stale = "" if kernel.is_current else "from another version of Slipway"
    try:
        used = store.kernel(kernel.architecture)
        kernel.quick_check()
        if not stale and kernel.name == SMALL_KERNEL and _is_of_older_configuration(kernel):
            stale = "its configuration has changed; it still boots"
    except ImageError as error:
        stale = stale or error.message
    package = kernel.manifest.get("package")
    package = package if isinstance(package, dict) else {}
    return {
        "name": kernel.name,
        "architecture": kernel.architecture,
        "version": kernel.version,
        "digest": kernel.digest,
        "package": str(package.get("name", "")),
        "package_version": str(package.get("version", "")),
        "disk_bytes": kernel.image.size + kernel.modules.size,
        "in_use": used is not None and used.digest == kernel.digest,
        "current": not stale,
        "stale": stale,
    }


def _is_of_older_configuration(kernel: Kernel) -> bool:
    from slipway_initramfs.linux.configuration import read_configuration

    return kernel.manifest.get("configuration") != read_configuration(kernel.architecture).sha256
