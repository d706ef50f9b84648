"""``slipway run`` and ``vmm-run`` as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway_protocol import __version__
from support.commands import Ended
from support.waiting import block_until

if TYPE_CHECKING:
    from slipway._run.assets import Assets
    from support.commands import Commands

pytestmark = [pytest.mark.usefixtures("bash"), pytest.mark.vm]

BROKEN_C = "int main(void)\n{\n    return undeclared_name;\n}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def test_program_gets_all_that_the_command_line_gives_it(commands: Commands, here: Path) -> None:
    write(
        here / "all.sh",
        """
        echo "arguments: $#: $*"
        echo "colour: $COLOUR"
        echo "data: $(cat data/in.txt)"
        echo "tree: $(find tree -type f -printf '%m %p ' | sort)$(cat tree/deep/*)"
        echo "stdin: $(cat)" >&2
        echo "result" >result.txt
        chmod 640 result.txt
        exit 3
        """,
    )
    write(here / "local.txt", "from the host")
    (here / "tree/deep").mkdir(parents=True)
    write(here / "tree/deep/caf\udce9 ü", "deep").chmod(0o751)
    write(here / "tree/top", "").chmod(0o600)

    ended = commands(
        *("vmm-run", "--env", "COLOUR=blue=green", "--file", "local.txt:data/in.txt"),
        *("--file", "tree/"),
        *(
            "--get",
            "result.txt:fetched.txt",
            "--verbose",
            "all.sh",
            "--",
            "--json",
            "",
            "two words",
        ),
        stdin=b"from a pipe",
    )

    assert ended.code == 3
    assert ended.stdout.decode("utf-8", "surrogateescape").splitlines() == [
        "arguments: 3: --json  two words",
        "colour: blue=green",
        "data: from the host",
        "tree: 600 tree/top 751 tree/deep/caf\udce9 ü deep",
    ]
    stdin, budget, start = ended.stderr.splitlines()
    assert stdin == "stdin: from a pipe"
    assert start.startswith("slipway: start ")
    parts = "prepare", "boot", "agent", "ready", "restore", "build", "run", "teardown", "total"
    for part in parts:
        assert f"{part} " in budget
    assert (here / "fetched.txt").read_text() == "result\n"
    assert (here / "fetched.txt").stat().st_mode & 0o777 == 0o640
    assert commands.leftovers() == []


def test_source_comes_from_stdin(commands: Commands) -> None:
    ended = commands("slipway", "run", "--language", "sh", "-", stdin=b"cat; echo $((6 * 7))")

    # The source has used up stdin: the program's is empty.
    assert ended == Ended(0, b"42\n", "")


def test_language_is_named_where_the_suffix_is_another(commands: Commands, here: Path) -> None:
    write(here / "hello.txt", "echo hello")

    ended = commands("vmm-run", "--language", "bash", "hello.txt")

    assert ended == Ended(0, b"hello\n", "")


def test_stdin_of_a_person_who_types_is_passed_on_line_by_line(
    commands: Commands, here: Path
) -> None:
    write(here / "echo.sh", 'while read -r line; do echo "you said: $line"; done')

    with commands.start("vmm-run", "echo.sh") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"first", b"second"):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"you said: " + word + b"\n"
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_death_by_signal_is_told_as_a_shell_does(commands: Commands, here: Path) -> None:
    write(here / "die.sh", "echo dying; kill -SEGV $$")

    ended = commands("vmm-run", "die.sh")

    assert ended == Ended(139, b"dying\n", "slipway: the program was ended by signal 11\n")


def test_timeout_ends_with_124_and_keeps_the_output(commands: Commands, here: Path) -> None:
    write(here / "slow.sh", "echo before; sleep 1000")

    ended = commands("vmm-run", "--timeout", "4", "slow.sh")

    assert ended.code == 124
    assert ended.stdout == b"before\n"
    assert ended.stderr.startswith("slipway: the program reached its time limit")


def test_output_over_the_limit_is_told(commands: Commands, here: Path) -> None:
    write(here / "flood.sh", "seq 1 20000; echo done >&2")

    ended = commands("vmm-run", "--output-limit", "1K", "flood.sh")

    whole = "".join(f"{number}\n" for number in range(1, 20001)).encode()
    assert ended.code == 0
    assert ended.stdout == whole[:1024]
    done, told = ended.stderr.splitlines()
    assert done == "done"
    assert str(len(whole) - 1024) in told


def test_failed_build_ends_with_1_and_the_compilers_words(commands: Commands, here: Path) -> None:
    write(here / "broken.c", BROKEN_C)

    ended = commands("vmm-run", "broken.c")

    assert ended.code == 1
    assert ended.stdout == b""
    assert "main.c:3:12: error: " in ended.stderr
    assert "undeclared_name" in ended.stderr


def test_machine_is_as_large_as_a_memory_limit_needs(
    commands: Commands, here: Path, bash: Assets
) -> None:
    limit = bash.image.room(bash.memory) + (200 << 20)
    write(here / "large.sh", f"dd if=/dev/zero of=/dev/null bs={limit - (8 << 20)} count=1")

    ended = commands("vmm-run", "--json", "--memory-limit", f"{limit}b", "large.sh")

    record = json.loads(ended.stdout)
    assert (ended.code, record["verdict"]) == (0, "ok")
    assert record["memory"] > bash.memory
    assert limit - (16 << 20) < record["run"]["usage"]["memory_peak"] <= limit


def test_record_tells_all(commands: Commands, here: Path, bash: Assets) -> None:
    write(here / "some.sh", "printf out; printf '\\377' >&2; echo x >made; exit 4")

    ended = commands(
        *("vmm-run", "--json", "--output-limit", "2", "--timeout", "60", "--get", "made"),
        *("--get", "gone", "some.sh"),
    )

    assert ended.code == 4
    record = json.loads(ended.stdout)
    shape = {
        **{"language": "bash", "verdict": "failed", "build": None, "machine": "qemu", "cpus": 1},
        **{"image": "bash", "image_digest": bash.image.digest, "memory": bash.memory},
        **{"agent": __version__, "warnings": []},
    }
    assert {key: record[key] for key in shape} == shape
    assert record["kernel"].startswith(bash.kernel.version)
    steps = {"queue", "prepare", "boot", "agent", "ready", "restore", "build", "run", "teardown"}
    assert set(record["timing"]) == steps
    run = record["run"]
    assert (run["verdict"], run["code"], run["signal"]) == ("failed", 4, 0)
    assert run["stdout"] == {"bytes": 3, "dropped": 0, "truncated": False, "text": "out"}
    assert run["stderr"] == {"bytes": 1, "dropped": 0, "truncated": False, "base64": "/w=="}
    assert set(run["usage"]) == {"wall", "user", "system", "memory_peak", "processes_peak"}
    assert run["usage"]["memory_peak"] > 0
    # The CPU time follows the wall-clock time, and what was not said is the language's.
    assert run["limits"] == {
        **{"timeout": 60.0, "cpu_time": 60.0, "memory_limit": None, "processes": 1024},
        **{"open_files": 65536, "file_size": None, "output_limit": 2 << 20},
    }
    assert record["files"][0] == {"path": "made", "bytes": 2}
    assert record["files"][1]["path"] == "gone"
    assert record["files"][1]["missing"]
    assert (here / "made").read_text() == "x\n"


def test_reader_that_goes_away_ends_it_quietly(commands: Commands, here: Path) -> None:
    write(here / "endless.sh", "while echo line; do :; done")

    with commands.start("vmm-run", "endless.sh", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + 13
    assert commands.leftovers() == []


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_cannot_be_written_is_told(
    commands: Commands, here: Path, options: list[str]
) -> None:
    write(here / "hello.sh", "echo hello")

    with Path("/dev/full").open("wb") as full:
        ended = commands("vmm-run", *options, "hello.sh", stdout=full)

    assert ended.code == 125
    assert ended.stderr == "slipway: error: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1), (0, 1, 2)])
def test_runs_without_standard_descriptors(
    commands: Commands, here: Path, closed: tuple[int, ...]
) -> None:
    """What is opened in their place is ours, and is not to be taken for the program's streams."""
    write(here / "copy.sh", "cat >read; echo out; echo err >&2")
    redirections = " ".join(f"{number}>&-" for number in closed)
    script = f'exec "$0" --get read copy.sh {redirections}'

    process = subprocess.run(
        ["sh", "-c", script, commands.path("vmm-run")],
        input=b"in",
        capture_output=True,
        check=False,
        env=commands.environment,
    )

    assert process.returncode == 0
    assert process.stdout == (b"" if 1 in closed else b"out\n")
    assert process.stderr == (b"" if 2 in closed else b"err\n")
    assert (here / "read").read_bytes() == (b"" if 0 in closed else b"in")


