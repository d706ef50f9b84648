from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import InvalidLanguage, UnknownLanguage
from slipway_initramfs.languages import catalogue
from slipway_initramfs.languages.toml_file import RUN_LIMITS
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from pathlib import Path

SEVEN = {"bash", "c", "c++", "go", "javascript", "python", "rust"}
MINIMAL = """
name = "toy"
suffixes = [".toy"]
source = "main.toy"
run = { command = ["toy", "main.toy"] }
image.debian = { packages = ["toy"] }
image.registry = { reference = "toy:{version}", version = "1" }
"""


def test_seven_languages_are_there() -> None:
    assert set(catalogue.builtin_languages()) >= SEVEN


def test_names_aliases_and_suffixes_are_unambiguous() -> None:
    names = [
        n for lang in catalogue.builtin_languages().values() for n in (lang.name, *lang.aliases)
    ]
    suffixes = [s for lang in catalogue.builtin_languages().values() for s in lang.suffixes]

    assert len(names) == len(set(names))
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize(
    ("name", "found"),
    [("python", "python"), ("PY", "python"), ("cpp", "c++"), (" js", "javascript")],
)
def test_a_language_is_found_by_name_and_alias(name: str, found: str) -> None:
    assert catalogue.find_language(name).name == found


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
    assert catalogue.find_language_by_suffix(path).name == found


def test_an_unknown_name_is_reported_with_the_nearest_names() -> None:
    with pytest.raises(UnknownLanguage) as caught:
        catalogue.find_language("pyhton")

    assert "'pyhton'" in caught.value.message
    assert "python" in caught.value.hint


@pytest.mark.parametrize("path", ["main.xyz", "Makefile", "", ".bashrc"])
def test_an_unknown_suffix_is_reported_with_the_known_suffixes(path: str) -> None:
    with pytest.raises(UnknownLanguage) as caught:
        catalogue.find_language_by_suffix(path)

    assert "." in caught.value.hint


def test_a_minimal_file_gets_the_default_limits_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(MINIMAL)

    toy = catalogue.load_language(path)

    assert toy.build is None
    assert toy.run.command == ("toy", "main.toy")
    assert toy.run.limits == RUN_LIMITS
    assert toy.environment == {}


def test_a_source_may_have_the_suffix_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(
        MINIMAL.replace('[".toy"]', '[".toy", ".t"]').replace("main.toy", "x.y{suffix}")
    )

    toy = catalogue.load_language(path)

    assert toy.source == "x.y.toy"
    assert toy.with_suffix(".t").source == "x.y.t"
    assert catalogue.find_language("c").with_suffix(".t").source == "main.c"


@pytest.mark.parametrize("kind", ["debian", "registry"])
def test_a_recipe_is_equal_to_itself_after_a_manifest(kind: str) -> None:
    for language in catalogue.builtin_languages().values():
        recipe = language.recipe(kind)

        assert recipe is not None
        assert json.loads(json.dumps(recipe.as_json())) == recipe.as_json()


def test_a_version_is_a_part_of_the_name() -> None:
    rust = catalogue.find_language("RS@1.80")

    assert (rust.name, rust.version, rust.image) == ("rust", "1.80", "rust@1.80")
    assert rust.reference() == "rust:1.80-slim"


def test_without_a_version_the_reference_has_the_default_one() -> None:
    rust = catalogue.find_language("rust")

    assert rust.image == "rust"
    assert rust.reference() == f"rust:{rust.registry.version}-slim"


@pytest.mark.parametrize("version", ["", "1 80", "../x", "1.80@2", "-1", "x" * 65])
def test_an_impossible_version_is_refused(version: str) -> None:
    with pytest.raises(UnknownLanguage, match="version"):
        catalogue.find_language(f"rust@{version}")


