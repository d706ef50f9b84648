"""What a caller may ask for, and how it is told what it may not."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slipway
from slipway._jobs import describe_job
from slipway._request import (
    MAX_ARGUMENT_BYTES,
    MAX_ENVIRONMENT_BYTES,
    MAX_FILES,
    MAX_SECONDS,
    MAX_SOURCE,
    InputFile,
    Options,
    check_guest_path,
    check_source,
    read_local,
)
from slipway_initramfs import languages
from slipway_protocol.codec import decode, encode
from slipway_protocol.messages import File
from slipway_protocol.schema import HOST_TO_AGENT

if TYPE_CHECKING:
    from pathlib import Path


def check(**options: Any) -> None:
    Options(**options).check("main.py")


# --- Sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "empty"),
        (b" \t\r\n", "empty"),
        (b"print()\0", "NUL at byte 7"),
        (b"x" * (MAX_SOURCE + 1), str(MAX_SOURCE)),
        (b"one\ntwo \xff", r"line 2\) is 0xff"),
        (b"\xff\xfep\0r\0i\0", "binary"),
    ],
)
def test_source_that_is_none(source: bytes, words: str) -> None:
    with pytest.raises(slipway.InputError, match=words):
        check_source(source)


def test_source_at_its_limits() -> None:
    check_source(b"x" * MAX_SOURCE)
    check_source("print('☃')\r\n".encode())


def test_source_of_the_sdk_may_be_no_text_at_all() -> None:
    with pytest.raises(slipway.InputError, match="UTF-8"):
        slipway.run("print('\udcff')", "python")


# --- Options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timeout", "build_timeout", "cpu_time"])
@pytest.mark.parametrize("value", [0, -1, -0.001, float("nan"), float("inf"), MAX_SECONDS * 1.001])
def test_time_that_is_none(name: str, value: float) -> None:
    with pytest.raises(slipway.InputError, match=name):
        check(**{name: value})


@pytest.mark.parametrize("name", ["memory", "memory_limit", "processes", "output_limit"])
@pytest.mark.parametrize("value", [0, -1, 1 << 60])
def test_size_that_is_none(name: str, value: int) -> None:
    with pytest.raises(slipway.InputError, match=name):
        check(**{name: value})


@pytest.mark.parametrize("cpus", [0, -1, 9])
def test_processors_that_are_too_many_or_few(cpus: int) -> None:
    with pytest.raises(slipway.InputError, match="cpus"):
        check(cpus=cpus)


@pytest.mark.parametrize(
    "options",
    [
        {"arguments": ("a\0b",)},
        {"arguments": ("x" * (MAX_ARGUMENT_BYTES + 1),)},
        {"arguments": ("x",) * 513},
        {"arguments": ("\ud800",)},
        {"environment": (("A B", "x"),)},
        {"environment": (("", "x"),)},
        {"environment": (("1A", "x"),)},
        {"environment": (("A", "x\0"),)},
        {"environment": (("A", "\ud800"),)},
        {"environment": (("A", "x" * MAX_ENVIRONMENT_BYTES),)},
        {"outputs": ("a", "a")},
        {"outputs": ("../a",)},
        {"outputs": tuple(map(str, range(65)))},
        {"files": (InputFile("a", b""), InputFile("a", b""))},
        {"files": (InputFile("main.py", b""),)},
        {"files": (InputFile("a", b""), InputFile("a/b/c", b""))},
        {"files": (InputFile("main.py/x", b""),)},
        {"files": (InputFile("a", b"", 0o100644),)},
        {"files": (InputFile("a", b"", -1),)},
        {"files": tuple(InputFile(str(number), b"") for number in range(MAX_FILES + 1))},
    ],
    ids=lambda options: f"{options!r:.50}",
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(slipway.InputError):
        check(**options)


def test_unknown_option_is_told() -> None:
    with pytest.raises(slipway.InputError, match="speed"):
        slipway.run("print()", "python", speed=11)


def test_unknown_language_is_told_with_the_nearest() -> None:
    with pytest.raises(slipway.InputError) as caught:
        slipway.run("print()", "pythn")
    assert "python" in caught.value.hint


# --- Paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a//b", "a/"),
        *("a\0b", "\ud800", "x" * 256, "é" * 128, "/".join(["x" * 200] * 21)),
    ],
)
def test_path_that_leaves_the_directory_or_is_none(path: str) -> None:
    with pytest.raises(slipway.InputError):
        check_guest_path(path)


@given(st.text(st.sampled_from("ab./\0é\udcff\ud800 -"), max_size=12))
def test_path_that_is_taken_stays_inside_and_can_be_sent(path: str) -> None:
    try:
        check_guest_path(path)
    except slipway.InputError:
        return
    assert posixpath.normpath(posixpath.join("/work", path)) == f"/work/{path}"
    message = File(1, path, 0o644, 0)
    assert decode(encode(message), HOST_TO_AGENT) == message


@given(
    st.lists(st.text(max_size=20000), max_size=20),
    st.lists(st.tuples(st.from_regex("[A-Z]{1,8}", fullmatch=True), st.text()), max_size=5),
    st.integers(1, 1 << 64),
    st.floats(allow_nan=True),
)
def test_options_that_are_taken_can_be_sent(
    arguments: list[str], environment: list[tuple[str, str]], size: int, seconds: float
) -> None:
    options = Options(
        arguments=tuple(arguments),
        environment=tuple(environment),
        processes=size,
        memory_limit=size,
        output_limit=size,
        timeout=seconds,
        cpu_time=seconds,
    )
    language = languages.by_name("rust")
    try:
        options.check(language.source)
    except slipway.InputError:
        return
    job, _ = describe_job(language, b"x", options, with_stdin=True)
    assert decode(encode(job), HOST_TO_AGENT) == job


def test_largest_options_fit_into_one_message() -> None:
    options = Options(
        arguments=("\udcff" * (MAX_ARGUMENT_BYTES - 1),),
        environment=(("A", "é" * ((MAX_ENVIRONMENT_BYTES - 1) // 2)),),
        outputs=tuple(f"{number:062d}" for number in range(64)),
    )
    options.check("main.rs")

    job, _ = describe_job(languages.by_name("rust"), b"x", options, with_stdin=True)

    assert decode(encode(job), HOST_TO_AGENT) == job


# --- The caller's files --------------------------------------------------------------------------


def test_local_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"12345")

    assert read_local(path, 5, "input") == b"12345"
    with pytest.raises(slipway.InputError, match="more than 4"):
        read_local(path, 4, "input")


def test_local_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "x" / "y", tmp_path / "a\0b"):
        with pytest.raises(slipway.InputError):
            read_local(path, 5, "input")


@pytest.mark.parametrize(
    "options",
    [{"timeout": "5"}, {"environment": 7}, {"arguments": (1,)}, {"cpus": None}, {"files": ("x",)}],
)
def test_option_of_the_wrong_type_is_the_callers_mistake(options: dict[str, Any]) -> None:
    with pytest.raises(slipway.InputError, match="wrong type"):
        slipway.run("print(1)", "python", **options)
