"""What a caller may ask for, and how it is told what it may not."""

from __future__ import annotations

import posixpath
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slipway
from slipway._model.arguments import stream_bytes
from slipway._model.bounds import (
    MAX_ARGUMENT_BYTES,
    MAX_ENVIRONMENT_BYTES,
    MAX_FILES,
    check_files,
    check_guest_path,
)
from slipway._model.input_file import InputFile
from slipway._model.options import (
    MAX_SECONDS,
    MAX_SOURCE,
    OPTIONS,
    Options,
    check_source,
    read_local_file,
)
from slipway._run.job_message import build_job_message
from slipway._run.job_request import JobRequest
from slipway_initramfs.languages import catalogue
from slipway_protocol.codec import decode, encode
from slipway_protocol.messages import File
from slipway_protocol.schema import HOST_TO_AGENT


def check(**options: Any) -> None:
    Options(**options).check("main.py")


# --- Sources -----------------------------------------------------------------------------------


def test_source_that_is_too_long() -> None:
    with pytest.raises(slipway.InputError, match=f"{MAX_SOURCE + 1} bytes, and at most 4 MiB"):
        check_source(b"x" * (MAX_SOURCE + 1))


@pytest.mark.parametrize(
    "source", [b"", b" \t\r\n", b"print()\0", b"one\ntwo \xff", b"x" * MAX_SOURCE]
)
def test_source_whose_bytes_are_for_its_own_tools_to_judge(source: bytes) -> None:
    check_source(source)


# --- Options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timeout", "build_timeout", "cpu_time", "build_cpu_time"])
@pytest.mark.parametrize("value", [0, -1, -0.001, float("nan"), float("inf"), MAX_SECONDS * 1.001])
def test_time_that_is_none(name: str, value: float) -> None:
    with pytest.raises(slipway.InputError, match=name):
        check(**{name: value})


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((0, 80), "rows of a terminal is 0"),
        ((24, 65536), "columns of a terminal is 65536"),
        (("24", 80), "rows of a terminal is '24', and must be an integer"),
        ((24, True), "columns of a terminal is True"),
        ((24, None), "columns of a terminal is None"),
    ],
)
def test_size_of_a_terminal_that_is_none(size: Any, words: str) -> None:
    with pytest.raises(slipway.InputError, match=words):
        slipway.Tty(*size)


@pytest.mark.parametrize("value", [1, None, "80x24", (24, 80)])
def test_terminal_that_is_none(value: Any) -> None:
    with pytest.raises(slipway.InputError, match=r"tty is .*, and must be a Tty"):
        check(tty=value)


def test_terminal_as_it_is_asked_for() -> None:
    assert Options(tty=True).tty == slipway.Tty(24, 80)
    assert Options(tty=slipway.Tty(columns=132)).tty == slipway.Tty(24, 132)
    assert Options(tty=False) == Options()


@pytest.mark.parametrize(
    "name",
    ["memory", "memory_limit", "build_memory_limit", "processes", "open_files", "file_size",
     "output_limit"],
)  # fmt: skip
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
        {"environment": (("", "x"),)},
        {"environment": (("A=", "x"),)},
        {"environment": (("A\0", "x"),)},
        {"environment": (("é" * 128, "x"),)},
        {"environment": tuple((str(number), "x") for number in range(129))},
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
    with pytest.raises(slipway.InputError) as caught:
        check(**options)
    assert caught.value.hint


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.choices])
def test_word_that_is_no_choice_is_told_with_the_choices(name: str) -> None:
    with pytest.raises(slipway.InputError, match=f"^{name} is 'AUTO'") as caught:
        check(**{name: "AUTO"})

    assert caught.value.hint == f"Use one of: {', '.join(OPTIONS[name].choices)}."


