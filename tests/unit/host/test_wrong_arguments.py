"""Every public callable with values of every type: an InputError names what is wrong."""

from __future__ import annotations

import asyncio
import inspect
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import slipway
from slipway import AsyncClient, AsyncRuntime, Client, Runtime
from support.fake_machine import FakeLauncher, fake_machines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


class Hostile:
    """Of no type that is wanted; whoever prints it fails."""

    def __repr__(self) -> str:
        raise AssertionError

    __str__ = __repr__


NUMBERS = (True, 5, -1, 10**5000, 2.5, float("nan"), float("-inf"))
VALUES: tuple[Any, ...] = (
    *(*NUMBERS, 1j, "5", "a\0b", "\ud800", "x" * 999, b"5", Path("/nonexistent/file.py")),
    *(Path("a\0b"), Hostile(), str, [], {}, [5], ["a"], {"a": 5}, count()),
)
RUN = ("source", "language", "stdin", "key", "on_output", "timeout", "memory", "files", "nonsense")
START = tuple(name for name in RUN if name != "on_output")
SESSION = ("language", "key", "idle_seconds", "memory", "cpus", "machine", "kernel", "timeout")
CALLS = [
    *(("run", name) for name in RUN),
    *(("start", name) for name in START),
    *(("session", name) for name in SESSION),
]
GOOD = {"source": "print x", "language": "bash"}
SERVER = "/nonexistent/socket"
# The other words by which an error may name what is wrong.
WORDS = {
    "language": "version|reference",
    "source": "cannot read|no language has",
    "files": "file",
    "warm": "unknown language",
}


def values_for(name: str) -> Iterator[Any]:
    """The values that are tried; what a function of the caller's raises is the caller's own."""
    return (
        value
        for value in VALUES
        if not (name in {"on_output", "progress", "launcher"} and callable(value))
    )


def check_told(error: slipway.InputError, name: str) -> None:
    said = f"{error.message} {error.hint}"
    assert len(said) < 600
    assert any(word in said for word in (name, *WORDS.get(name, name).split("|"))), said


async def check(call: Callable[..., Any], name: str, given: dict[str, Any]) -> None:
    """Check that what a call raises is what is promised."""
    try:
        made = call(**given)
        if inspect.isawaitable(made):
            made = await made
    except slipway.InputError as error:
        check_told(error, name)
    except slipway.HostError:
        pass  # the value was right, and a server is missing
    else:
        if isinstance(made, slipway.AsyncExecution):
            await made.cancel()


def check_blocking(call: Callable[..., Any], name: str, given: dict[str, Any]) -> None:
    asyncio.run(asyncio.to_thread(lambda: asyncio.run(check(call, name, given))))


@pytest.fixture
async def runtime() -> AsyncIterator[AsyncRuntime]:
    async with AsyncRuntime(**fake_machines()) as made:
        yield made


@pytest.mark.parametrize(("call", "name"), CALLS)
async def test_calls_of_a_runtime(runtime: AsyncRuntime, call: str, name: str) -> None:
    good = {"language": "bash"} if call == "session" else GOOD
    for value in values_for(name):
        await check(getattr(runtime, call), name, {**good, name: value})


@pytest.mark.parametrize(("call", "name"), CALLS)
async def test_calls_of_a_client(call: str, name: str) -> None:
    good = {"language": "bash"} if call == "session" else GOOD
    async with AsyncClient(SERVER) as client:
        for value in values_for(name):
            await check(getattr(client, call), name, {**good, name: value})


@pytest.mark.parametrize("name", ["source", "stdin", "timeout", "arguments", "language", "memory"])
async def test_runs_of_a_session(runtime: AsyncRuntime, name: str) -> None:
    async with runtime.session("bash") as session:
        for value in values_for(name):
            await check(session.start, name, {"source": "print x", name: value})


async def test_calls_of_a_handle(runtime: AsyncRuntime) -> None:
    async with await runtime.start("forever", "bash", stdin=None) as execution:
        while not isinstance(await anext(execution), slipway.PhaseStarted):
            pass
        for value in values_for("data"):
            await check(execution.stdin.write, "data", {"data": value})
            if value != 5:
                await check(execution.signal, "signal", {"number": value})


