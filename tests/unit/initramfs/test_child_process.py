"""Child processes of a build: output, limits on time, and descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway_initramfs.child_process import (
    MAX_OUTPUT,
    CompletedProgram,
    Hung,
    Supervision,
    run_program,
)

if TYPE_CHECKING:
    from pathlib import Path

LONG = 3600.0


def shell(text: str, supervision: Supervision | None = None) -> CompletedProgram:
    return run_program(["sh", "-c", text], os.environ, supervision or Supervision(LONG))


def living(pids: Path) -> list[psutil.Process]:
    """Return the ids of processes that do not end; the kernel takes a moment for a killed one."""
    found = []
    for pid in pids.read_text().split():
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(pid)))
    _, alive = psutil.wait_procs(found, timeout=30)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_output_and_exit_code_are_returned() -> None:
    assert shell("echo out; echo err >&2; exit 3") == CompletedProgram(3, "out\n", "err\n")


def test_a_program_has_an_empty_stdin() -> None:
    assert shell("cat; echo done").stdout == "done\n"


def test_lines_arrive_while_the_program_runs() -> None:
    lines: list[str] = []

    shell("printf 'a\\nb'; printf 'c\\n'; echo x >&2", Supervision(LONG, listen=lines.append))

    assert lines == ["a", "bc"]


def test_of_endless_output_the_last_is_kept() -> None:
    done = shell(f"head -c {3 * MAX_OUTPUT} /dev/zero; echo end")

    assert MAX_OUTPUT <= len(done.stdout) < MAX_OUTPUT + (1 << 17)
    assert done.stdout.endswith("\0end\n")


@pytest.mark.parametrize(
    ("supervision", "why"),
    [
        (Supervision(LONG, quiet=0.5), "did nothing"),
        (Supervision(0.5, watch=object), "took more than"),
    ],
)
def test_a_hanging_program_is_ended_with_its_descendants(
    tmp_path: Path, supervision: Supervision, why: str
) -> None:
    pids = tmp_path / "pids"
    text = f"trap '' TERM; sleep 600 & echo $$ $! >{pids}; exec sleep 600"

    with pytest.raises(Hung, match=why):
        shell(text, supervision)

    assert living(pids) == []


def test_signs_of_life_keep_a_program_from_being_given_up() -> None:
    # Whatever is watched is another each time, however long the host takes from look to look.
    done = shell("sleep 1", Supervision(LONG, quiet=0.2, watch=object))

    assert done.code == 0


def test_an_exception_of_watch_ends_the_program(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def watch() -> None:
        if pids.exists() and pids.read_text().endswith("\n"):
            raise BlockingIOError

    with pytest.raises(BlockingIOError):
        shell(f"echo $$ >{pids}; exec sleep 600", Supervision(LONG, watch=watch))

    assert living(pids) == []


def test_a_remaining_descendant_does_not_delay_the_result(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    done = shell(f"sleep 600 & echo $! >{pids}; echo said")

    assert done == CompletedProgram(0, "said\n", "")
    assert living(pids) == []


# Runs a program whose children have children, as make does, and is killed meanwhile.
KILLED = """
import os, sys
from slipway_initramfs.child_process import Supervision, run_program
text = f"(sleep 600 & echo $! >>{sys.argv[1]}; wait) & (echo $$; echo $!) >>{sys.argv[1]}; "
text += "sleep 0.2; echo ready; wait"
kill = lambda _: os.kill(os.getpid(), 9)
run_program(["sh", "-c", text], os.environ, Supervision(600, listen=kill))
"""


def test_the_whole_group_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    ended = subprocess.run([sys.executable, "-c", KILLED, str(pids)], check=False)

    assert ended.returncode == -signal.SIGKILL
    assert len(pids.read_text().split()) == 3
    assert living(pids) == []
