"""Cost of the command itself: ``vmm-run`` on a server, beside curl, ``--help`` and ``doctor``.

The server has fake machines, which take no time: what is left is the command and HTTP. Rows in
turn, as whole processes. CPU time is user and system time of the command alone, which a busy host
changes little; modules are counted by ``python -X importtime``, and times of imports are those of
the row's fastest round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCRIPTS = Path(sys.executable).parent
PROGRAM = "print hello\n"
# Lines of -X importtime: "import time: self us | cumulative us | name".
_IMPORT = "import time:"


def measure(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Return wall-clock and CPU milliseconds of a command, which has to succeed."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def count_imports(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, float]:
    """Return the number of modules that a Python command imports, and their milliseconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.removeprefix(_IMPORT).split("|") for line in done.stderr.splitlines()]
    times = [int(row[0]) for row in rows if len(row) == 3 and row[0].strip().isdigit()]
    return len(times), sum(times) / 1000


def make_commands(server: Server, program: Path) -> dict[str, list[str]]:
    """Return the commands of the rows, by name."""
    run, slipway = str(SCRIPTS / "vmm-run"), str(SCRIPTS / "slipway")
    url = "http://localhost/v1/run?language=bash"
    curl = ["curl", "-s", "--unix-socket", str(server.path), "--data-binary", f"@{program}", url]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "curl /v1/run": curl,
        "vmm-run --api-sock": [run, "--api-sock", str(server.path), str(program)],
        "vmm-run, the server found": [run, str(program)],
        "vmm-run --help": [run, "--help"],
        "vmm-run --version": [run, "--version"],
        # Without images, whose digests are most of its work.
        "slipway doctor, empty store": [slipway, "doctor", "--store", str(program.parent)],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15, help="of each command")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="slipway-") as place:
        directory = Path(place, "slipway")
        directory.mkdir(0o700)
        environment = {**os.environ, "XDG_RUNTIME_DIR": place}
        program = Path(place, "hello.sh")
        program.write_text(PROGRAM)
        with Server(directory, fake=True) as server:
            commands = make_commands(server, program)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
            # The first round warms caches and is not counted.
            for number in range(rounds + 1):
                for name, command in commands.items():
                    cost = measure(command, environment)
                    if number:
                        times[name].append(cost)
            imports = {
                name: min(count_imports(command, environment) for _ in range(3))
                for name, command in commands.items()
                if Path(command[0]).parent == SCRIPTS and command[1] != "-c"
            }
    print(f"{'':<28}{'wall ms: min':>14}{'median':>9}{'CPU ms: min':>13}{'median':>9}"
          f"{'modules':>9}{'import ms':>11}")  # fmt: skip
    for name, costs in times.items():
        walls, processors = zip(*costs, strict=True)
        row = f"{name:<28}{min(walls):>14.1f}{statistics.median(walls):>9.1f}"
        row += f"{min(processors):>13.1f}{statistics.median(processors):>9.1f}"
        if name in imports:
            count, spent = imports[name]
            row += f"{count:>9}{spent:>11.1f}"
        print(row)


if __name__ == "__main__":
    main()