def test_a_store_that_was_given_a_language_knows_it(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    catalogue.store_language(store, "toy2", MINIMAL.encode())

    assert catalogue.find_language("toy2", store).run.command == ("toy", "main.toy")
    assert catalogue.find_language_by_suffix("x.toy", store).name == "toy2"
    assert set(catalogue.known_languages(store)) == {"toy2", *catalogue.builtin_languages()}
    with pytest.raises(UnknownLanguage):
        catalogue.find_language("toy2")


def test_a_given_language_that_is_no_language_any_more_is_unknown(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    catalogue.store_language(store, "toy", b"name = 3")

    with pytest.raises(UnknownLanguage):
        catalogue.find_language("toy", store)
    assert catalogue.find_language("python", store).name == "python"


@pytest.mark.parametrize("name", ["rust", "cpp"])
def test_an_added_language_cannot_have_a_built_in_name(name: str) -> None:
    with pytest.raises(InvalidLanguage, match=name):
        catalogue.check_new_name(name)


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
        (('["toy", "main.toy"]', '["toy"], limits = { file_size = -1 }'), "run.limits.file_size"),
        (('["toy", "main.toy"]', '["toy"], out_of_memory = "full"'), "run.out_of_memory"),
        (('["toy", "main.toy"]', f'["toy"], out_of_memory = ["{"x" * 65}"]'), "run.out_of_memory"),
        (('["toy", "main.toy"]', '["toy"], limits = { proceses = 9 }'), "run.limits.proceses"),
        (('["toy", "main.toy"]', '["toy"], comand = []'), "run.comand"),
        (('packages = ["toy"]', ""), "image.debian.packages"),
        (('packages = ["toy"]', 'packages = ["--option"]'), "image.debian.packages"),
        (('packages = ["toy"]', 'packages = ["toy=1 b"]'), "image.debian.packages"),
        (('packages = ["toy"]', 'packages = ["toy"], bytecode = 1'), "image.debian.bytecode"),
        (('packages = ["toy"]', 'packages = ["toy"], links = { a = 1 }'), "image.debian.links.a"),
        (('packages = ["toy"]', 'packages = ["toy"], trim = ["../x"]'), "image.debian.trim"),
        (('packages = ["toy"]', 'packages = ["toy"], files = { "/x" = "" }'), "image.debian.files"),
        ((', version = "1"', ""), "image.registry.version"),
        (('version = "1"', "version = 1"), "image.registry.version"),
        (('version = "1"', 'version = "1", warm = {}'), "image.registry.warm.command"),
        (('version = "1"', 'version = "1", packages = []'), "image.registry.packages"),
        (('name = "toy"', 'name = "toy"\nimage.oci = "x"'), "image.oci"),
        (('name = "toy"', 'name = "toy"\nenvironment = { "A=B" = "" }'), "environment"),
        (('name = "toy"', 'name = "toy"\nenvironment = { A = 1 }'), "environment.A"),
        (('name = "toy"', 'name = "toy"\nbuild = { }'), "build.command"),
        (('name = "toy"', 'name = "toy"\naliases = ["Toy"]'), "aliases"),
        (('name = "toy"', 'name = "toy"\ncolour = "red"'), "colour"),
        (('name = "toy"', 'name = "toy"\nsources = ["toy"]'), "sources"),
        (('name = "toy"', 'name = "toy"\nrules = "make"'), "rules"),
        (('source = "main.toy"', 'source = "a/{suffix}"'), "source"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_and_key(
    tmp_path: Path, change: tuple[str, str], key: str
) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(MINIMAL.replace(*change))

    with pytest.raises(InvalidLanguage) as caught:
        catalogue.load_language(path)

    assert f"toy.toml: {key}" in caught.value.message


@pytest.mark.parametrize("data", [b"name = ", b"\xff\xfe", b"#" * (1 << 20) + b"##"])
def test_invalid_toml_is_an_error_that_names_the_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "toy.toml"
    path.write_bytes(data)

    with pytest.raises(InvalidLanguage, match=r"toy\.toml"):
        catalogue.load_language(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidLanguage, match=r"none\.toml"):
        catalogue.load_language(tmp_path / "none.toml")


def test_no_alias_takes_the_name_of_another_given_language(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    catalogue.store_language(store, "toy", MINIMAL.encode())
    catalogue.store_language(
        store, "zoo", MINIMAL.replace('"toy"\n', '"zoo"\naliases = ["toy"]\n', 1).encode()
    )

    assert catalogue.find_language("toy", store).name == "toy"


def test_another_name_does_not_bring_the_aliases(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    text = MINIMAL.replace('"toy"\n', '"toy"\naliases = ["plaything"]\n', 1).encode()
    catalogue.store_language(store, "toy", text)
    catalogue.store_language(store, "toy2", text)

    assert catalogue.find_language("plaything", store).name == "toy"
    assert catalogue.find_language("toy2", store).name == "toy2"
