"""Runs in process: events, stdin, signals, cancelling, the queue; on machines that are none."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slipway._local.execution import KEPT_OUTPUT
from slipway._local.runtime import AsyncRuntime
from slipway._model.events import (
    Output,
    PhaseEnded,
    PhaseStarted,
    Preparing,
    Queued,
    Started,
)
from slipway._model.input_file import InputFile
from slipway._model.result import Result
from slipway._run.agent_connection import AgentConnection
from slipway._run.guest import Guest
from slipway._run.job_exchange import WINDOW, JobExchange
from slipway._run.job_request import JobRequest
from slipway._util.errors import Busy, HostError, InputError
from slipway._util.units import MIB
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.store.image_store import ImageStore
from support import fake_agent
from support.fake_machine import MEMORY, OVERHEAD, FakeLauncher, FakeMachine, fake_machines
from support.stores import put_image
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution

# Parts of a machine and of its conversation, none of which a handle may keep alive.
MACHINE_PARTS = (Guest, AgentConnection, JobExchange, FakeMachine)


def find_machine_parts() -> list[object]:
    """Return the parts of machines that are alive in this process."""
    return [each for each in gc.get_objects() if isinstance(each, MACHINE_PARTS)]


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
async def runtime(launcher: FakeLauncher) -> AsyncIterator[AsyncRuntime]:
    async with AsyncRuntime(images=launcher, launcher=launcher, max_machines=2, cpus=16) as made:
        yield made
    assert not launcher.machines
    assert made.load.machines == made.load.waiting == made.load.memory == 0


async def until(execution: AsyncExecution, kind: type[Event]) -> list[Event]:
    """The events up to the first of this kind."""
    seen: list[Event] = []
    async for event in execution:
        seen.append(event)
        if isinstance(event, kind):
            return seen
    raise AssertionError(f"no {kind.__name__} among {seen}")


async def test_runs_and_collects_the_output(runtime: AsyncRuntime) -> None:
    result = await runtime.run("print hello\nerror oh\nexit 3", "bash")

    assert (result.stdout, result.stderr, result.code) == ("hello\n", "oh\n", 3)
    assert result.verdict == "failed"


async def test_states_follow_the_run(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("forever", "rust")
    at_first = execution.state

    await until(execution, PhaseEnded)
    building = execution.state
    await until(execution, PhaseStarted)
    running = execution.state
    await execution.cancel()

    assert at_first == "booting"
    assert (building, running, execution.state) == ("running", "running", "ended")


async def test_result_has_only_the_output_that_was_not_taken(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("print one\nread 1\nprint two", "bash", stdin=None)
    await until(execution, Output)

    await execution.stdin.write(b"\n")
    result = await execution.wait()

    assert result.stdout == "\ntwo\n"


async def test_waiting_again_gives_the_same_result(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("print hello", "bash")

    first, second = await execution.wait(), await execution.wait()

    assert first == second


async def test_finished_run_with_unread_output_keeps_nothing_of_its_machine(
    runtime: AsyncRuntime,
) -> None:
    others = {id(each) for each in find_machine_parts()}  # of earlier tests in this process
    execution = await runtime.start("print hello", "bash")
    result = await execution.wait()

    gc.collect()

    kept = [type(each).__name__ for each in find_machine_parts() if id(each) not in others]
    assert (result.stdout, kept) == ("hello\n", [])


async def test_output_is_streamed_and_not_kept(runtime: AsyncRuntime) -> None:
    heard: list[tuple[str, str, bytes]] = []

    async def hear(phase: str, stream: str, data: bytes) -> None:
        heard.append((phase, stream, data))

    result = await runtime.run("print hello\nerror oh", "bash", on_output=hear)

    assert heard == [("run", "stdout", b"hello\n"), ("run", "stderr", b"oh\n")]
    assert result.stdout == ""


async def test_more_stdin_than_the_program_reads_does_not_block(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("read 1", "bash", stdin=None)

    for _ in range(64):
        await execution.stdin.write(b"x" * 65536)
    result = await execution.wait()

    assert result.stdout == "x"


async def test_stdin_that_was_given_cannot_be_written(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("echo", "bash", stdin=b"given")

    with pytest.raises(InputError, match="stdin was given"):
        await execution.stdin.write(b"more")

    assert (await execution.wait()).stdout == "given"


async def test_stdin_that_was_closed_cannot_be_written(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("forever", "bash", stdin=None)
    await execution.stdin.close()

    with pytest.raises(InputError, match="has been closed"):
        await execution.stdin.write(b"more")
    await execution.cancel()


@pytest.mark.parametrize("number", [0, -1, 65, 10**9])
async def test_signal_that_does_not_exist_is_refused(runtime: AsyncRuntime, number: int) -> None:
    execution = await runtime.start("forever", "bash")
    await until(execution, PhaseStarted)

    with pytest.raises(InputError, match="invalid signal"):
        await execution.signal(number)
    await execution.cancel()


async def test_signal_after_the_end_is_refused(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("print x", "bash")
    await execution.wait()

    with pytest.raises(InputError, match="it is ended"):
        await execution.signal(15)


async def test_run_that_nobody_reads_can_be_cancelled(
    runtime: AsyncRuntime, launcher: FakeLauncher
) -> None:
    execution = await runtime.start(f"flood {64 * MIB}\nforever", "bash", output_limit=128 * MIB)
    await wait_until(lambda: execution.state == "running", "the program runs")

    await execution.cancel()

    assert not launcher.machines
    assert (await execution.wait()).verdict == "cancelled"


async def test_run_cancelled_in_the_queue_never_boots(
    runtime: AsyncRuntime, launcher: FakeLauncher
) -> None:
    running = [await runtime.start("forever", "bash") for _ in range(2)]
    queued = await runtime.start("print never", "bash")

    await queued.cancel()
    result = await queued.wait()

    assert (result.verdict, result.run, result.build) == ("cancelled", None, None)
    assert launcher.launched <= 2
    for execution in running:
        await execution.cancel()


async def test_run_cancelled_while_it_boots_leaves_no_machine() -> None:
    booting = asyncio.Event()

    async def boot() -> None:
        booting.set()
        await asyncio.Event().wait()

    launcher = FakeLauncher(boot=boot)
    async with AsyncRuntime(images=launcher, launcher=launcher) as runtime:
        execution = await runtime.start("print never", "bash", outputs=("wanted",))
        await wait_until(booting.is_set, "the machine boots")

        await execution.cancel()
        result = await execution.wait()

    assert result.verdict == "cancelled"
    assert [file.missing for file in result.files] == ["the run was cancelled"]
    assert not launcher.machines


async def test_leaving_the_context_cancels(runtime: AsyncRuntime, launcher: FakeLauncher) -> None:
    async with await runtime.start("forever", "bash") as execution:
        await until(execution, PhaseStarted)

    assert not launcher.machines
    assert execution.state == "ended"


async def test_at_most_max_machines_run_at_once(
    runtime: AsyncRuntime, launcher: FakeLauncher
) -> None:
    results = await asyncio.gather(
        *(runtime.run(f"print {number}", "bash") for number in range(30))
    )

    assert [result.stdout for result in results] == [f"{number}\n" for number in range(30)]
    assert launcher.most == 2


async def test_position_in_the_queue_is_told(runtime: AsyncRuntime) -> None:
    running = [await runtime.start("forever", "bash") for _ in range(2)]
    first = await runtime.start("print first", "bash")
    second = await runtime.start("print second", "bash")
    positions = first.position, second.position

    await running[0].cancel()
    events = [event async for event in second]
    await running[1].cancel()

    assert positions == (0, 1)
    assert isinstance(events[0], Queued)
    assert second.position is None


async def test_memory_budget_bounds_what_runs(launcher: FakeLauncher) -> None:
    budget = 2 * (MEMORY + OVERHEAD)
    async with AsyncRuntime(
        images=launcher, launcher=launcher, memory_budget=budget, cpus=16
    ) as runtime:
        await asyncio.gather(*(runtime.run("print x", "bash") for _ in range(10)))

    assert launcher.most == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 10**12}, "memory is"),
        ({"memory": 1024 * MIB}, r"needs 1152 MiB of memory.*limit of all runs is 512 MiB"),
        ({"cpus": 5}, "needs 5 CPUs"),
        ({"memory": MIB}, "MiB of memory to boot"),
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"timeout": "soon"}, "timeout is 'soon'"),
        ({"files": ("a",)}, r"files\[0\] is 'a'"),
        ({"environment": ("abc",)}, r"environment\[0\] is one text"),
        ({"arguments": "abc"}, "arguments is one text"),
        ({"outputs": "abc"}, "outputs is one text"),
        ({"machine": "toaster"}, "machine is 'toaster'"),
        ({"arch": "mips"}, "arch is 'mips'"),
        ({"port": "usb"}, "port is 'usb'"),
        ({"kernel": 5}, "kernel is 5"),
    ],
)
async def test_what_cannot_run_is_refused_and_takes_no_place(
    options: dict[str, Any], message: str
) -> None:
    async with AsyncRuntime(**fake_machines(), memory_budget=512 * MIB, cpus=4, queue=0) as runtime:
        with pytest.raises(InputError, match=message):
            await (await runtime.start("print x", "bash", **options)).wait()

        assert runtime.load.machines == 0
        assert (await runtime.run("print x", "bash")).stdout == "x\n"


async def test_agent_reports_no_more_time_than_its_machine_took(
    runtime: AsyncRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_agent, "READY", replace(fake_agent.READY, start_us=2**62))

    timing = (await runtime.run("print x", "bash")).timing

    assert timing.boot == 0
    assert 0 < timing.agent < 2**62 / 1e6


async def test_environment_may_be_a_mapping(runtime: AsyncRuntime) -> None:
    result = await runtime.run("env COLOUR", "bash", environment={"COLOUR": "red"})

    assert result.stdout == "red\n"


async def test_key_is_bounded(runtime: AsyncRuntime) -> None:
    with pytest.raises(InputError, match=r"invalid key .* of 129 characters"):
        await runtime.start("print x", "bash", key="k" * 129)


@pytest.mark.parametrize("field", ["max_machines", "memory_budget", "cpus", "queue"])
def test_bounds_of_a_runtime_are_checked(field: str) -> None:
    with pytest.raises(InputError, match=f"{field} is -1"):
        AsyncRuntime(**{field: -1})  # type: ignore[arg-type]


async def test_output_that_nobody_takes_stops_the_program(runtime: AsyncRuntime) -> None:
    size = 16 * MIB
    execution = await runtime.start(f"flood {size}\nexit 7", "bash", output_limit=2 * size)

    # As much as queue, window and sockets hold; then all is still.
    taken = 0
    async for event in execution:
        if isinstance(event, Output):
            taken += len(event.data)
            held = execution.pending_bytes
            assert held < KEPT_OUTPUT + 256 * 1024
        if isinstance(event, PhaseEnded):
            break
    result = await execution.wait()

    assert taken == size
    assert result.code == 7


async def test_machine_is_not_kept_for_whoever_does_not_read(
    runtime: AsyncRuntime, launcher: FakeLauncher
) -> None:
    size = KEPT_OUTPUT + WINDOW
    execution = await runtime.start(f"flood {size}", "bash", output_limit=2 * size)

    await wait_until(lambda: execution.state == "ended", "the run has ended")
    machines = len(launcher.machines)
    result = await execution.wait()

    assert machines == 0
    assert len(result.stdout) == size


async def test_two_readers_of_one_run_are_refused(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("forever", "bash")
    await until(execution, PhaseStarted)
    waiting = asyncio.create_task(execution.wait())
    await asyncio.sleep(0)

    with pytest.raises(InputError, match="two tasks"):
        await execution.wait()
    await execution.cancel()

    assert (await waiting).verdict == "cancelled"


async def test_image_is_made_behind_the_handle() -> None:
    launcher = FakeLauncher(unbuilt=["bash"])
    async with AsyncRuntime(images=launcher, launcher=launcher) as runtime:
        execution = await runtime.start("print made", "bash")
        events = await until(execution, Preparing)
        state = execution.state

        launcher.made.set()
        result = await execution.wait()

    assert events[-1] == Preparing("making bash")
    assert state == "preparing"
    assert result.stdout == "made\n"


async def test_run_that_makes_its_image_can_be_cancelled() -> None:
    launcher = FakeLauncher(unbuilt=["bash"])
    async with AsyncRuntime(images=launcher, launcher=launcher) as runtime:
        execution = await runtime.start("print never", "bash")
        await until(execution, Preparing)

        await execution.cancel()
        result = await execution.wait()
        launcher.made.set()

    assert result.verdict == "cancelled"
    assert launcher.launched == 0


async def test_image_is_made_once_for_all_who_wait() -> None:
    launcher = FakeLauncher(unbuilt=["bash"])
    async with AsyncRuntime(images=launcher, launcher=launcher, queue=100) as runtime:
        before = threading.active_count()
        for _ in range(20):
            execution = await runtime.start("print never", "bash")
            await until(execution, Preparing)
            await execution.cancel()
        waiting = [await runtime.start("print made", "bash") for _ in range(5)]
        threads = threading.active_count() - before

        launcher.made.set()
        results = [await execution.wait() for execution in waiting]

    # The maker, and those of the loop's pool.
    assert threads <= 1 + (os.cpu_count() or 1) + 4
    assert [result.stdout for result in results] == ["made\n"] * 5


async def test_others_run_while_an_image_is_made() -> None:
    launcher = FakeLauncher(unbuilt=["rust"])
    async with AsyncRuntime(images=launcher, launcher=launcher, queue=0) as runtime:
        making = await runtime.start("print made", "rust")
        await until(making, Preparing)

        result = await runtime.run("print x", "bash")
        launcher.made.set()

        assert result.stdout == "x\n"
        assert (await making.wait()).stdout == "made\n"


async def test_run_that_has_ended_keeps_no_job(runtime: AsyncRuntime) -> None:
    files = (InputFile("large", b"x" * MIB),)
    execution = await runtime.start("print x", "bash", files=files, stdin=b"y" * MIB)

    await execution.wait()

    gc.collect()
    assert not [item for item in gc.get_objects() if isinstance(item, JobRequest)]
    assert execution.outcome is not None


async def test_outcome_is_known_although_nobody_takes_the_events(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("print x\nexit 3", "bash")

    await execution.wait_ended()

    assert isinstance(execution.outcome, Result)
    assert execution.outcome.code == 3
    assert execution.pending_bytes == 2


async def test_cancelling_while_the_machine_ends_keeps_the_result(
    monkeypatch: pytest.MonkeyPatch, runtime: AsyncRuntime
) -> None:
    ending, end = asyncio.Event(), asyncio.Event()
    stop = FakeMachine.stop

    async def slow(machine: FakeMachine) -> None:
        ending.set()
        await wait_until(end.is_set, "the test lets the machine end")
        await stop(machine)

    monkeypatch.setattr(FakeMachine, "stop", slow)
    execution = await runtime.start("write out.txt made\nexit 3", "bash", outputs=("out.txt",))
    await wait_until(ending.is_set, "the machine is being stopped")

    cancelling = asyncio.create_task(execution.cancel())
    await asyncio.sleep(0)
    early = cancelling.done()
    end.set()
    await cancelling
    result = await execution.wait()

    assert not early
    assert (result.verdict, result.code) == ("failed", 3)
    assert result.files[0].data is not None


async def test_wanted_files_come_with_the_end(runtime: AsyncRuntime) -> None:
    execution = await runtime.start(
        "write out.txt made\ncat in.txt",
        "bash",
        files=(InputFile("in.txt", b"given"),),
        outputs=("out.txt", "other"),
    )

    files = {file.path: file for file in await execution.files()}

    assert files["out.txt"].data is not None
    assert files["out.txt"].data.rstrip() == b"made"
    assert files["other"].data is None
    assert files["other"].missing


async def test_closed_runtime_starts_nothing(launcher: FakeLauncher) -> None:
    runtime = AsyncRuntime(images=launcher, launcher=launcher)
    execution = await runtime.start("forever", "bash")

    await runtime.aclose()

    assert (await execution.wait()).verdict == "cancelled"
    with pytest.raises(Busy, match="has been closed"):
        await runtime.start("print x", "bash")


async def test_draining_lets_runs_end(launcher: FakeLauncher) -> None:
    runtime = AsyncRuntime(images=launcher, launcher=launcher, max_machines=1)
    executions = [await runtime.start(f"print {number}", "bash") for number in range(3)]

    await runtime.drain(60)

    assert [(await e.wait()).stdout for e in executions] == ["0\n", "1\n", "2\n"]
    with pytest.raises(Busy, match="about to end"):
        await runtime.start("print x", "bash")


async def test_draining_has_an_end(launcher: FakeLauncher) -> None:
    runtime = AsyncRuntime(images=launcher, launcher=launcher)
    execution = await runtime.start("forever", "bash")

    await runtime.drain(0.01)

    assert (await execution.wait()).verdict == "cancelled"
    assert not launcher.machines


async def test_languages_are_listed(runtime: AsyncRuntime) -> None:
    listed = {language.name: language for language in await runtime.languages()}

    assert listed.keys() >= {"bash", "c", "c++", "go", "javascript", "python", "rust"}
    assert "py" in listed["python"].aliases
    assert ".py" in listed["python"].suffixes


async def test_languages_tell_the_toolchains_of_their_images(
    launcher: FakeLauncher, tmp_path: Path
) -> None:
    store = ImageStore(tmp_path / "store")
    debian = {"packages": [{"name": "rustc", "version": "1.63.0+dfsg1-2"}]}
    registry = {"config": {"environment": {"RUST_VERSION": "1.80.1"}}}
    put_image(store, "rust", architecture=machine_architecture(), told=debian)
    put_image(store, "rust@1.80", architecture=machine_architecture(), told=registry)
    runtime = AsyncRuntime(store=store.root, images=launcher, launcher=launcher)

    before = {language.name: language for language in await runtime.languages()}["rust"]
    store.set_default("rust@1.80")
    after = {language.name: language for language in await runtime.languages()}["rust"]

    assert before.versions == after.versions == ("1.80",)
    assert (before.toolchain, before.toolchains) == ("rustc 1.63.0", {"1.80": "rustc 1.80.1"})
    assert (after.toolchain, after.built) == ("rustc 1.80.1", True)


async def test_languages_are_those_of_the_default_architecture(
    launcher: FakeLauncher, tmp_path: Path
) -> None:
    store = ImageStore(tmp_path / "store")
    for version, arch in (("1.63.0", "amd64"), ("1.80.1", "arm64")):
        debian = {"packages": [{"name": "rustc", "version": f"{version}+dfsg1-2"}]}
        put_image(store, "rust", version.encode(), arch, told=debian)
    put_image(store, "go", architecture="arm64")
    found = {}
    for arch in ("amd64", "arm64"):
        runtime = AsyncRuntime(store=store.root, arch=arch, images=launcher, launcher=launcher)
        found[arch] = {language.name: language for language in await runtime.languages()}

    assert found["amd64"]["rust"].toolchain == "rustc 1.63.0"
    assert found["arm64"]["rust"].toolchain == "rustc 1.80.1"
    assert [found[arch]["go"].built for arch in ("amd64", "arm64")] == [False, True]
    assert found["amd64"]["go"].architectures == ("arm64",)
    assert found["arm64"]["rust"].architectures == ("amd64", "arm64")
    assert found["arm64"]["c"].architectures == ()


async def test_default_architecture_holds_for_runs_that_name_none(launcher: FakeLauncher) -> None:
    async with AsyncRuntime(arch="arm64", images=launcher, launcher=launcher) as runtime:
        await runtime.run("x", "bash")
        await runtime.run("x", "bash", arch="amd64")
        async with runtime.session("bash"):
            pass

    assert [options.arch for options in launcher.options] == ["arm64", "amd64", "arm64"]


async def test_default_kernel_holds_for_runs_that_name_none(launcher: FakeLauncher) -> None:
    async with AsyncRuntime(kernel="small", images=launcher, launcher=launcher) as runtime:
        await runtime.run("x", "bash")
        await runtime.run("x", "bash", kernel="debian")
        async with runtime.session("bash"):
            pass

    assert [options.kernel for options in launcher.options] == ["small", "debian", "small"]


def test_a_runtime_has_no_kernel_but_those_of_the_store() -> None:
    with pytest.raises(InputError, match="kernel is 'vmlinux'") as caught:
        AsyncRuntime(kernel="vmlinux")

    assert caught.value.hint == "Use one of: debian, small."


@pytest.mark.usefixtures("bash", "installed_qemu")
async def test_real_machine_runs_and_is_cancelled() -> None:
    async with AsyncRuntime(machine="qemu") as runtime:
        execution = await runtime.start('echo "hello $(cat)"; sleep 600', "bash", stdin=None)
        await execution.stdin.write(b"world")
        await execution.stdin.close()
        events = await until(execution, Output)

        await execution.cancel()
        result = await execution.wait()

    assert Started("qemu") in events
    assert events[-1] == Output("run", "stdout", b"hello world\n")
    assert result.verdict == "cancelled"


@pytest.mark.usefixtures("bash", "installed_qemu")
async def test_signal_reaches_a_program_in_a_real_machine() -> None:
    source = """\
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: sys.exit("caught"))
print("ready", flush=True)
while True:
    signal.pause()
"""
    async with AsyncRuntime(machine="qemu") as runtime:
        execution = await runtime.start(source, "python")
        await until(execution, Output)

        await execution.signal(signal.SIGUSR1)
        result = await execution.wait()

    assert (result.stderr, result.code) == ("caught\n", 1)


@pytest.mark.usefixtures("bash")
async def test_host_error_is_raised_by_the_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    async with AsyncRuntime(machine="qemu") as runtime:
        execution = await runtime.start("echo x", "bash")

        with pytest.raises(HostError, match="QEMU is not installed"):
            await execution.wait()

        assert runtime.load.machines == 0
