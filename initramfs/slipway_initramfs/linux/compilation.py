"""Compilation of a kernel in an unpacked source tree, the same bytes each time.

Sources: Documentation/kbuild/reproducible-builds.rst and kbuild.rst of Linux.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway_initramfs.child_process import Hung, ProgramRights, Supervision, run_program
from slipway_initramfs.debian.kernel import MAX_KERNEL, check_arm64
from slipway_initramfs.disk import space
from slipway_initramfs.errors import BuildFailed, DiskFull
from slipway_initramfs.linux.build_tools import build_environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway_initramfs.disk.build_directories import BuildDirectory
    from slipway_initramfs.linux.build_tools import BuildTools
    from slipway_initramfs.linux.configuration import KernelConfiguration

# Bytes that the objects take on the disk, measured; and the longest file that a build may write.
OBJECT_BYTES = 400 << 20
MAX_FILE = 1 << 30

# Names of architectures in Linux, and the files of a kernel in the form that a VMM loads.
_LINUX_NAMES = {"amd64": "x86_64", "arm64": "arm64"}
_TARGETS = {"amd64": "vmlinux", "arm64": "Image"}
_IMAGES = {"amd64": "vmlinux.stripped", "arm64": "arch/arm64/boot/Image"}
# Seconds that a compilation may take: 100 times those of a quiet machine with two processors. A
# link prints nothing for long on a loaded one.
_SECONDS = 8 * 3600.0
_QUIET = 1800.0
_NICENESS = 10
_CONFIG_SECONDS = 900.0
_MAX_CONFIG = 4 << 20
_ELF_MAGIC = b"\x7fELF"
_RELEASE = re.compile(r"[0-9]+\.[0-9A-Za-z.+~_-]{1,60}")
# All that a kernel would note of its build besides compiler and configuration.
_SAME_EACH_TIME = (
    "KBUILD_BUILD_USER=slipway",
    "KBUILD_BUILD_HOST=slipway",
    "KBUILD_BUILD_VERSION=1",
    "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
)
_STEP = re.compile(r"  (?:CC|AS|LD) +(?:\[M\] +)?(\S+)")
_ERROR = re.compile(r"\b(?:error|Error|fatal)\b")


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A kernel in the form that a VMM loads, and its release as in ``uname -r``."""

    image: bytes
    release: str


@dataclass(frozen=True, slots=True)
class Compilation:
    """Compilation in ``place``, which has the source."""

    place: BuildDirectory
    tools: BuildTools

    def compile(
        self, configuration: KernelConfiguration, report: Callable[[str], None]
    ) -> CompiledKernel:
        """Configure and compile the kernel.

        Raises:
            BuildFailed: Kconfig refuses the configuration, or a program fails or takes too long.
            DiskFull: the disk is nearly full.
        """
        tree = self.place.path
        self._configure(configuration)
        count = 0

        def listen(line: str) -> None:
            nonlocal count
            if match := _STEP.match(line):
                count += 1
                report(f"compiling {count}: {match[1][:60]}")

        arch = configuration.architecture
        jobs = len(os.sched_getaffinity(0))
        self._make(Supervision(_SECONDS, _QUIET, self._check_disk, listen), f"-j{jobs}", arch)
        release = _read_file(tree / "include/config/kernel.release", 200).decode("ascii", "replace")
        if not _RELEASE.fullmatch(release.strip()):
            raise BuildFailed(f"the kernel has an unusual release: {release[:80]!r}")
        if arch == "amd64":
            self._strip()
        image = _read_file(tree / _IMAGES[arch], MAX_KERNEL)
        if arch == "arm64":
            check_arm64(image)
        elif not image.startswith(_ELF_MAGIC):
            raise BuildFailed("the compiled kernel is not an ELF file")
        return CompiledKernel(image, release.strip())

    def _configure(self, configuration: KernelConfiguration) -> None:
        tree = self.place.path
        # Outside of what the build's user can write to: a plain file by this process.
        wanted = tree / "slipway.config"
        wanted.write_text(configuration.text, encoding="utf-8")
        wanted.chmod(0o644)
        supervision = Supervision(_CONFIG_SECONDS, _CONFIG_SECONDS, self._check_disk)
        self._run("configuring", supervision, "KCONFIG_ALLCONFIG=slipway.config", "allnoconfig")
        text = _read_file(tree / ".config", _MAX_CONFIG).decode("utf-8", "replace")
        configuration.check_result(text)

    def _make(self, supervision: Supervision, jobs: str, architecture: str) -> None:
        self._run("compiling", supervision, jobs, _TARGETS[architecture])

    def _strip(self) -> None:
        # Symbols and debug information are not loaded.
        command = [f"{self.tools.prefix}objcopy", "--strip-all", "vmlinux", "vmlinux.stripped"]
        self._run_command("stripping", command, Supervision(_CONFIG_SECONDS, _CONFIG_SECONDS))

    def _run(self, step: str, supervision: Supervision, *arguments: str) -> None:
        command = [
            *("nice", "-n", str(_NICENESS), "make"),
            f"ARCH={_LINUX_NAMES[self.tools.architecture]}",
            f"CROSS_COMPILE={self.tools.prefix}",
            *_SAME_EACH_TIME,
            *arguments,
        ]
        self._run_command(step, command, supervision)

    def _run_command(self, step: str, command: list[str], supervision: Supervision) -> None:
        rights = ProgramRights(self.place.path, self.place.user, MAX_FILE)
        try:
            done = run_program(command, build_environment(), supervision, rights)
        except Hung as error:
            raise BuildFailed(
                f"{step} the kernel {error}", "Try again when this host has less to do."
            ) from error
        except OSError as error:
            raise BuildFailed(f"{step} the kernel: {command[0]}: {error.strerror}") from error
        if done.code != 0:
            self._check_disk()
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reasons = [line for line in lines if _ERROR.search(line)] or lines
            reason = reasons[0].strip()[:300] if reasons else f"exit code {done.code}"
            raise BuildFailed(
                f"{step} the kernel failed: {reason}",
                "Use Debian's kernel: slipway kernel use debian",
            )

    def _check_disk(self) -> None:
        if space.is_low(self.place.path):
            raise DiskFull(
                f"the file system of {self.place.path.parent.parent} is nearly full",
                "Free some space there, or set TMPDIR or --store.",
            )


def _read_file(path: Path, limit: int) -> bytes:
    """Return a file that the build's user has made.

    Raises:
        BuildFailed: it is missing, no plain file, or longer than ``limit`` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BuildFailed(f"the kernel's build has made {path.name} no plain file")
            data = file.read(limit + 1)
    except OSError as error:
        raise BuildFailed(f"the kernel's build has no {path.name}: {error.strerror}") from error
    if len(data) > limit:
        raise BuildFailed(f"the kernel's build has made {path.name} longer than {limit} bytes")
    return data
