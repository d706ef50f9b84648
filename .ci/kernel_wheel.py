"""Packs the small kernels of the user's store into a wheel of their own.

``python .ci/kernel_wheel.py DIRECTORY``. Linux is under the GNU General Public License, version 2
only: the wheel has its options, and names the exact source package and the program that compiled
it. The same kernels give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

from slipway_initramfs.kernel_package import PACKAGE, pack_kernel
from slipway_initramfs.linux.configuration import find_directory, read_configuration
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import SMALL_KERNEL, Kernel

ARCHITECTURES = ("amd64", "arm64")
# The first moment that a zip file can name.
EPOCH = (1980, 1, 1, 0, 0, 0)
NOTICE = """\
Small kernels for Slipway's machines: Linux, compiled from Debian's source package
{name} {version} (SHA-256 {sha256})
by {compiler}
with the options in {package}/*.config, by `slipway kernel build`.

Linux is under the GNU General Public License, version 2 only (the file COPYING of the source, with
the Linux syscall note). The source package is in Debian's archive, and in Debian's archive of all
former versions.
"""


def main() -> None:
    """Write the wheel and print its path."""
    kernels = [find_kernel(architecture) for architecture in ARCHITECTURES]
    sources = {str(kernel.manifest["package"]["version"]) for kernel in kernels}
    if len(sources) != 1:
        sys.exit(f"the kernels are of several versions: {', '.join(sorted(sources))}")
    (source,) = sources
    version = source.replace("-", ".").partition("+")[0].partition("~")[0]
    files: dict[str, bytes] = {f"{PACKAGE}/__init__.py": b'"""Small kernels for Slipway."""\n'}
    for kernel in kernels:
        for name, data in pack_kernel(kernel).items():
            files[f"{PACKAGE}/{kernel.architecture}/{name}"] = data
    for path in sorted(find_directory().glob("*.config")):
        files[f"{PACKAGE}/{path.name}"] = path.read_bytes()
    package = kernels[0].manifest["package"]
    notice = NOTICE.format(
        **package, compiler=" and ".join(describe_compilers(kernels)), package=PACKAGE
    )
    files |= describe_distribution(version, notice)
    record = f"{PACKAGE}-{version}.dist-info/RECORD"
    files[record] = build_record(files, record)
    target = Path(sys.argv[1]) / f"{PACKAGE}-{version}-py3-none-any.whl"
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    print(target)


def find_kernel(architecture: str) -> Kernel:
    """Return the small kernel of today's options."""
    kernel = ImageStore().find_kernel(architecture, SMALL_KERNEL)
    wanted = read_configuration(architecture).sha256
    if kernel is None or not kernel.is_current or kernel.manifest.get("configuration") != wanted:
        sys.exit(f"no kernel of today's options: slipway kernel build --arch {architecture}")
    return kernel


def describe_compilers(kernels: list[Kernel]) -> list[str]:
    """Return the compiler of each kernel, once."""
    return list(dict.fromkeys(str(kernel.manifest["compiler"]) for kernel in kernels))


def describe_distribution(version: str, notice: str) -> dict[str, bytes]:
    """Return the files of the wheel's dist-info (PyPA's "Binary distribution format")."""
    directory = f"{PACKAGE}-{version}.dist-info"
    metadata = (
        "Metadata-Version: 2.1\n"
        f"Name: {PACKAGE.replace('_', '-')}\n"
        f"Version: {version}\n"
        "Summary: Small Linux kernels for Slipway's machines\n"
        "License: GPL-2.0-only WITH Linux-syscall-note\n"
        f"\n{notice}"
    )
    wheel = "Wheel-Version: 1.0\nGenerator: slipway\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return {f"{directory}/METADATA": metadata.encode(), f"{directory}/WHEEL": wheel.encode()}


def build_record(files: dict[str, bytes], path: str) -> bytes:
    """Return the list of all files with their digests."""
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    return "".join([*lines, f"{path},,\n"]).encode()


if __name__ == "__main__":
    main()