@pytest.mark.parametrize("name", ["a.b", "my-var", "1", "A B", "é", "x" * 255, "BASH_FUNC_f%%"])
def test_variable_may_be_called_as_linux_lets_it(name: str) -> None:
    check(environment={name: ""})


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
    with pytest.raises(slipway.InputError, match=r"^outputs "):
        check_guest_path("outputs", path)


@pytest.mark.parametrize("below", ["a/b", "main.py/x", "d/e/f/x/y"])
def test_file_cannot_lie_below_another(below: str) -> None:
    files = tuple(InputFile(path, b"") for path in ("a", "a-b", "d/e/f", "d/e/f.x", below))

    with pytest.raises(slipway.InputError, match=r"^files has .* needs a directory where"):
        check_files(files, "main.py")


def test_files_with_like_names_go_together() -> None:
    names = ("a-b", "a/b", "a/b-c", "a/bc/d", "a.b", "main.py-x/y")

    check_files(tuple(InputFile(path, b"") for path in names), "main.py")


@given(st.text(st.sampled_from("ab./\0é\udcff\ud800 -"), max_size=12))
def test_path_that_is_taken_stays_inside_and_can_be_sent(path: str) -> None:
    try:
        check_guest_path("outputs", path)
    except slipway.InputError:
        return
    assert posixpath.normpath(posixpath.join("/work", path)) == f"/work/{path}"
    message = File(1, path, 0o644, 0)
    assert decode(encode(message), HOST_TO_AGENT) == message


