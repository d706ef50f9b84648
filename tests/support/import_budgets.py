"""Modules that commands import, and how many of them they may.

The table is import_budgets.json beside this module. Write it anew, where an image of Bash is built,
with: .venv/bin/python tests/support/import_budgets.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TABLE = Path(__file__).with_name("import_budgets.json")
# Modules beyond those of the Python that the table was written with: others split theirs otherwise.
SLACK = 8
OURS = ("slipway", "slipway_initramfs", "slipway_protocol")
# Placeholders of the paths of a server's socket and of a program.
SOCKET, PROGRAM = "SOCKET", "hello.sh"
COMMANDS: dict[str, tuple[str, ...]] = {
    "slipway --version": ("slipway", "--version"),
    "vmm-run --version": ("vmm-run", "--version"),
    "vmm-run --help": ("vmm-run", "--help"),
    "slipway doctor": ("slipway", "doctor"),
    "vmm-run on a server": ("vmm-run", "--api-sock", SOCKET, PROGRAM),
    "vmm-run up to the start of QEMU": ("vmm-run", "--machine", "qemu", PROGRAM),
}
LOCAL = "vmm-run up to the start of QEMU"

# Reports the modules at the end of the command, or at the start of QEMU.
_PROBE = """
import os, sys
before, leave = set(sys.modules), os._exit

def report(code):
    with open(os.environ["SLIPWAY_MODULES"], "w") as file:
        file.write("\\n".join(sorted(set(sys.modules) - before)))
    leave(code)

def watch(event, details):
    if event == "subprocess.Popen" and os.environ["SLIPWAY_STOP"] in " ".join(details[1]):
        report(0)

os._exit = report
if os.environ["SLIPWAY_STOP"]:
    sys.addaudithook(watch)
from slipway import _cli
_cli.main() if sys.argv[0] == "slipway" else _cli.vmm_run()
"""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most modules that a command may import, and the names of those that it does.

    Modules of other packages stand for their whole package.
    """

    most: int
    names: tuple[str, ...]


def read_budgets() -> dict[str, Budget]:
    """Return the table."""
    table = json.loads(TABLE.read_text("utf-8"))
    return {name: Budget(row["most"], tuple(row["names"])) for name, row in table.items()}


def find_modules(name: str, directory: Path, socket: Path | None = None) -> tuple[str, ...]:
    """Return the modules that a command has imported at its end, besides Python's own at its start.

    ``directory`` is for files; the server at ``socket`` runs the program.
    """
    program = directory / PROGRAM
    program.write_text("echo hello\n")
    places = {SOCKET: str(socket), PROGRAM: str(program)}
    report = directory / "modules"
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *(places.get(word, word) for word in COMMANDS[name])],
        env={
            **os.environ,
            "SLIPWAY_MODULES": str(report),
            "SLIPWAY_STOP": "qemu-system" if name == LOCAL else "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), ended.stderr
    return tuple(report.read_text("utf-8").split())


_SCRIPT = "import sys; del sys.argv[0]\n" + _PROBE


def shorten_names(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the names of our modules, and of the other packages."""
    return tuple(
        sorted(
            {
                module if module.partition(".")[0] in OURS else module.partition(".")[0]
                for module in modules
            }
        )
    )


def _write(found: Mapping[str, tuple[str, ...]]) -> None:
    table = {
        name: {"most": len(modules) + SLACK, "names": shorten_names(modules)}
        for name, modules in found.items()
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="slipway-") as place,
        Server(Path(place), fake=True) as server,
    ):
        _write({name: find_modules(name, Path(place), server.path) for name in COMMANDS})


if __name__ == "__main__":
    main()
