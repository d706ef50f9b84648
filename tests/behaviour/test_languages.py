"""What a program of each language can do, and what becomes of it."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slipway._model.input_file import InputFile
from slipway._util.units import MIB
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from support.programs import Runner

PROGRAMS = Path(__file__).with_name("programs")
EXAMPLES = Path(__file__).parents[2] / "examples"
DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a language's programs differ: which signal ends ``signal``, what the error says."""

    signal: int
    error: str
    built: bool = True


DIALECTS = {
    "python": Dialect(signal.SIGSEGV, r'main\.py", line 2\b(.*\n)*SyntaxError', built=False),
    "rust": Dialect(signal.SIGABRT, r"error\[E0308\]: mismatched types\n *--> main\.rs:2:"),
    "go": Dialect(signal.SIGKILL, r"main\.go:4:.* cannot use"),
    "c": Dialect(signal.SIGSEGV, r"main\.c:3:\d+: error: .*undeclared_name"),
    "c++": Dialect(signal.SIGABRT, r"main\.cpp:3:\d+: error: .*undeclared_name"),
    "javascript": Dialect(signal.SIGABRT, r"main\.js:2\n(.*\n)*SyntaxError", built=False),
    "bash": Dialect(signal.SIGSEGV, r"main\.sh: line 2: syntax error", built=False),
}

# The last two are images of a registry: see tests/loopback_images.py. On the users' ways each
# program boots a machine, so that the one that boots fastest stands for the others unless told.
# Compiling takes an emulated machine up to a quarter of a minute, so that C stands for what does.
pytestmark = [
    pytest.mark.languages(*DIALECTS, "rust@loopback", "go@loopback"),
    pytest.mark.fewer("c++", "javascript", "rust", "go", "rust@loopback", "go@loopback"),
    pytest.mark.every_way("bash"),
]


def program(vm: Runner, case: str) -> Path:
    """The program of this case in the machine's language: a file, or a directory of several."""
    (path,) = (PROGRAMS / vm.language.name).glob(f"{case}*")
    return path


@pytest.mark.every_language
@pytest.mark.every_port
@pytest.mark.every_way("bash", "python")
def test_says_hello(vm: Runner) -> None:
    outcome = vm.run(program(vm, "hello"))

    assert outcome.stdout == f"hello from {vm.language.name}\n".encode()
    assert outcome.stderr == b""
    assert outcome.program.verdict == "ok"
    assert (outcome.build is not None) == DIALECTS[vm.language.name].built


def test_gets_its_arguments_as_they_are(vm: Runner) -> None:
    arguments = ["one", "", "two words", "två ☃", "--help", "$HOME", "*"]

    outcome = vm.run(program(vm, "arguments"), *arguments)

    assert outcome.stdout.decode().splitlines() == [f"[{argument}]" for argument in arguments]


@pytest.mark.every_port
def test_reads_stdin_to_its_end(vm: Runner) -> None:
    lines = 200 if vm.has_slow_port else 10_000
    stdin = b"".join(b"%05d: a line of stdin\n" % number for number in range(lines))

    outcome = vm.run(program(vm, "stdin_to_eof"), stdin=stdin)

    assert outcome.stdout == b"%d bytes, %d lines\n" % (len(stdin), lines)


def test_opens_its_standard_streams_by_name(vm: Runner) -> None:
    outcome = vm.run(program(vm, "named_streams"), stdin=b"all of its stdin\n")

    assert outcome.stderr == b"and an error\n"
    assert outcome.stdout == b"all of its stdin\nby a descriptor\n"
    assert outcome.program.verdict == "ok"


def test_ends_with_its_exit_code(vm: Runner) -> None:
    outcome = vm.run(program(vm, "exit_code"))

    assert outcome.program.verdict == "failed"
    assert (outcome.program.code, outcome.program.signal) == (3, 0)


def test_writes_stdout_and_stderr_apart(vm: Runner) -> None:
    outcome = vm.run(program(vm, "stderr_apart"))

    assert outcome.stdout == b"out 0\nout 1\nout 2\n"
    assert outcome.stderr == b"err 0\nerr 1\nerr 2\n"


def test_its_toolchain_is_of_the_version_that_is_listed(vm: Runner) -> None:
    image = ImageStore().image(vm.language.image)
    assert image is not None

    outcome = vm.run(program(vm, "version"))

    assert outcome.stdout.decode() == f"{vm.language.toolchain.of(image)}\n"


