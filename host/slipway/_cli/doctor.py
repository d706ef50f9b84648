"""``slipway doctor``: what this host has, what it lacks, and the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._cli.parsers import Parser, add_store
from slipway._cli.quantities import mebibytes
from slipway._cli.screen import paint, width_of
from slipway._cli.terminal import emit
from slipway._model.options import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway_initramfs.store.image_store import ImageStore

# The largest image with its downloads, unpacked and concatenated.
DISK_WANTED = 2 * 1024 * MIB
MEMORY_WANTED = 512 * MIB
_INDENT = 19
_WIDEST = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One need: whether it is met, what was found, and how to mend it.

    ``needed`` is False for what only makes things better.
    """

    need: str
    met: bool
    found: str
    mend: str = ""
    needed: bool = True


def parser(prog: str) -> Parser:
    """Return the parser of the options."""
    parser = Parser(prog=prog, description="Check what this host has and lacks.")
    add_store(parser)
    parser.add_argument("--json", action="store_true", help="print records")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def command(arguments: list[str], prog: str) -> int:
    """Print all findings; 0 where every need is met, else 1."""
    parsed = parser(prog).parse_args(arguments)
    from slipway_initramfs.store.image_store import ImageStore

    findings = list(examine(ImageStore(parsed.store)))
    if parsed.json:
        import json
        from dataclasses import asdict

        emit(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    else:
        for finding in findings:
            emit(_lines(finding))
    return 0 if all(f.met for f in findings if f.needed) else 1


def _lines(finding: Finding) -> str:
    """Return what is told of ``finding``, within the terminal's width."""
    import textwrap

    mark, colour = ("ok", "green") if finding.met else ("note", "yellow")
    if not finding.met and finding.needed:
        mark, colour = "LACK", "red"
    told = [finding.found]
    if finding.mend and not finding.met:
        told.append(f"mend: {finding.mend}")
    width = min(width_of(sys.stdout), _WIDEST)
    indent = " " * (_INDENT if width > 2 * _INDENT else 2)
    wrapper = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [line for text in told for line in wrapper.wrap(text)]
    first = f"{'':{6 - len(mark)}}{finding.need}"
    if len(indent) == _INDENT:
        first = f"{first:<{_INDENT - len(mark)}}{lines.pop(0).strip()}"
    return "".join(f"{line}\n" for line in (paint(mark, colour, sys.stdout) + first, *lines))


def examine(store: ImageStore) -> Iterator[Finding]:
    """Look at each need in turn."""
    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    supported = platform.system() == "Linux" and platform.machine() == "x86_64"
    yield Finding("system", supported, system, "use Linux on x86-64")
    yield Finding("python", sys.version_info >= (3, 11), platform.python_version())
    yield _qemu()
    yield _program("setpriv", "util-linux")
    yield _program("apt-get", "apt", "only needed to make images; elsewhere, copy a store here")
    yield from _host_resources(store)
    yield _kvm()
    yield from _store(store)


def _qemu() -> Finding:
    from slipway.machine.qemu import INSTALL_HINT, PROGRAM

    path = shutil.which(PROGRAM)
    if path is None:
        return Finding("qemu", False, f"{PROGRAM} is not installed", INSTALL_HINT)
    try:
        told = subprocess.run([path, "--version"], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("qemu", False, f"{path} does not run: {error}", INSTALL_HINT)
    return Finding("qemu", True, told.stdout.decode("utf-8", "replace").splitlines()[0])


def _program(name: str, package: str, otherwise: str = "") -> Finding:
    path = shutil.which(name)
    mend = f"apt-get install {package}" + (f" ({otherwise})" if otherwise else "")
    return Finding(name, path is not None, path or "not installed", mend, needed=not otherwise)


def _host_resources(store: ImageStore) -> Iterator[Finding]:
    import psutil

    available = psutil.virtual_memory().available
    yield Finding(
        "memory",
        available >= MEMORY_WANTED,
        f"{available // MIB} MiB available",
        f"free some: a small machine takes {MEMORY_WANTED // MIB} MiB",
    )
    place = store.root
    # os.path says no where a directory may not be searched; Path raises.
    while not os.path.exists(place) and place.parent != place:  # noqa: PTH110
        place = place.parent
    free = shutil.disk_usage(place).free
    yield Finding(
        "disk",
        free >= DISK_WANTED,
        f"{free // MIB} MiB free at {place}",
        f"free some, or choose another --store: images take up to {DISK_WANTED // MIB} MiB",
    )
    writable = os.access(place, os.W_OK)
    yield Finding(
        "store",
        writable,
        f"{store.root}" + ("" if writable else " cannot be written"),
        "choose another place: --store DIR, or XDG_CACHE_HOME",
    )


def _kvm() -> Finding:
    from slipway.vmm.kvm.usability import examine as examine_kvm

    usable, reason = examine_kvm()
    mend = "optional: without it programs run on QEMU, slower; bare metal and nested VMs have KVM"
    return Finding("kvm", usable, reason, mend, needed=False)


def _store(store: ImageStore) -> Iterator[Finding]:
    from slipway_initramfs.errors import ImageError

    try:
        kernel = store.kernel()
        images = store.images()
    except ImageError as error:
        yield Finding("images", False, error.message, error.hint or "slipway image prune")
        return
    build = "slipway image build python (or simply: slipway run FILE)"
    if kernel is None:
        yield Finding("kernel", False, "not made yet", build, needed=False)
    else:
        yield _sound("kernel", f"Linux {kernel.version}", kernel.verify)
    if not images:
        yield Finding("images", False, "none made yet", build, needed=False)
    for image in images:
        yield _sound(
            "image",
            f"{image.name} {image.digest[:12]}, {mebibytes(image.root.size)} MiB",
            image.verify,
        )


def _sound(need: str, found: str, verify: Callable[[], None]) -> Finding:
    from slipway_initramfs.errors import ImageCorrupted

    try:
        verify()
    except ImageCorrupted as error:
        return Finding(need, False, error.message, error.hint or "slipway image build python")
    return Finding(need, True, found)
