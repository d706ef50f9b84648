"""Which files of a job its build is told of, and what source and program are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slipway
from slipway._model.arguments import stream_bytes
from slipway._model.bounds import MAX_FILES
from slipway._model.input_file import InputFile
from slipway._model.options import Options
from slipway._remote.answers import find_language_by_suffix
from slipway._run.job_message import Surroundings, build_job_message
from slipway._run.job_request import JobRequest
from slipway._sources import MAX_SOURCE_NAMES, check_source_names, keep_names
from slipway._sources.arrangement import MAX_KEPT_NAMES
from slipway._sources.include import MAX_READ, find_included
from slipway_initramfs.languages import catalogue
from slipway_protocol.codec import decode, encode
from slipway_protocol.schema import HOST_TO_AGENT, MAX_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway_initramfs.languages.language import Language


def c() -> Language:
    return catalogue.find_language("c")


def list_build(
    language: str,
    source: str,
    files: Mapping[str, str] = MappingProxyType({}),
    taken: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """The build's command for a source with files."""
    beside = tuple(InputFile(path, text.encode()) for path, text in files.items())
    options = Options(files=beside)
    job, _ = build_job_message(
        JobRequest(catalogue.find_language(language), source.encode(), options),
        Surroundings(taken=taken),
    )
    assert job.build is not None
    return job.build.argv


def sources(language: str, source: str, files: Mapping[str, str]) -> list[str]:
    """What the build is told of: what stands where it does for a source alone."""
    alone = list_build(language, "")
    argv = list_build(language, source, files)
    at = next(number for number, word in enumerate(alone) if word.startswith("main."))
    return list(argv[at : len(argv) - len(alone) + at + 1])


# --- C and C++ -----------------------------------------------------------------------------------


def test_all_sources_of_a_job_are_compiled_wherever_they_are() -> None:
    files = {"b.c": "", "a.c": "", "lib/c.c": "", "d.h": "", "e.cc": "", "notes.c.txt": ""}

    assert sources("c", "", files) == ["main.c", "a.c", "b.c", "lib/c.c"]


@pytest.mark.parametrize("suffix", [".cpp", ".cc", ".cxx", ".c++", ".cp", ".C", ".c"])
def test_each_suffix_of_cpp_is_compiled(suffix: str) -> None:
    assert sources("c++", "", {f"more{suffix}": ""}) == ["main.cpp", f"more{suffix}"]


@pytest.mark.parametrize("name", ["-x.c", "@list.c", "-directory/x.c"])
def test_name_that_looks_like_an_option_is_none(name: str) -> None:
    assert sources("c", "", {name: ""}) == ["main.c", f"./{name}"]


def test_name_with_spaces_is_one_argument() -> None:
    assert sources("c", "", {"two words.c": ""}) == ["main.c", "two words.c"]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ('#include "x.c"', {}),
        (' # include\t"./x.c"', {}),
        ('#include "all.h"', {"all.h": '#include "x.c"'}),
        ('#include "d/all.h"', {"d/all.h": '#include "../x.c"'}),
        ("", {"y.c": '#include "x.c"\n'}),
        ('char *s = "/*"; // src/*.c\n#include "x.c"', {}),
        ('char c = \'"\';\n#include "x.c"', {}),
    ],
)
def test_source_that_another_includes_is_no_source_of_its_own(
    source: str, files: dict[str, str]
) -> None:
    assert "x.c" not in sources("c", source, {"x.c": "int x;", **files})


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ('// #include "x.c"', {}),
        ('/*\n#include "x.c"\n*/', {}),
        ('char *s = "\\\n#include \\"x.c\\"";', {}),
        ("#include <x.c>", {}),
        ("", {"README.md": '#include "x.c"'}),
        ("", {"d/y.c": '#include "x.c"'}),
        ('#include "../x.c"', {}),
    ],
)
def test_source_that_none_includes_is_compiled(source: str, files: dict[str, str]) -> None:
    assert "x.c" in sources("c", source, {"x.c": "int x;", **files})


def test_main_source_is_compiled_even_if_it_is_included() -> None:
    assert sources("c", '#include "a.c"', {"a.c": '#include "main.c"'}) == ["main.c"]