@pytest.mark.every_language
def test_error_in_the_source_is_told_by_file_and_line(vm: Runner) -> None:
    dialect = DIALECTS[vm.language.name]

    outcome = vm.run(program(vm, "build_error"))

    failed = outcome.build if dialect.built else outcome.run
    assert failed is not None
    assert failed.verdict == "failed"
    assert failed.code != 0
    assert re.search(dialect.error, failed.stderr.data.decode())
    assert (outcome.run is None) == dialect.built


@pytest.mark.every_language
def test_death_by_signal_names_the_signal(vm: Runner) -> None:
    outcome = vm.run(program(vm, "signal"))

    assert outcome.program.verdict == "signaled"
    assert outcome.program.signal == DIALECTS[vm.language.name].signal
    assert outcome.program.code == 0


def test_endless_program_is_timed_out_and_its_output_kept(vm: Runner) -> None:
    limit = 2 + 3 * vm.usual_seconds(program(vm, "hello"))

    outcome = vm.run(program(vm, "endless"), timeout=limit)

    assert outcome.program.verdict == "timed_out"
    assert outcome.stdout == b"before the end of time\n"
    assert outcome.program.usage.wall >= limit


def test_memory_hog_exceeds_its_memory_and_its_output_is_kept(vm: Runner) -> None:
    outcome = vm.run(program(vm, "memory"), memory_limit=128 * MIB)

    assert outcome.program.verdict == "memory_exceeded"
    assert outcome.stdout == b"before the last of the memory\n"
    # The kernel counts what it then refuses as well.
    assert 64 * MIB < outcome.program.usage.memory_peak < 129 * MIB


@pytest.mark.languages("python", "c", "c++", "go", "rust", "javascript")
@pytest.mark.every_way
@pytest.mark.parametrize("wanted", ["whole", "refused"])
def test_memory_is_what_is_touched_and_any_lack_of_it_is_told(vm: Runner, wanted: str) -> None:
    # An array of 800 MB of which little is touched runs in less; then all of it is touched, or more
    # is asked for than the address space or the runtime's heap can hold.
    outcome = vm.run(program(vm, "large_arrays"), wanted)

    assert outcome.stdout == b"sparse\n"
    assert outcome.program.verdict == "memory_exceeded"


@pytest.mark.languages("c", "c++", "go", "rust")
@pytest.mark.every_way
@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        ({"build_memory_limit": 4 * MIB}, "memory_exceeded"),
        ({"build_cpu_time": 0.02}, "cpu_exceeded"),
    ],
    ids=["memory", "time"],
)
def test_build_is_held_by_its_own_limits(vm: Runner, limit: dict[str, Any], verdict: str) -> None:
    outcome = vm.run(program(vm, "hello"), **limit)

    assert outcome.run is None
    assert outcome.build is not None
    assert outcome.build.verdict == verdict


@pytest.mark.languages("bash")
@pytest.mark.every_way
def test_limits_that_are_asked_for_are_the_programs(vm: Runner) -> None:
    outcome = vm.run(
        "ulimit -u; ulimit -Sn; ulimit -Hn; ulimit -f",
        processes=99,
        open_files=2000,
        file_size=MIB,
        memory_limit=32 * MIB,
    )

    assert outcome.stdout == b"99\n2000\n2000\n1024\n"
    limits = outcome.program.limits
    assert (limits.processes, limits.open_files, limits.file_size) == (99, 2000, MIB)
    assert limits.memory_limit == 32 * MIB


@pytest.mark.languages("python", "c", "go")
@pytest.mark.every_way
def test_has_room_for_many_threads_and_files_and_for_large_ones(vm: Runner) -> None:
    outcome = vm.run(program(vm, "many_of_all"))

    assert outcome.stderr == b""
    assert outcome.stdout == b"200 threads, 900 files, 1 GiB\n"
    assert outcome.program.limits.processes == 1024


@pytest.mark.every_port
def test_output_over_the_limit_is_cut_and_counted(vm: Runner) -> None:
    whole = b"".join(b"line %06d\n" % number for number in range(20_000))
    limit = 4_096 if vm.has_slow_port else 65_536

    outcome = vm.run(program(vm, "flood"), output_limit=limit)

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == whole[:limit]
    assert outcome.program.stdout.size == len(whole)
    assert outcome.program.stdout.dropped == len(whole) - limit
    assert outcome.program.stdout.truncated
    assert not outcome.program.stderr.truncated


@pytest.mark.every_language
def test_is_made_of_all_the_files_that_it_brings(vm: Runner) -> None:
    # In directories, one of which has the program's usual name; some are no part of it.
    outcome = vm.run(program(vm, "several_files"))

    assert outcome.stdout.decode() == (
        f"greetings from several files of {vm.language.name}, in a directory called main\n"
    )


