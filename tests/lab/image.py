"""Image of L1: Debian's generic kernel, and an initramfs with modules, busybox and init.

    <cache>/lab/<version of the package>-<digest>/{kernel,initramfs}

The digest covers all sources of the two files but Debian's packages: these modules and the builder,
the architecture, the init script and busybox. An L1 of another architecture than the host's has
its root in the initramfs. A directory is made under another name and renamed, so that each
directory with a name of this form is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import architecture, debian_root, modules
from lab.job import ROOT
from slipway_initramfs.debian import kernel
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.disk.spool import make_disk_error
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.rootfs import defaults
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree
from support.host_programs import describe_missing, find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lab.architecture import LabArchitecture
    from slipway_initramfs.debian.archive import Package
    from slipway_initramfs.store.image_store import ImageStore

APPLETS = (
    *("cat", "chmod", "chroot", "cp", "hostname", "ifconfig", "insmod", "ln", "mkdir", "mkfifo"),
    *("mount", "readlink", "reboot", "sh", "sleep"),
)
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "fd/0",
    "stdout": "fd/1",
    "stderr": "fd/2",
}
INIT = Path(__file__).with_name("init.sh")
_MAX_BUSYBOX = 16 << 20
UNUSED_AGE = 3600
"""Seconds since its last use after which the image of other sources or kernels is removed."""


@dataclass(frozen=True, slots=True)
class LabImage:
    """Both files, and the version of the kernel."""

    architecture: LabArchitecture
    kernel: Path
    initramfs: Path
    version: str


def find_lab_image(
    store: ImageStore,
    arch: LabArchitecture,
    progress: Callable[[str], None],
    *,
    packages: Sequence[str] = (),
    refresh: bool = False,
) -> LabImage:
    """Return the image of these sources, made if missing.

    ``packages`` are further ones of Debian for the root of an L1 that has its own. ``refresh``
    looks for a newer kernel of Debian.

    Raises:
        ImageError: the image cannot be made, or L1 has the host's root.
    """
    if packages and arch.is_native:
        raise BuildFailed(
            "--package is for a lab of another architecture: this one has the host's programs",
            "Install the package on the host.",
        )
    digest = _digest(arch, packages)
    cache = store.root / "lab"
    if not refresh and (found := _find(cache, arch, digest)) is not None:
        return found
    with _wait_for_turn(cache):
        if not refresh and (found := _find(cache, arch, digest)) is not None:
            return found
        source = DebianArchive(store.apt, arch.name, progress)
        package = _fetch(source, arch.kernel_package, progress, refresh=refresh)
        directory = cache / f"{package.version}-{digest}"
        if not directory.exists():
            progress(f"unpacking the kernel {package.version}")
            unpacked = kernel.KernelPackage(source.open(package, cache), arch.name)
            tree = _build_tree(modules.prepare(unpacked, arch.modules, progress))
            _add_root(tree, store, arch, packages, progress, refresh=refresh)
            made = Path(tempfile.mkdtemp(prefix="new-", dir=cache))
            (made / "kernel").write_bytes(unpacked.image())
            with (made / "initramfs").open("wb") as file:
                write_tree(tree, file)
            made.chmod(0o755)
            made.rename(directory)
        directory.touch()
        _remove_unused(cache, directory)
    found = _find(cache, arch, digest)
    if found is None:
        raise BuildFailed("the lab's image was removed while it was being made")
    return found


def _fetch(
    source: DebianArchive, name: str, progress: Callable[[str], None], *, refresh: bool
) -> Package:
    """Download the package with the kernel that ``name`` depends on."""
    package = kernel.find_kernel_package(source.resolve([name], refresh=refresh))
    try:
        source.fetch([package])
    except BuildFailed as error:
        # An index of yesterday may name a version that an update has replaced since.
        progress(f"{error.message}; trying again with new package lists")
        package = kernel.find_kernel_package(source.resolve([name], refresh=True))
        source.fetch([package])
    return package


def _build_tree(loaded: dict[str, bytes]) -> Tree:
    """Return the root of L1's init, without busybox."""
    tree = Tree()
    tree.add_device("dev/console", "c", (5, 1))
    tree.add_device("dev/null", "c", (1, 3), 0o666)
    # What programs expect in /dev besides the devices that the kernel puts there.
    for name in ("pts", "shm"):
        tree.add_directory(f"devices/{name}")
    for name, target in _DEVICE_LINKS.items():
        tree.add_symlink(f"devices/{name}", target)
    tree.add_directory("host")
    for name in APPLETS:
        tree.add_symlink(f"bin/{name}", "busybox")
    for number, (name, data) in enumerate(loaded.items()):
        tree.add_file(f"modules/{number:02}-{name}.ko", data)
    tree.add_file("init", INIT.read_bytes(), 0o755)
    return tree


