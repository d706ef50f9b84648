"""Prestarted programs in machines: limits, stdin and messages are those of the job."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slipway._model.input_file import InputFile
from slipway._model.options import Options
from slipway._run.job_message import build_job_message
from slipway._run.job_request import JobRequest
from slipway._run.output_sink import OutputCapture, OutputTail
from slipway._util.units import MIB

if TYPE_CHECKING:
    from support.microvm import Microvm
    from support.programs import Outcome

pytestmark = pytest.mark.languages("python")


def run(vm: Microvm, source: str, **options: Any) -> Outcome:
    """Run ``source`` after a prestart, whose program may still be on its way to the script."""
    vm.call(vm.guest.prestart(vm.language))
    return vm.run(source, **options)


def test_second_job_gets_the_prestarted_program(vm: Microvm) -> None:
    capture = OutputCapture()

    # A prestarted program has a pipe as stdin, since its job may have input.
    source = b"import os, stat; print(stat.S_ISFIFO(os.fstat(0).st_mode), os.read(0, 9))"
    for _ in range(2):
        vm.call(vm.guest.run(JobRequest(vm.language, source, Options()), capture))
        vm.call(vm.guest.prestart(vm.language))

    assert capture.data["run", "stdout"] == b"False b''\nTrue b''\n"


def test_memory_limit_of_the_job_holds(vm: Microvm) -> None:
    outcome = run(vm, "x = b'x' * (1 << 26)\nprint(len(x))", memory_limit=32 * MIB)

    assert outcome.program.verdict == "memory_exceeded"
    assert outcome.program.usage.memory_peak <= 32 * MIB


def test_process_limit_of_the_job_holds(vm: Microvm) -> None:
    source = """
import os, time
started = 1
try:
    while True:
        if os.fork() == 0:
            time.sleep(1000)
        started += 1
except OSError:
    print(started)
"""
    outcome = run(vm, source, processes=7)

    assert outcome.stdout == b"7\n"


def test_cpu_time_limit_of_the_job_holds(vm: Microvm) -> None:
    outcome = run(vm, "while True: pass", cpu_time=1.0)

    assert outcome.program.verdict == "cpu_exceeded"
    assert outcome.program.usage.user + outcome.program.usage.system >= 1.0


def test_wall_time_limit_of_the_job_holds(vm: Microvm) -> None:
    outcome = run(vm, "import time; print('begun'); time.sleep(1000)", timeout=6.0)

    assert outcome.program.verdict == "timed_out"
    assert outcome.stdout == b"begun\n"


def test_disk_has_the_size_of_the_job(vm: Microvm) -> None:
    source = """
import os
room = os.statvfs(".")
print(room.f_blocks * room.f_frsize, room.f_files)
try:
    with open("/tmp/large", "wb") as file:
        while True:
            file.write(bytes(1 << 20))
except OSError as error:
    print(error.strerror)
"""
    job, files = build_job_message(JobRequest(vm.language, source.encode(), Options()))
    capture = OutputCapture()

    for _ in range(2):
        sized = replace(job, disk_bytes=8 * MIB)
        vm.call(vm.guest._connection.run(sized, files, capture))
        vm.call(vm.guest.prestart(vm.language))

    assert (
        capture.data["run", "stdout"].decode().splitlines()
        == ["8388608 6144", "No space left on device"] * 2
    )


def test_traceback_shows_source_lines(vm: Microvm) -> None:
    source = "import traceback\n\ndef inner():\n    raise ValueError('so')\n\ninner()\n"

    assert run(vm, source).stderr == vm.run(source).stderr
    assert b"raise ValueError('so')" in run(vm, source).stderr


NODE = """
const fs = require("fs");
console.log(fs.fstatSync(0).isFIFO());
console.log(__filename.endsWith("/main.js"), process.argv.length, require.main === module);
undefined_name();
"""


@pytest.mark.languages("javascript")
def test_node_gets_its_script_when_the_job_comes(vm: Microvm) -> None:
    said: list[OutputTail] = []
    for _ in range(2):
        said.append(OutputTail(MIB))
        vm.call(vm.guest.run(JobRequest(vm.language, NODE.encode(), Options()), said[-1]))
        vm.call(vm.guest.prestart(vm.language))

    # A prestarted program has a pipe as stdin, since its job may have input.
    alone, ahead = (bytes(tail.data) for tail in said)
    assert alone.startswith(b"false\ntrue 2 true\n")
    assert ahead == alone.replace(b"false", b"true", 1)
    assert b"main.js:5" in ahead


@pytest.mark.languages("javascript")
def test_node_that_waits_is_not_for_a_job_that_says_what_its_script_is(vm: Microvm) -> None:
    files = (InputFile("package.json", b'{"type": "module"}'),)

    outcome = run(vm, "import fs from 'fs'; console.log(typeof fs.readSync)", files=files)

    assert (outcome.stdout, outcome.stderr) == (b"function\n", b"")