@pytest.mark.languages("python", "c", "bash")
@pytest.mark.fewer
@pytest.mark.every_way("bash")
def test_source_in_another_encoding_is_taken_as_it_is(vm: Runner) -> None:
    sources = {
        "python": b"# coding: latin-1\nprint(ascii('caf\xe9'))\n",
        "c": b'#include <stdio.h>\n// caf\xe9\nint main(void) { puts("caf\xe9"); }\n',
        "bash": b"# caf\xe9\necho 'caf\xe9'\n",
    }

    outcome = vm.run(sources[vm.language.name])

    assert outcome.stdout in {b"caf\xe9\n", rb"'caf\xe9'" + b"\n"}


@pytest.mark.languages("python", "c", "bash")
@pytest.mark.fewer
def test_source_that_is_no_program_gets_the_tools_own_verdict(vm: Runner) -> None:
    empty, binary = vm.run(b""), vm.run(b"\x7fELF\0\n")

    for outcome in (empty, binary) if vm.language.build else (binary,):
        failed = outcome.build if vm.language.build else outcome.run
        assert failed is not None
        assert (failed.verdict, bool(failed.stderr.data)) == ("failed", True)
    if vm.language.build is None:
        assert (empty.program.verdict, empty.stdout, empty.stderr) == ("ok", b"", b"")


@pytest.mark.languages("bash", "python", "c", "go", "javascript", "go@loopback", "rust@loopback")
@pytest.mark.every_language
@pytest.mark.every_way("bash")
def test_finds_the_base_set_of_tools_time_zones_and_names(vm: Runner) -> None:
    files = (
        InputFile("base_set.sh", (PROGRAMS / "base_set.sh").read_bytes()),
        InputFile("commands", base_commands()),
    )

    outcome = vm.run(program(vm, "base_set"), files=files)

    assert outcome.stdout.decode().splitlines() == ["1969-12-31 19:00 EST", "checked"]
    assert outcome.stderr == b""


@pytest.mark.languages("rust")
@pytest.mark.every_language
@pytest.mark.every_way
def test_a_backtrace_of_rust_names_the_functions(vm: Runner) -> None:
    outcome = vm.run(program(vm, "panic"), environment={"RUST_BACKTRACE": "1"})

    told = outcome.stderr.decode()
    assert "main.rs:3:5" in told
    assert re.search(r"\d: .*panic_bounds_check\n.* main::look_up\n.* main::main\n", told)


def base_commands() -> bytes:
    """The commands that docs/images.md promises, a word each."""
    section = (DOCS / "images.md").read_text().partition("## The base set of tools")[2]
    (commands,) = re.findall(r"^    \[ .*\n(?:    .*\n)+", section, re.MULTILINE)
    return " ".join(commands.split()).encode()


@pytest.mark.every_port
def test_file_that_it_wrote_is_fetched(vm: Runner) -> None:
    outcome = vm.run(program(vm, "output_file"), outputs=("result.txt", "missing.txt"))

    assert outcome.files["result.txt"].data == b"the result is 42\n"
    assert outcome.files["missing.txt"].data is None
    assert outcome.files["missing.txt"].missing


@pytest.mark.every_port
def test_output_of_a_program_of_seconds_arrives_while_it_runs(vm: Runner) -> None:
    # Each line is answered only after it has come, and the program waits for the answer.
    job = vm.begin(program(vm, "live"))
    for number in range(6):
        job.until(b"tick %d\n" % number)
        job.write(b"go on\n")
    job.end_input()
    outcome = job.outcome()

    assert outcome.stdout == b"".join(b"tick %d\n" % number for number in range(6))
    assert outcome.program.verdict == "ok"
    assert outcome.program.usage.wall >= 6 * 0.4


@pytest.mark.every_port
def test_talks_in_a_terminal(vm: Runner) -> None:
    # Nothing is flushed: a prompt comes before its input, and what was written before a crash is
    # there.
    job = vm.begin(program(vm, "terminal"), tty=True)
    job.until(b"guess: ")
    job.write(b"3\n")
    outcome = job.outcome()

    assert outcome.stdout == b"guess: 3\r\n111 in 24x80: 3\r\n"
    assert outcome.stderr == b""
    assert outcome.program.signal or outcome.program.code > 128


def test_examples_of_the_language_run(vm: Runner) -> None:
    # Those that use Slipway themselves are for the host.
    examples = [
        path
        for path in EXAMPLES.iterdir()
        if path.suffix in vm.language.suffixes and b"slipway" not in path.read_bytes()
    ]
    assert examples

    for example in examples:
        outcome = vm.run(example, stdin=b"words of a text of words")

        assert outcome.program.verdict == "ok"
        assert outcome.stdout