def test_fetched_file_does_not_change_the_mode_of_what_is_no_file(
    commands: Commands, here: Path
) -> None:
    write(here / "make.sh", "echo made >made; chmod 777 made")
    os.mkfifo(here / "fifo", 0o620)
    mode = (here / "fifo").stat().st_mode
    reader = os.open(here / "fifo", os.O_RDWR)

    ended = commands("vmm-run", "--get", "made:fifo", "make.sh")

    assert (ended.code, os.read(reader, 100)) == (0, b"made\n")
    assert (here / "fifo").stat().st_mode == mode
    os.close(reader)


def test_fetched_files_have_modes_as_the_umask_leaves_them_and_missing_ones_are_no_success(
    commands: Commands, here: Path
) -> None:
    write(here / "make.sh", "echo made | tee new old >/dev/null; chmod 777 new old")
    write(here / "old", "").chmod(0o640)
    gets = [word for name in ("new", "old", "gone") for word in ("--get", name)]
    script = 'umask 027; exec "$0" "$@"'

    ended = subprocess.run(
        ["sh", "-c", script, commands.path("vmm-run"), *gets, "make.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=commands.environment,
    )

    assert (ended.returncode, ended.stdout) == (123, b"")
    assert ended.stderr == b"slipway: cannot fetch gone (--get): no such file\n"
    modes = [(here / name).stat().st_mode & 0o777 for name in ("new", "old")]
    assert modes == [0o750, 0o640]
    assert (here / "old").read_bytes() == b"made\n"


def test_boot_log_shows_the_console(commands: Commands, here: Path) -> None:
    write(here / "hello.sh", "echo hello")

    ended = commands("vmm-run", "--boot-log", "hello.sh")

    assert ended.code == 0
    assert ended.stdout == b"hello\n"
    assert "Linux version" in ended.stderr


def test_other_kernel_boots_with_the_serial_port(
    commands: Commands, here: Path, bash: Assets
) -> None:
    write(here / "hello.sh", "cat; echo; uname -r; test -e /dev/vport0p1 && echo virtio")

    ended = commands("vmm-run", "--kernel", bash.kernel.path, "hello.sh", stdin=b"x" * 5000)

    assert ended.stdout.split() == [b"x" * 5000, bash.kernel.version.encode()]


def test_the_store_s_kernel_may_be_named(commands: Commands, here: Path, bash: Assets) -> None:
    write(here / "hello.sh", "uname -r; test -e /dev/vport0p1 && echo virtio")

    ended = commands("vmm-run", "--json", "--kernel", bash.kernel.name, "hello.sh")

    record = json.loads(ended.stdout)
    assert record["run"]["stdout"]["text"].split() == [bash.kernel.version, "virtio"]
    assert record["kernel"].startswith(bash.kernel.version)


def test_more_processors_and_memory(commands: Commands, here: Path) -> None:
    write(here / "size.sh", "nproc; awk '/MemTotal/ { print $2 }' /proc/meminfo")

    ended = commands("vmm-run", "--cpus", "2", "--memory", "1G", "size.sh")

    cpus, kibibytes = map(int, ended.stdout.split())
    assert cpus == 2
    assert 900_000 < kibibytes <= 1024 * 1024


def test_two_at_once_do_not_disturb_each_other(commands: Commands, here: Path) -> None:
    write(here / "who.sh", "sleep 1; cat; echo $$ >me")

    running = [commands.start("vmm-run", "who.sh") for _ in range(2)]
    told = [process.communicate(b"number %d" % number)[0] for number, process in enumerate(running)]

    assert told == [b"number 0", b"number 1"]
    assert [process.returncode for process in running] == [0, 0]
    assert commands.leftovers() == []


def test_json_tells_of_a_machine_that_was_lost(commands: Commands, tmp_path: Path) -> None:
    source = write(tmp_path / "wait.sh", "sleep 60\n")
    process = commands.start("vmm-run", "--cold", "--json", source, stdin=subprocess.DEVNULL)

    def machines() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children()
        return [child for child in children if child.name().startswith("qemu")]

    machine = block_until(machines, "a machine runs")[0]

    machine.kill()
    stdout, stderr = process.communicate(timeout=60)

    record = json.loads(stdout)
    assert process.returncode == 125
    assert record["verdict"] == "internal_error"
    assert record["error"] == "HostError"  # it had not booted: the program has not run
    assert record["message"].startswith("the machine ended by itself")
    assert b"Traceback" not in stderr


def test_json_tells_of_a_wrong_call(commands: Commands, tmp_path: Path) -> None:
    ended = commands("vmm-run", "--json", tmp_path / "missing.py")

    record = json.loads(ended.stdout)
    assert ended.code == 2
    assert (record["verdict"], record["error"]) == (None, "InputError")
