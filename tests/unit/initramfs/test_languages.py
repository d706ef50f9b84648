from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs import languages
from slipway_initramfs.errors import InvalidLanguage, UnknownLanguage

if TYPE_CHECKING:
    from pathlib import Path

SEVEN = {"bash", "c", "c++", "go", "javascript", "python", "rust"}
MINIMAL = """
name = "toy"
suffixes = [".toy"]
source = "main.toy"
run = { command = ["toy", "main.toy"] }
image = { packages = ["toy"] }
"""


def test_seven_languages_are_there() -> None:
    assert set(languages.all_languages()) >= SEVEN


def test_names_aliases_and_suffixes_are_unambiguous() -> None:
    names = [n for lang in languages.all_languages().values() for n in (lang.name, *lang.aliases)]
    suffixes = [s for lang in languages.all_languages().values() for s in lang.suffixes]

    assert len(names) == len(set(names))
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize(
    ("name", "found"),
    [("python", "python"), ("PY", "python"), ("cpp", "c++"), (" js", "javascript")],
)
def test_a_language_is_found_by_name_and_alias(name: str, found: str) -> None:
    assert languages.by_name(name).name == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.py", "python"),
        ("dir.rs/main.RS", "rust"),
        ("x.C", "c++"),
        ("x.c", "c"),
        ("a.b.go", "go"),
    ],
)
def test_a_language_is_found_by_suffix(path: str, found: str) -> None:
    assert languages.by_suffix(path).name == found


def test_an_unknown_name_brings_the_nearest_ones() -> None:
    with pytest.raises(UnknownLanguage) as caught:
        languages.by_name("pyhton")

    assert "'pyhton'" in caught.value.message
    assert "python" in caught.value.hint


@pytest.mark.parametrize("path", ["main.xyz", "Makefile", "", ".bashrc"])
def test_an_unknown_suffix_brings_the_known_ones(path: str) -> None:
    with pytest.raises(UnknownLanguage) as caught:
        languages.by_suffix(path)

    assert "." in caught.value.hint


def test_a_minimal_file_gets_the_default_limits_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(MINIMAL)

    toy = languages.load(path)

    assert toy.build is None
    assert toy.run.command == ("toy", "main.toy")
    assert toy.run.limits == languages.RUN_LIMITS
    assert toy.environment["LANG"] == "C.UTF-8"


def test_a_recipe_is_equal_to_itself_after_a_manifest(tmp_path: Path) -> None:
    import json

    for language in languages.all_languages().values():
        plain = language.recipe.plain()
        assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (('name = "toy"', ""), "name"),
        (('name = "toy"', 'name = "To y"'), "name"),
        (('name = "toy"', "name = 3"), "name"),
        (('source = "main.toy"', 'source = "../x"'), "source"),
        (('source = "main.toy"', 'source = ""'), "source"),
        (('[".toy"]', '["toy"]'), "suffixes"),
        (('[".toy"]', "[]"), "suffixes"),
        (('["toy", "main.toy"]', "[]"), "run.command"),
        (('["toy", "main.toy"]', '["toy", 5]'), "run.command"),
        (('["toy", "main.toy"]', '"toy"'), "run.command"),
        (('["toy", "main.toy"]', '["toy"], limits = { wall = 0 }'), "run.limits.wall"),
        (('["toy", "main.toy"]', '["toy"], limits = { wall = nan }'), "run.limits.wall"),
        (('["toy", "main.toy"]', '["toy"], limits = { memory = -1 }'), "run.limits.memory"),
        (('["toy", "main.toy"]', '["toy"], limits = { processes = 1.5 }'), "run.limits.processes"),
        (('["toy", "main.toy"]', '["toy"], limits = { processes = true }'), "run.limits.processes"),
        (('["toy", "main.toy"]', '["toy"], limits = { proceses = 9 }'), "run.limits.proceses"),
        (('["toy", "main.toy"]', '["toy"], comand = []'), "run.comand"),
        (('packages = ["toy"]', ""), "image.packages"),
        (('packages = ["toy"]', 'packages = ["--option"]'), "image.packages"),
        (('packages = ["toy"]', 'packages = ["toy=1 b"]'), "image.packages"),
        (('packages = ["toy"]', 'packages = ["toy"], warm = ["x"]'), "image.warm"),
        (('packages = ["toy"]', 'packages = ["toy"], links = { a = 1 }'), "image.links.a"),
        (('packages = ["toy"]', 'packages = ["toy"], trim = ["../x"]'), "image."),
        (('packages = ["toy"]', 'packages = ["toy"], files = { "/x" = "" }'), "image."),
        (('name = "toy"', 'name = "toy"\nenvironment = { "A=B" = "" }'), "environment"),
        (('name = "toy"', 'name = "toy"\nenvironment = { A = 1 }'), "environment.A"),
        (('name = "toy"', 'name = "toy"\nbuild = { }'), "build.command"),
        (('name = "toy"', 'name = "toy"\naliases = ["Toy"]'), "aliases"),
        (('name = "toy"', 'name = "toy"\ncolour = "red"'), "colour"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_and_key(
    tmp_path: Path, change: tuple[str, str], key: str
) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(MINIMAL.replace(*change))

    with pytest.raises(InvalidLanguage) as caught:
        languages.load(path)

    assert f"toy.toml: {key}" in caught.value.message


@pytest.mark.parametrize("data", [b"name = ", b"\xff\xfe", b"#" * (1 << 20) + b"##"])
def test_what_is_no_toml_is_an_error_that_names_the_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "toy.toml"
    path.write_bytes(data)

    with pytest.raises(InvalidLanguage, match=r"toy\.toml"):
        languages.load(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidLanguage, match=r"none\.toml"):
        languages.load(tmp_path / "none.toml")