@given(
    st.lists(st.text(max_size=20000), max_size=20),
    st.lists(st.tuples(st.text(), st.text()), max_size=5),
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
    language = catalogue.find_language("rust")
    try:
        options.check(language.source)
    except slipway.InputError:
        return
    job, _ = build_job_message(JobRequest(language, b"x", options, stream_bytes(b"")))
    assert decode(encode(job), HOST_TO_AGENT) == job


def test_largest_options_fit_into_one_message() -> None:
    options = Options(
        arguments=("\udcff" * (MAX_ARGUMENT_BYTES - 1),),
        environment=(("A", "é" * ((MAX_ENVIRONMENT_BYTES - 1) // 2)),),
        outputs=tuple(f"{number:062d}" for number in range(64)),
    )
    options.check("main.rs")

    job, _ = build_job_message(
        JobRequest(catalogue.find_language("rust"), b"x", options, stream_bytes(b""))
    )

    assert decode(encode(job), HOST_TO_AGENT) == job


# --- The caller's files --------------------------------------------------------------------------


def test_local_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"12345")

    assert read_local_file(path, 5, "input") == b"12345"
    with pytest.raises(slipway.InputError, match="more than 4 bytes"):
        read_local_file(path, 4, "input")


def test_local_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "x" / "y", tmp_path / "a\0b"):
        with pytest.raises(slipway.InputError):
            read_local_file(path, 5, "input")


class Hostile:
    """Nothing of it can be asked for."""

    def __repr__(self) -> str:
        raise AssertionError

    __str__ = __repr__


VALUES: tuple[Any, ...] = (
    *(None, True, 5, -1, 0, 10**5000, 2.5, float("nan"), float("inf"), 1j, Decimal(5)),
    *("5", "", "a\0b", "\ud800", b"5", bytearray(b"5"), Path("5"), Hostile(), object, [], (), {}),
    *(["a"], ("a", b"b"), [["A", "b"]], [("A", 5)], [(1, "b")], [("A",)], {"A": "b"}, {"A": 5}),
    *({1: "b"}, {"a", "b"}, count(), [InputFile("a", b"")], ["a", None], [None]),
)


# What the errors about one of several call it.
WORDS = {
    "outputs": "outputs|path|file",
}


@pytest.mark.parametrize("name", Options.__dataclass_fields__)
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_value_of_any_type_is_taken_or_told_by_the_options_name(name: str, number: int) -> None:
    options = {name: VALUES[number]}
    try:
        slipway.Options(**options).check("main.py")
    except slipway.InputError:
        with pytest.raises(slipway.InputError, match=WORDS.get(name, name)) as caught:
            slipway.Options(**options).check("main.py")
        assert len(caught.value.message) < 300
    else:
        job, _ = build_job_message(
            JobRequest(
                catalogue.find_language("rust"), b"x", slipway.Options(**options), stream_bytes(b"")
            )
        )
        assert decode(encode(job), HOST_TO_AGENT) == job


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": "5"}, "timeout is '5', and must be a number"),
        ({"timeout": True}, "timeout is True, and must be a number"),
        ({"cpu_time": 10**400}, "cpu_time is inf, and must be more than 0"),
        ({"memory": 2.5}, "memory is 2.5, and must be an integer"),
        ({"memory": 10**5000}, "memory is an integer of 16610 bits"),
        ({"processes": False}, "processes is False"),
        ({"cpus": None}, "cpus is None, and must be an integer"),
        ({"kill_on_output": 1}, "kill_on_output is 1, and must be True or False"),
        ({"kernel": str}, "kernel is of type type, and must be a path"),
        ({"kernel": "a\0"}, "kernel is 'a.x00', which is not a valid path"),
        ({"machine": None}, "machine is None, and must be a text"),
        ({"arguments": "text"}, "arguments is one text"),
        ({"arguments": 7}, "arguments is 7, and must be a list or a tuple"),
        ({"arguments": ["a", 1]}, r"arguments\[1\] is 1, and must be a text"),
        ({"arguments": [b"a"]}, r"arguments\[0\] is of type bytes"),
        ({"arguments": count()}, "arguments has more than"),
        ({"environment": 7}, "environment is 7"),
        ({"environment": {"A": 5}}, r"environment\['A'\] is 5, and must be a text"),
        ({"environment": [("A", 5)]}, r"environment\[0\]\[1\] is 5, and must be a text"),
        ({"environment": [("A",)]}, r"environment\[0\] has 1 items, and must have 2"),
        ({"files": ["x"]}, r"files\[0\] is 'x', and must be an InputFile"),
        ({"files": InputFile("a", b"")}, "files is of type InputFile, and must be a list"),
        ({"speed": 11}, "unknown option 'speed'"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_wrong_value_is_the_callers_mistake(options: dict[str, Any], words: str) -> None:
    with pytest.raises(slipway.InputError, match=words) as caught:
        slipway.run("print(1)", "python", **options)
    assert caught.value.hint


def test_option_that_is_nearly_right_is_meant() -> None:
    with pytest.raises(slipway.InputError) as caught:
        slipway.run("print(1)", "python", time_out=5)
    assert caught.value.hint == "Did you mean 'timeout'?"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, b""), "path of an InputFile is 1, and must be a text"),
        (("a", 1), "data of an InputFile is 1, and must be bytes or a text"),
        (("a", Path("local")), "data of an InputFile is of type"),
        (("a", "\ud800"), "data of an InputFile cannot be encoded"),
        (("a", b"", "644"), "mode of an InputFile is '644', and must be an integer"),
    ],
    ids=repr,
)
def test_file_of_the_wrong_type_cannot_be(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(slipway.InputError, match=words):
        InputFile(*arguments)


def test_values_are_taken_as_what_is_meant() -> None:
    assert InputFile(Path("a/b"), "é\udcff") == InputFile("a/b", b"\xc3\xa9\xff", 0o644)
    options = slipway.Options(
        arguments=["a", Path("b")],  # type: ignore[arg-type]
        environment={"A": "b"},  # type: ignore[arg-type]
        outputs=iter([Path("c/d")]),  # type: ignore[arg-type]
        kernel="vmlinux",
        timeout=5,
    )
    assert options == slipway.Options(
        arguments=("a", "b"),
        environment=(("A", "b"),),
        outputs=("c/d",),
        kernel=Path("vmlinux"),
        timeout=5.0,
    )
