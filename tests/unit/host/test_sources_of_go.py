"""The packages of a Go program, as go build finds them."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._model.input_file import InputFile
from slipway._sources import arrange
from slipway._sources.go import fits_name
from slipway._sources.go_text import evaluate, read_head
from slipway_initramfs.languages import catalogue

MODULE = "module example.com/app\n"


def packages(*imports: str, architecture: str = "amd64", **files: str) -> list[list[str]]:
    """The packages that build-go is told of; or its option and the error."""
    source = "".join(["package main\n", *(f'import "{each}"\n' for each in imports)])
    beside = tuple(InputFile(path, text.encode()) for path, text in files.items())
    arranged = arrange(
        catalogue.find_language("go"), source.encode(), beside, frozenset(), architecture
    )
    if arranged.program == "-e":
        return [["-e", *arranged.sources]]
    return [shlex.split(package) for package in arranged.sources]


def error(*imports: str, **files: str) -> str:
    """Why it cannot be built."""
    ((option, told),) = packages(*imports, **files)
    assert option == "-e"
    return told


def test_source_alone() -> None:
    assert packages("fmt", "net/http") == [["main", "", "./main.go"]]


def test_files_of_the_main_package_with_any_name() -> None:
    files = {"two words.go": "package main", "it's.go": "package main", "-x.go": "package main"}

    assert packages(**files) == [
        ["main", "", "./main.go", "./-x.go", "./it's.go", "./two words.go"]
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a_test.go", "package main"),
        ("a_windows.go", "package main"),
        ("a_plan9_amd64.go", "package main"),
        ("_a.go", "package main"),
        (".a.go", "package main"),
        ("a.txt", "package main"),
        ("other/a.go", "package other"),
        ("a.go", "//go:build ignore\n\npackage main"),
        ("a.go", "// Copyright\n\n//go:build !linux || (windows && amd64)\n\npackage main"),
        ("a.go", "// +build windows darwin\n// +build amd64\n\npackage main"),
        ("a.go", "//go:build go1.99\n\npackage main"),
        ("a.go", "//go:build cgo\n\npackage main"),
    ],
)
def test_file_that_is_no_part_of_the_program(name: str, text: str) -> None:
    assert packages(**{name: text}) == [["main", "", "./main.go"]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a_linux.go", "package main"),
        ("linux.go", "package main"),
        ("windows.go", "package main"),
        ("a_unix.go", "package main"),
        ("a_windows_x.go", "package main"),
        ("a.go", "/* x */ \npackage main"),
        ("a.go", "package main\n\n//go:build ignore\n"),
        ("a.go", "//go:build linux && !windows && go1.18\n\npackage main"),
        ("a.go", "//go:build unix\n// +build windows\n\npackage main"),
        ("a.go", "// +build linux,!cgo windows\n\npackage main"),
    ],
)
def test_file_that_is_a_part_of_the_program(name: str, text: str) -> None:
    assert packages(**{name: text}) == [["main", "", "./main.go", f"./{name}"]]


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_files_for_one_architecture_are_built_for_it_alone(architecture: str) -> None:
    files = {
        "a_amd64.go": "package main",
        "a_arm64.go": "package main",
        "amd64.go": "//go:build amd64\n\npackage main",
        "arm64.go": "//go:build arm64\n\npackage main",
    }

    told = packages(architecture=architecture, **files)

    assert told == [["main", "", "./main.go", f"./a_{architecture}.go", f"./{architecture}.go"]]


def test_source_itself_is_built_whatever_it_is_for() -> None:
    arranged = arrange(
        catalogue.find_language("go"),
        b"//go:build ignore\n\npackage main\n",
        (),
        frozenset(),
        "amd64",
    )

    assert arranged.sources == ("main '' ./main.go",)


def test_packages_come_before_those_that_import_them() -> None:
    files = {
        "go.mod": MODULE + "\ngo 1.18\n",
        "a/a.go": 'package a\nimport (\n\t. "fmt"\n\tb2 "example.com/app/b" // why\n)\n',
        "a/more.go": 'package a; import "example.com/app/b/c"',
        "b/b.go": "package b\nimport `example.com/app/b/c`\n",
        "b/c/c.go": "package c",
        "unused/u.go": "package unused",
    }

    told = packages("example.com/app/a", "example.com/app/b", **files)

    assert [each[0] for each in told] == [
        "example.com/app/b/c", "example.com/app/b", "example.com/app/a", "main",
    ]  # fmt: skip
    assert told[2][1:] == ["", "-lang=go1.18", "./a/a.go", "./a/more.go"]


def test_vendored_package() -> None:
    files = {"vendor/github.com/x/y/y.go": "package y"}

    assert packages("github.com/x/y", **files)[0] == [
        "github.com/x/y", "", "./vendor/github.com/x/y/y.go",
    ]  # fmt: skip


@pytest.mark.parametrize("wanted", ["1.99", "1.0", "2.1"])
def test_language_that_the_compiler_does_not_know_is_not_asked_for(wanted: str) -> None:
    assert packages(**{"go.mod": f"{MODULE}go {wanted}\n"}) == [["main", "", "./main.go"]]


@pytest.mark.parametrize(
    ("target", "files", "words"),
    [
        ("C", {}, "cgo"),
        ("plugin", {}, "cgo"),
        ("github.com/x/y", {}, "not downloaded"),
        ("./util", {"util/u.go": ""}, "path of the module"),
        ("util", {"util/u.go": "package util"}, "send a go.mod"),
        ("example.com/app/x", {"go.mod": MODULE}, "no Go files"),
        ("example.com/app/x", {"go.mod": MODULE, "x/x_test.go": "package x"}, "no Go files"),
        ("example.com/app/../x", {"go.mod": MODULE, "x/x.go": "package x"}, "cannot import"),
        ("example.com/app", {"go.mod": MODULE}, "main package"),
        (
            "example.com/app/a",
            {
                "go.mod": MODULE,
                "a/a.go": 'package a\nimport "example.com/app/b"',
                "b/b.go": 'package b\nimport "example.com/app/a"',
            },
            "import cycle not allowed: example.com/app/a imports example.com/app/b imports",
        ),
    ],
)
def test_what_cannot_be_built_is_told(target: str, files: dict[str, str], words: str) -> None:
    assert words in error(target, **files)


def test_error_is_one_line_of_text_whatever_the_source_says() -> None:
    assert error("github.com/a\0b\x1b[1m") == (
        "main.go: cannot import 'github.com/a\\x00b\\x1b[1m': modules are not downloaded here; "
        "send its sources as vendor/github.com/a b [1m/*.go"
    )


def test_of_all_heads_only_so_much_is_read() -> None:
    many = {f"{number}.go": "/*" + " " * 200_000 + "*/ package main" for number in range(9)}

    assert "too much text" in error(**many)
    assert packages(**dict(list(many.items())[:3]))[0][0] == "main"


def test_patterns_are_not_too_many() -> None:
    patterns = " ".join(f"x{number}" for number in range(100))
    files = {"a.go": f'package main\nimport _ "embed"\n//go:embed {patterns}\nvar f string\n'}

    assert "more than 64 patterns" in error(**files)


def test_patterns_of_all_packages_are_not_too_many() -> None:
    embedding = 'import _ "embed"\n//go:embed {}\nvar f string\n'
    names = [" ".join(f"{letter}{number}" for number in range(40)) for letter in "ab"]
    files = {
        "go.mod": MODULE,
        "a.go": f"package main\n{embedding.format(names[0])}",
        "p/b.go": f"package p\n{embedding.format(names[1])}",
        **dict.fromkeys(names[0].split(), ""),
        **{f"p/{name}": "" for name in names[1].split()},
    }

    assert "more than 64 patterns" in error("example.com/app/p", **files)


def test_long_pattern_is_not_looked_for() -> None:
    hostile = "[" * 200_000
    files = {"a.go": f'package main\nimport _ "embed"\n//go:embed {hostile}\nvar f string\n'}

    assert "too many files are embedded" in error(**files)


def test_what_is_looked_through_for_patterns_counts_as_read() -> None:
    text = 'package main\nimport _ "embed"\n' + "var f string\n" * 15_000
    many = {f"{number}.go": text for number in range(9)}

    assert "too much text" in error(**many)


def test_import_that_is_repeated_is_one() -> None:
    assert read_head(b'package a\nimport ("b"; x "b"; "c"; "b")').imports == ("b", "c")


def test_what_is_embedded() -> None:
    files = {
        "go.mod": MODULE,
        "a/a.go": 'package a\nimport "embed"\n//go:embed data "two words" *.txt\nvar f embed.FS\n',
        "a/data/b": "", "a/data/.hidden": "", "a/data/d/c": "", "a/two words": "", "a/x.txt": "",
        "a/d/x.txt": "", "x.txt": "",
    }  # fmt: skip

    table = json.loads(packages("example.com/app/a", **files)[0][1])

    assert table["Patterns"] == {
        "*.txt": ["x.txt"],
        "data": ["data/b", "data/d/c"],
        "two words": ["two words"],
    }
    assert table["Files"]["data/d/c"] == "a/data/d/c"


def test_hidden_files_are_embedded_where_all_are_asked_for() -> None:
    files = {
        "a.go": 'package main\nimport _ "embed"\n//go:embed all:data\nvar f string\n',
        "data/.x": "",
    }

    assert json.loads(packages(**files)[0][1])["Patterns"] == {"all:data": ["data/.x"]}


def test_pattern_that_matches_nothing_is_told() -> None:
    files = {"a.go": 'package main\nimport _ "embed"\n//go:embed *.txt\nvar f string\n'}

    assert "*.txt: no matching files" in error(**files)


@pytest.mark.parametrize("name", ["x_linux_arm64", "x_arm64", "x_windows_amd64"])
def test_names_for_other_machines(name: str) -> None:
    assert not fits_name(f"{name}.go", "amd64")


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("linux", True),
        ("!linux", False),
        ("linux && (windows || amd64)", True),
        ("linux || windows && windows", True),
        ("!(linux && !amd64)", True),
        ("(" * 5000 + "linux", False),
        ("!" * 5000 + "linux", False),
        ("", False),
        ("&& ||", False),
        ("linux &&" + " " * 250_000 + "#", False),
        (" #" * 100_000 + "linux", True),
    ],
)
def test_constraint(expression: str, holds: bool) -> None:
    assert evaluate(expression, frozenset({"linux", "amd64"})) is holds


@given(st.binary(max_size=200))
def test_head_of_anything_can_be_read(data: bytes) -> None:
    read_head(data).holds(frozenset())


@given(st.text(st.sampled_from("()!&| linux"), max_size=40))
def test_any_constraint_has_an_answer(expression: str) -> None:
    assert evaluate(expression, frozenset({"linux"})) in {True, False}


def test_both_kinds_of_images_build_alike() -> None:
    go = catalogue.find_language("go")
    assert go.debian is not None
    scripts = [recipe.files["usr/lib/slipway/build-go"] for recipe in (go.debian, go.registry)]

    shared = {script[script.index("program=$1") :] for script in scripts}

    assert len(shared) == 1
