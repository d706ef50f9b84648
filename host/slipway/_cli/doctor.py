"""``slipway doctor``: check this host, and print a fix for each missing part."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from slipway._cli.finding import Finding
from slipway._cli.parser import Parser, add_store
from slipway._cli.screen import find_width, paint
from slipway._cli.terminal import print_text
from slipway._util.install_command import format_install_command
from slipway._util.units import MIB, format_mib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway.machine.qemu_targets import QemuTarget
    from slipway_initramfs.store.image_store import ImageStore

# The largest image with its downloads, unpacked and packed.
DISK_WANTED = 2 * 1024 * MIB
MEMORY_WANTED = 512 * MIB
_WITHOUT_APT = (
    "only needed to build images: build them on Debian or Ubuntu, and copy them from there"
    " (slipway image export and import)"
)
# Columns of the first word of a line, and of that and the part's name.
_MARK = 9
_INDENT = 22
_WIDEST = 10_000


def build_parser(prog: str) -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog=prog, description="Check this host, and print a fix for each missing part."
    )
    add_store(parser)
    parser.add_argument("--json", action="store_true", help="print records")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run_command(arguments: list[str], prog: str) -> int:
    """Print all findings; return 0 if every needed part is present, else 1."""
    parsed = build_parser(prog).parse_args(arguments)
    from slipway_initramfs.store.image_store import ImageStore

    findings = list(examine_host(ImageStore(parsed.store)))
    if parsed.json:
        import json
        from dataclasses import asdict

        print_text(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    else:
        for finding in findings:
            print_text(_format_finding(finding))
    return 0 if all(f.met for f in findings if f.needed) else 1


def _format_finding(finding: Finding) -> str:
    """Return the lines of a finding, within the width of the terminal."""
    import textwrap

    mark, colour = ("ok", "green") if finding.met else ("note", "yellow")
    if not finding.met and finding.needed:
        mark, colour = "MISSING", "red"
    paragraphs = [finding.found]
    if finding.fix and not finding.met:
        paragraphs.append(f"fix: {finding.fix}")
    width = min(find_width(sys.stdout), _WIDEST)
    indent = " " * (_INDENT if width > 2 * _INDENT else 2)
    wrapper = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [line for text in paragraphs for line in wrapper.wrap(text)]
    first = f"{'':{_MARK - len(mark)}}{finding.need}"
    if len(indent) == _INDENT:
        first = f"{first:<{_INDENT - len(mark)}}{lines.pop(0).strip()}"
    return "".join(f"{line}\n" for line in (paint(mark, colour, sys.stdout) + first, *lines))


def examine_host(store: ImageStore) -> Iterator[Finding]:
    """Yield a finding for each part of the host."""
    from slipway._cli.doctor_hardening import examine_hardening

    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    supported = platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64")
    yield Finding("system", supported, system, "use Linux on x86-64 or aarch64")
    yield Finding("python", sys.version_info >= (3, 11), platform.python_version())
    yield from _check_qemu()
    yield _check_program("setpriv", format_install_command("util-linux"))
    yield _check_program("apt-get", _WITHOUT_APT, needed=False)
    yield from _check_resources(store)
    kvm = _check_kvm()
    yield kvm
    yield from _check_architectures(is_kvm_usable=kvm.met)
    yield _check_fork()
    yield from _check_network()
    yield from examine_hardening()
    yield from _check_store(store)


def _check_qemu() -> Iterator[Finding]:
    """Yield a finding for each program of QEMU; that for this host's architecture is needed."""
    for target in _list_targets():
        need = "qemu" if target.is_native else f"qemu {target.architecture}"
        fix = format_install_command(target.package)
        if not target.is_native:
            fix = f"only needed for --arch {target.architecture}: {fix}"
        found, met = _read_version(target.program)
        yield Finding(need, met, found, fix, target.is_native)


def _check_architectures(*, is_kvm_usable: bool) -> Iterator[Finding]:
    """Yield a finding for each architecture of machines: the hypervisor that runs its guests."""
    for target in _list_targets():
        need = f"arch {target.architecture}"
        if target.is_native and is_kvm_usable:
            yield Finding(need, True, "native: kvm runs it on the processor", needed=False)
        elif shutil.which(target.program) is not None:
            found = "emulated: qemu translates each instruction, which is slow"
            yield Finding(need, True, found, needed=False)
        else:
            found = f"machine of this architecture cannot run: {target.program} is not installed"
            fix = format_install_command(target.package)
            yield Finding(need, False, found, fix, needed=False)


def _list_targets() -> list[QemuTarget]:
    """Return the targets of QEMU, that of this host's architecture first."""
    from slipway.machine.qemu_targets import TARGETS

    return sorted(TARGETS.values(), key=lambda target: not target.is_native)


def _read_version(program: str) -> tuple[str, bool]:
    """Return the first line that ``program --version`` prints, or the reason why it does not."""
    path = shutil.which(program)
    if path is None:
        return f"{program} is not installed", False
    try:
        finished = subprocess.run([path, "--version"], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} does not run: {error}", False
    return finished.stdout.decode("utf-8", "replace").splitlines()[0], True