def _add_root(
    tree: Tree,
    store: ImageStore,
    arch: LabArchitecture,
    packages: Sequence[str],
    progress: Callable[[str], None],
    *,
    refresh: bool,
) -> None:
    """Add the command's root: mount points for the host's, or one of Debian's packages."""
    if arch.is_native:
        busybox = _find_busybox().read_bytes()
    else:
        root = debian_root.build_root(store, arch.name, packages, progress, refresh=refresh)
        tree.put(ROOT, root.root)
        program = root.find("usr/bin/busybox")
        if program is None:
            raise BuildFailed("Debian's package busybox-static has no /usr/bin/busybox")
        busybox = program.read(_MAX_BUSYBOX)
    for name in ("dev", "proc", "sys", "run/lock"):
        tree.add_directory(f"{ROOT}/{name}")
    tree.add_directory(f"{ROOT}/tmp", 0o1777)
    tree.add_file("bin/busybox", busybox, 0o755)
    tree.add_hardlink(f"{ROOT}/run/lab/busybox", "bin/busybox")


def _find_busybox() -> Path:
    found = find_program("busybox")
    if found is None:
        raise BuildFailed(describe_missing("busybox"))
    # Only a program that asks for an interpreter has such a string near its beginning.
    if b"/ld-linux" in Path(found).read_bytes()[:8192]:
        raise BuildFailed(
            "the lab needs a static busybox", "Install it: apt-get install busybox-static"
        )
    return Path(found).resolve()


def _digest(arch: LabArchitecture, packages: Sequence[str]) -> str:
    sources = [Path(file) for file in (__file__, modules.__file__, kernel.__file__)]
    sources += [Path(architecture.__file__), INIT]
    inputs = [arch.name]
    if arch.is_native:
        sources.append(_find_busybox())
    else:
        sources += [Path(file) for file in (debian_root.__file__, defaults.__file__)]
        inputs += debian_root.list_inputs(packages)
    whole = hashlib.sha256("\n".join(inputs).encode())
    for path in sources:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def _find(cache: Path, arch: LabArchitecture, digest: str) -> LabImage | None:
    """Return the newest image of these sources, marked as used now."""
    found = sorted(cache.glob(f"[0-9]*-{digest}"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    directory = found[-1]
    directory.touch()
    version = directory.name.removesuffix(f"-{digest}")
    return LabImage(arch, directory / "kernel", directory / "initramfs", version)


def _remove_unused(cache: Path, used: Path) -> None:
    """Remove remains of killed builders, and images without use for long."""
    oldest = time.time() - UNUSED_AGE
    for path in cache.iterdir():
        if path.name == debian_root.WHEELS_DIRECTORY:
            continue
        abandoned = path.name.startswith("new-") or path.stat().st_mtime < oldest
        if abandoned and path.is_dir() and path != used:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _wait_for_turn(cache: Path) -> Iterator[None]:
    """Wait for other builders of the image; a killed one holds no lock."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise make_disk_error(error, cache) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
