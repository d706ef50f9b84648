"""Root of an L1 that cannot run the host's programs: Debian's packages of its architecture.

Nothing of that architecture is executed on the host. Pure Python comes from the host by 9p, as do
this project and the virtual environment. Packages with compiled modules are wheels of the same
versions, which stand before the environment in PYTHONPATH.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import version
from typing import TYPE_CHECKING

from slipway_initramfs.debian.packages import PackageChoice, PackageSelection
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.rootfs import bytecode, defaults, loader_cache
from slipway_initramfs.rootfs.layers import apply_layer
from slipway_initramfs.rootfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore

# Python of Debian's release, which the environment of the host must have as well.
PYTHON = "3.11"
PACKAGES = (*defaults.TOOLS, "busybox-static", f"python{PYTHON}", "iproute2", "mount")
# Distributions with compiled modules that the tests of KVM import.
WHEELS = ("lz4", "msgpack", "psutil")
WHEELS_DIRECTORY = "wheels"
SITE = f"usr/local/lib/python{PYTHON}/lab"
"""Directory of the wheels' modules."""
# Tags of the wheels that Debian's C library can load.
_PLATFORMS = tuple(f"manylinux{tag}_aarch64" for tag in ("2014", "_2_17", "_2_28"))
_LEFT_OUT = (
    f"usr/lib/python{PYTHON}/{{test,idlelib,tkinter,turtledemo,ensurepip,lib2to3,pydoc_data}}",
    f"usr/lib/python{PYTHON}/config-*",
    "usr/share/{perl*,zoneinfo}",
    "usr/lib/*/{perl*,gconv}",
    "usr/bin/perl*",
)


def check_python() -> None:
    """Check that modules of this Python's environment fit the Python of L1.

    Raises:
        BuildFailed: this Python has another version.
    """
    if sys.version.startswith(f"{PYTHON}."):
        return
    raise BuildFailed(
        f"the lab of another architecture needs Python {PYTHON} on the host, not"
        f" {sys.version.split()[0]}",
        f"Make the environment anew: rm -r .venv && PYTHON=python{PYTHON} .ci/setup test",
    )


def list_inputs(packages: Sequence[str]) -> list[str]:
    """Return names of all that the root is made of, but for Debian's versions."""
    return [*PACKAGES, *packages, *_list_requirements()]


def build_root(
    store: ImageStore,
    architecture: str,
    packages: Sequence[str],
    progress: Callable[[str], None],
    *,
    refresh: bool,
) -> Tree:
    """Return the root, with the mount points that every guest has; ``packages`` are further ones.

    Raises:
        BuildFailed: a package or wheel cannot be fetched.
    """
    check_python()
    choice = PackageChoice((*PACKAGES, *packages), defaults.EXCLUDE)
    listener = BuildProgress(notice=progress)
    selection = PackageSelection.resolve(choice, store, architecture, refresh, listener)
    progress(f"making a root of {len(selection.packages)} packages for {architecture}")
    selection = selection.fetch("the lab's root")
    tree = Tree()
    defaults.merge_usr(tree, architecture)
    for _, layer in selection.layers():
        apply_layer(tree, layer, "deb")
    tree.remove((*defaults.TRIM, *_LEFT_OUT))
    defaults.complete_packages(tree, selection.scripts())
    tree.add_symlink("usr/bin/python3", f"python{PYTHON}")
    for path, data in _read_wheels(store.root / "lab" / WHEELS_DIRECTORY):
        tree.add_file(f"{SITE}/{path}", data, 0o755)
    # Python's own modules would be compiled by each start in L1.
    bytecode.compile_all(tree, sys.executable, PYTHON)
    loader_cache.add_loader_cache(tree, architecture)
    return tree


def _read_wheels(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each file of the wheels, downloaded if missing."""
    command = ["pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--python-version", PYTHON, "--dest", str(directory)]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    ended = subprocess.run(
        [sys.executable, "-m", *command, *_list_requirements()],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines() or ["no message"]
        raise BuildFailed(f"pip cannot download the wheels of the lab: {lines[-1]}")
    for name in WHEELS:
        (path,) = directory.glob(f"{name}-{version(name)}-*aarch64*.whl")
        with zipfile.ZipFile(path) as wheel:
            for member in wheel.infolist():
                if not member.is_dir():
                    yield member.filename, wheel.read(member)


def _list_requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in WHEELS]