def _check_program(name: str, fix: str, *, needed: bool = True) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, path or "not installed", fix, needed)


def _check_resources(store: ImageStore) -> Iterator[Finding]:
    import psutil

    available = psutil.virtual_memory().available
    yield Finding(
        "memory",
        available >= MEMORY_WANTED,
        f"{format_mib(available)} available",
        f"free some memory: a small machine needs {format_mib(MEMORY_WANTED)}",
    )
    place = store.root
    # For a directory that may not be searched, os.path returns False and Path raises.
    while not os.path.exists(place) and place.parent != place:  # noqa: PTH110
        place = place.parent
    free = shutil.disk_usage(place).free
    yield Finding(
        "disk",
        free >= DISK_WANTED,
        f"{format_mib(free)} free at {place}",
        f"free some space, or use another --store: images need up to {format_mib(DISK_WANTED)}",
    )
    writable = os.access(place, os.W_OK)
    yield Finding(
        "store",
        writable,
        f"{store.root}" + ("" if writable else " is not writable"),
        "use another directory: --store DIR, or XDG_CACHE_HOME",
    )


def _check_kvm() -> Finding:
    from slipway.vmm.kvm.usability import examine as examine_kvm

    usable, reason = examine_kvm()
    fix = "optional: programs run slower without KVM; use bare metal, or a host with nested VMs"
    return Finding("kvm", usable, reason, fix, needed=False)


def _check_fork() -> Finding:
    from slipway.machine.fork_trial import try_fork

    reason = try_fork()
    found = f"a process cannot be forked: {reason}" if reason else "a stopped process can be forked"
    fix = (
        "optional: without warm clones, programs on the qemu machine start slower; set"
        " kernel.yama.ptrace_scope to 0 or 1, and allow ptrace in this container"
    )
    return Finding("warm clones", not reason, found, fix, needed=False)


def _check_network() -> Iterator[Finding]:
    from slipway.machine.gateway_trial import ResolverAnswer, try_gateway

    trial = try_gateway()
    found, fix = "confined", "only needed for networks: a kernel with seccomp filters"
    if trial.failure:
        found = f"a gateway cannot be confined: {trial.failure}"
    elif not trial.has_landlock:
        found = "confined, but it can read files that this user can read: no Landlock"
        fix = "optional: Linux 5.13 or later, with landlock in the kernel's argument lsm="
    yield Finding("gateway", trial.has_landlock, found, fix, needed=False)
    found, fix = {
        ResolverAnswer.RESOLVED: ("example.com resolves", ""),
        ResolverAnswer.UNKNOWN: (
            "the host's resolver does not know example.com",
            "only needed for rules with public names: a resolver in /etc/resolv.conf that knows"
            " them; --network host:PORT and rules with addresses work",
        ),
        ResolverAnswer.SILENT: (
            "the host's resolver does not answer",
            "only needed for rules with names: a resolver in /etc/resolv.conf that answers",
        ),
        ResolverAnswer.UNTRIED: ("not tried, as a gateway cannot be confined", "see above"),
    }[trial.resolver]
    yield Finding("names", trial.resolver is ResolverAnswer.RESOLVED, found, fix, needed=False)


def _check_store(store: ImageStore) -> Iterator[Finding]:
    from slipway.machine.qemu_targets import TARGETS
    from slipway_initramfs.errors import ImageError
    from slipway_initramfs.store.records import SMALL_KERNEL

    try:
        kernels = store.kernels()
        used = {kernel.key for kernel in map(store.kernel, TARGETS) if kernel is not None}
        images = store.images()
    except ImageError as error:
        yield Finding("images", False, error.message, error.hint or "slipway image prune")
        return
    build = "slipway image build python (the first run does it as well)"
    if not kernels:
        yield Finding("kernel", False, "not built yet", build, needed=False)
    for kernel in kernels:
        found = f"Linux {kernel.version} ({kernel.name}, {kernel.architecture})"
        found += ", in use" if kernel.key in used else ""
        fix = f"slipway kernel build --arch {kernel.architecture}"
        yield _check_blob(
            "kernel", found, kernel.verify, fix if kernel.name == SMALL_KERNEL else ""
        )
    if not images:
        yield Finding("images", False, "no image built yet", build, needed=False)
    for image in images:
        yield _check_blob(
            "image",
            f"{image.name} ({image.architecture}) {image.digest[:12]}, "
            f"{format_mib(image.root.size, 0)}",
            image.verify,
        )


def _check_blob(need: str, found: str, verify: Callable[[], None], fix: str = "") -> Finding:
    from slipway_initramfs.errors import ImageCorrupted

    try:
        verify()
    except ImageCorrupted as error:
        fix = error.hint or fix or "slipway image build python"
        return Finding(need, False, error.message, fix)
    return Finding(need, True, found)
