"""Command line of the lab.

Exits with the command's status; 124 after a time-out, 125 when the lab itself failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lab.architecture import ARCHITECTURES
from lab.bytecode import compile_modules
from lab.debian_root import SITE, check_python
from lab.files import UNNEEDED, build_host_files, list_python_paths
from lab.image import LabImage, find_lab_image
from lab.job import Job
from lab.machine import LabSpec, run
from slipway._util.errors import HostError, SlipwayError
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.errors import ImageError
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from lab.architecture import LabArchitecture

ROOT = Path(__file__).resolve().parents[2]
TIME_OVER = 124
LAB_FAILED = 125
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What of our environment the command has as well.
INHERITED = ("HOME", "LANG", "LC_ALL", "TERM", "XDG_CACHE_HOME")


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        store = ImageStore()
        arch = ARCHITECTURES[options.arch]
        if not arch.is_native:
            check_python()
        image = find_lab_image(
            store,
            arch,
            _say,
            packages=options.package,
            refresh=getattr(options, "refresh", False),
        )
        if options.action == "build":
            _say(f"the lab has the kernel {image.version}")
            return 0
        compile_modules(ROOT)
        if options.board:
            image = replace(image, architecture=replace(arch, board=options.board))
        spec = _build_spec(options, image, store.root)
        return asyncio.run(run(spec, _build_job(options, arch, store.root), options.timeout))
    except BrokenPipeError:  # nobody wants to know how it goes on
        return LAB_FAILED
    except TimeoutError:
        _say(f"the command did not end within {options.timeout:g} seconds and was killed")
        return TIME_OVER
    except (SlipwayError, ImageError) as error:
        _say(error.message)
        if error.hint:
            _say(error.hint)
        return LAB_FAILED
    except KeyboardInterrupt:
        return 130


def _build_spec(options: argparse.Namespace, image: LabImage, state: Path) -> LabSpec:
    """Return the parameters of L1.

    Raises:
        HostError: a file or directory is missing.
    """
    if options.out is not None and options.icount:
        raise HostError("--out needs the host's files, which --icount does without")
    if options.out is not None and not options.out.is_dir():
        raise HostError(f"{options.out} is not a directory", "--out takes one that exists.")
    files = None
    if options.icount:
        native = image.architecture.is_native
        python = list_python_paths(ROOT, native=native) if options.python else []
        exclude = [*options.exclude, *(UNNEEDED if options.python else [])]
        try:
            files = build_host_files([*options.include, *python], exclude, native=native)
        except OSError as error:
            raise HostError(f"cannot read {error.filename}: {error.strerror}") from None
    return LabSpec(
        image, options.memory, options.cpus, state, files, options.icount, options.boot_log
    )


def _build_job(options: argparse.Namespace, arch: LabArchitecture, store: Path) -> Job:
    directory = Path.cwd()
    visible = [directory, ROOT, Path(sys.prefix).resolve()]
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment |= {"PATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"}
    if not arch.is_native:
        environment["PYTHONPATH"] = f"/{SITE}"
        visible.append(store.resolve())
    for pair in options.env:
        name, equals, value = pair.partition("=")
        if equals:
            environment[name] = value
        elif name in os.environ:
            environment[name] = os.environ[name]
    return Job(
        options.command,
        directory,
        environment,
        visible=visible,
        out=options.out and options.out.resolve(),
        shared=not options.icount,
        native=arch.is_native,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="real KVM, inside emulation")
    parser.add_argument(
        "--arch",
        choices=ARCHITECTURES,
        default=machine_architecture(),
        help="of the machine in the lab, by Debian's name (default: this host's)",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="make the lab's image if it is missing")
    build.add_argument("--refresh", action="store_true", help="ask Debian for a newer kernel")
    start = actions.add_parser("run", help="run a command in the lab")
    for action in (build, start):
        action.add_argument(
            "--package",
            action="append",
            default=[],
            metavar="NAME",
            help="of Debian, for an L1 of another architecture; may be given again",
        )
    start.add_argument("--board", help="another board of QEMU's, with its properties (-M)")
    start.add_argument("--timeout", type=float, metavar="SECONDS", help="kill all after this time")
    start.add_argument("--memory", type=int, default=4096, metavar="MIB", help="default: 4096")
    start.add_argument(
        "--cpus", type=int, default=1, help="default: 1; QEMU's emulation of more is not sound"
    )
    start.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set, or pass on"
    )
    start.add_argument(
        "--out", type=Path, metavar="DIR", help="an existing directory, writable as /lab-out"
    )
    start.add_argument("--boot-log", action="store_true", help="show the kernel's messages")
    alone = start.add_argument_group(
        "without the host's files", "all that the command needs is put into the initramfs"
    )
    alone.add_argument(
        "--icount", action="store_true", help="let time follow the count of instructions"
    )
    alone.add_argument(
        "--include",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="a file or directory of the host, with the libraries that it needs",
    )
    alone.add_argument("--python", action="store_true", help="include Python and this project")
    alone.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="of what is included"
    )
    start.add_argument("command", nargs="+", metavar="COMMAND", help="after --, with arguments")
    return parser


def _say(line: str) -> None:
    print(f"lab: {line}", file=sys.stderr, flush=True)