@pytest.mark.parametrize(
    "text", [b"/*", b'"', b"'", b'"\\', b"//", b"#include ", b'#include "', b'\\"']
)
def test_hostile_text_takes_no_longer_than_other_text(text: bytes) -> None:
    data = b"include" + text * (MAX_READ // len(text))

    assert find_included(["a"], {"a": data}) == frozenset()


def test_of_all_text_only_so_much_is_read() -> None:
    late = {"main.c": b" " * MAX_READ + b'\n#include "x.c"', "x.c": b""}

    assert find_included(["main.c"], late) == frozenset()


# --- Names ---------------------------------------------------------------------------------------


def test_of_a_sessions_files_only_names_that_could_be_ours_are_kept() -> None:
    names = ("main/a", "main-2", "main.mjs", "package.json", "data", "parts/main")
    beside = tuple(InputFile(name, b"") for name in names)

    kept = keep_names(frozenset({"main-1"}), catalogue.find_language("javascript"), beside)

    assert kept == {"main-1", "main", "main-2", "main.mjs", "package.json"}


def test_names_of_a_session_without_end_are_bounded() -> None:
    kept: frozenset[str] = frozenset()
    for run in range(100):
        files = (InputFile(f"main-{run}-{number}", b"") for number in range(MAX_FILES))
        kept = keep_names(kept, c(), tuple(files))

    assert len(kept) <= MAX_KEPT_NAMES + MAX_FILES


def test_program_has_a_name_that_is_not_taken() -> None:
    def program(*names: str, taken: frozenset[str] = frozenset()) -> str:
        argv = list_build("c", "", dict.fromkeys(names, ""), taken)
        return argv[argv.index("-o") + 1]

    assert program() == "main"
    assert program("main/x") == "main-1"
    assert program("main", taken=frozenset({"main-1"})) == "main-2"


def test_run_is_of_the_program_that_was_built() -> None:
    job, _ = build_job_message(JobRequest(c(), b"", Options(files=(InputFile("main", b""),))))

    assert job.run.argv == ("./main-1",)


@pytest.mark.parametrize(
    ("path", "name"), [("a.cc", "main.cc"), ("a.CPP", "main.cpp"), ("a.C", "main.C")]
)
def test_source_keeps_its_suffix(path: str, name: str) -> None:
    job, files = build_job_message(
        JobRequest(catalogue.find_language_by_suffix(path), b"", Options())
    )

    assert files[0].path == name
    assert job.build is not None
    assert name in job.build.argv


@pytest.mark.parametrize("name", ["cc", "cxx", "mjs", "cjs"])
def test_suffix_is_a_name_of_the_language(name: str) -> None:
    assert catalogue.find_language(name).source == f"main.{name}"


@pytest.mark.parametrize(
    ("path", "name"), [("a.mjs", "mjs"), ("a.cc", "cc"), ("a.C", "c++"), ("a.bash", "bash")]
)
def test_server_is_told_the_suffix_by_the_name_of_the_language(path: str, name: str) -> None:
    known = [
        slipway.LanguageInfo(
            language.name, language.aliases, language.suffixes, (), True, "", {}, ()
        )
        for language in catalogue.builtin_languages().values()
    ]

    assert find_language_by_suffix(Path(path), known) == name


# --- Bounds --------------------------------------------------------------------------------------


def test_names_of_sources_that_fit_do_so_with_all_else() -> None:
    # The longest that each may be, as far as one message is concerned.
    size = MAX_SOURCE_NAMES // MAX_FILES - 8
    files = tuple(InputFile(f"{number:0{size - 2}}.c", b"") for number in range(MAX_FILES))
    options = Options(
        arguments=("x" * 32,) * 512,
        environment=tuple((f"V{number}", "x" * 80) for number in range(128)),
        files=files,
        outputs=tuple(f"{number:064}" for number in range(63)),
    )
    options.check(c().source)
    check_source_names(c(), files)

    job, _ = build_job_message(JobRequest(c(), b"", options, stream_bytes(b"")))

    assert len(encode(job)) <= MAX_MESSAGE


def test_names_of_sources_that_are_too_long_are_refused() -> None:
    files = tuple(InputFile(f"{number:0100}.c", b"") for number in range(100))

    with pytest.raises(slipway.InputError, match=r"names of the \.c files"):
        check_source_names(c(), files)
    check_source_names(catalogue.find_language("python"), files)
    check_source_names(c(), tuple(replace(file, path=f"{file.path}.h") for file in files))


PIECES = st.sampled_from(
    [
        *("package main\n", 'import "C"', 'import "example.com/', 'import "embed"\n', '#include "'),
        *("//go:embed ", "//go:build ", "import x from '", "export {", "await ", "/*", "`", "${"),
        *("a", "b", "/", ".", "..", '"', "'", "\n", "\0", "\udcff", "\\", " ", "*", "[^", "!", "("),
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map(
    lambda pieces: "".join(pieces).encode("utf-8", "surrogateescape")
)
NAMES = st.text(st.sampled_from("ab/_-'$ \u00e9\udcff"), max_size=8).flatmap(
    lambda stem: st.sampled_from([".c", ".go", ".js", ".h", "", "/go.mod", "_test.go"]).map(
        lambda suffix: stem + suffix
    )
)


@given(
    st.sampled_from(["c", "c++", "go", "javascript", "mjs"]),
    TEXTS,
    st.dictionaries(NAMES | st.just("go.mod"), TEXTS, max_size=4),
)
def test_any_job_has_a_command_that_can_be_sent(
    name: str, source: bytes, files: dict[str, bytes]
) -> None:
    language = catalogue.find_language(name)
    options = Options(files=tuple(InputFile(path, text) for path, text in files.items()))
    try:
        options.check(language.source)
    except slipway.InputError:
        return

    job, sent = build_job_message(JobRequest(language, source, options))

    assert decode(encode(job), HOST_TO_AGENT) == job
    assert len({file.path for file in sent}) == len(sent)
