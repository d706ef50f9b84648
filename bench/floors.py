"""Floors of a start: a bare QEMU that boots the same kernel, and bubblewrap with the same image.

A floor lacks what a machine of ours has: the bare QEMU has no agent and runs no program; bubblewrap
has namespaces of the host's kernel instead of a machine, and executes on the host's processor. It
stands for sandboxes of that kind.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bare import write_initrd
from slipway._model.options import Options
from slipway._run.job_message import Surroundings, build_job_message
from slipway._run.job_request import JobRequest
from slipway._util.units import MIB
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway_initramfs.languages.language import Language

HERE = Path(__file__).parent
WORK = "/work"
# Node's command names the machine's memory.
MEMORY = 504 * MIB
PATH = "/usr/local/bin:/usr/bin:/bin"


def prepare_bare(directory: Path) -> list[str]:
    """Return the command that boots the store's kernel in a bare QEMU to a trivial /init."""
    kernel, initrd = ImageStore().kernel(), directory / "bare.cpio"
    if kernel is None:
        sys.exit("no kernel in the store: slipway image build python")
    write_initrd(initrd)
    return [sys.executable, str(HERE / "bare.py"), str(kernel.path), str(initrd)]


def find_bubblewrap() -> str | None:
    """Return the path of bubblewrap, if it is installed and may make namespaces here."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    trial = [program, "--unshare-all", "--ro-bind", "/", "/", "true"]
    return program if subprocess.run(trial, check=False).returncode == 0 else None


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """The root file system of a language's image in a directory, for bubblewrap."""

    program: str
    language: Language
    root: Path

    @classmethod
    def unpack(cls, program: str, language: Language, directory: Path) -> UnpackedImage:
        """Unpack the language's image, which the store has, below ``directory``."""
        image = ImageStore().image(language.image)
        assert image is not None
        root = directory / f"root-{language.name}"
        root.mkdir()
        # The archive's device nodes need root, and bubblewrap has its own.
        copy = ["cpio", "--extract", "--make-directories", "--quiet", "--nonmatching", "dev/*"]
        with subprocess.Popen(["lz4", "-dc", image.root_archive], stdout=subprocess.PIPE) as lz4:
            subprocess.run(copy, stdin=lz4.stdout, cwd=root, check=True)
        for place in ("dev", "proc", "tmp", WORK.lstrip("/")):
            (root / place).mkdir(exist_ok=True)
        return cls(program, language, root)

    def build_command(self, source: Path) -> list[str]:
        """Return the command that builds and runs ``source`` as the language's phases do."""
        request = JobRequest(self.language, source.read_bytes(), Options())
        job, files = build_job_message(request, Surroundings(memory=MEMORY))
        phases = [phase.argv for phase in (job.build, job.run) if phase is not None]
        variables = {"PATH": PATH, "HOME": WORK, **dict(job.run.environment)}
        return [
            *(self.program, "--unshare-all", "--die-with-parent", "--clearenv"),
            *(word for item in variables.items() for word in ("--setenv", *item)),
            *("--ro-bind", str(self.root), "/", "--dev", "/dev", "--proc", "/proc"),
            *("--tmpfs", "/tmp", "--tmpfs", WORK),
            *("--ro-bind", str(source), f"{WORK}/{files[0].path}", "--chdir", WORK),
            *join_phases(phases),
        ]


def join_phases(phases: Iterable[tuple[str, ...]]) -> list[str]:
    """Return one command for a build and a run; a single phase needs no shell."""
    first, *rest = phases
    if not rest:
        return list(first)
    (second,) = rest
    # The build's words are the shell's parameters, so that none needs quoting.
    return ["sh", "-c", f'"$@" && exec {" ".join(second)}', "sh", *first]