async def test_end_of_a_runtime() -> None:
    for value in values_for("seconds"):
        await check(AsyncRuntime(**fake_machines()).drain, "seconds", {"seconds": value})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in (Runtime, Client, AsyncRuntime, AsyncClient)
        for name in inspect.signature(kind).parameters
        if name != "launcher"
    ],
)
def test_what_is_made(kind: type[Any], name: str) -> None:
    good = {"path": SERVER} if "path" in inspect.signature(kind).parameters else {}
    for value in values_for(name):
        try:
            made = kind(**{**good, name: value})
        except slipway.InputError as error:
            check_told(error, name)
        except slipway.HostError:
            pass
        else:
            asyncio.run(made.aclose()) if hasattr(made, "aclose") else made.close()


def test_calls_without_a_loop() -> None:
    def check(call: Callable[..., Any], name: str, **good: Any) -> None:
        for value in values_for(name):
            try:
                call(**{**good, name: value})
            except slipway.InputError as error:
                if "no-such-language" not in error.message:
                    check_told(error, name)
            except (slipway.HostError, TimeoutError):
                pass

    with Runtime(**fake_machines()) as runtime:
        for name in ("source", "language", "stdin", "on_output", "key", "files"):
            check(runtime.run, name, **GOOD)
        with runtime.session("bash") as session:
            check(session.run, "stdin", source="print x")
        with runtime.start("trap 5\nforever", "bash", stdin=None) as execution:
            check(execution.stdin.write, "data")
            for value in values_for("timeout"):
                if value != 5 and value not in NUMBERS[3:5]:
                    with pytest.raises((slipway.InputError, TimeoutError)):
                        execution.wait(value)
    for name in ("source", "stdin", "on_output", "store", "progress", "timeout", "nonsense"):
        check(slipway.run, name, **{**GOOD, "language": "no-such-language"})


async def test_function_that_takes_something_else_is_told_before_the_run() -> None:
    launcher = FakeLauncher()
    async with AsyncRuntime(images=launcher, launcher=launcher) as runtime:
        with pytest.raises(slipway.InputError, match="on_output cannot be called"):
            await runtime.run("print x", "bash", on_output=lambda data: None)  # type: ignore
    assert launcher.launched == 0


def test_coroutine_function_has_nobody_who_awaits_it() -> None:
    async def on_output(phase: str, stream: str, data: bytes) -> None: ...

    with (
        Runtime(**fake_machines()) as runtime,
        pytest.raises(slipway.InputError, match="coroutine function"),
    ):
        runtime.run("print x", "bash", on_output=on_output)


# --- What is right -------------------------------------------------------------------------------


async def test_texts_are_taken_for_bytes(runtime: AsyncRuntime) -> None:
    async def lines() -> AsyncIterator[str]:
        yield "é"
        yield "!"

    assert (await runtime.run("echo", "bash", stdin="é\udcff")).run is not None
    assert (await runtime.run("echo", "bash", stdin=lines())).stdout == "é!"
    files = [slipway.InputFile(Path("a"), "text")]
    assert (await runtime.run("cat a", "bash", files=files)).stdout == "text"
    execution = await runtime.start("read 3", "bash", stdin=None)
    await execution.stdin.write("né")
    assert (await execution.wait()).stdout == "né"


async def test_path_is_a_source_and_tells_its_language(
    runtime: AsyncRuntime, tmp_path: Path
) -> None:
    path = tmp_path / "program.sh"
    path.write_text("print from the file")

    result = await runtime.run(path)

    assert (result.language, result.stdout) == ("bash", "from the file\n")
    assert (await runtime.run(path, "python")).language == "python"
    async with runtime.session("python") as session:
        assert (await session.run(path)).stdout == "from the file\n"


async def test_text_is_never_a_path(runtime: AsyncRuntime) -> None:
    with pytest.raises(slipway.InputError, match="language is None"):
        await runtime.run("program.sh")


async def test_listener_may_be_a_plain_function(runtime: AsyncRuntime) -> None:
    heard = list[Any]()

    await runtime.run("print x", "bash", on_output=lambda *told: heard.append(told))

    assert heard == [("run", "stdout", b"x\n")]


def test_version_is_told() -> None:
    assert slipway.__version__.count(".") == 2
