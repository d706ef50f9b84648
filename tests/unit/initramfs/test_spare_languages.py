"""The key that lets a language's programs be started ahead of their job."""

from __future__ import annotations

import pytest

from slipway_initramfs import languages
from slipway_initramfs.errors import InvalidLanguage
from slipway_initramfs.language_file import parse

TOY = """
name = "toy"
suffixes = [".toy"]
source = "main.toy"
image.debian = {{ packages = ["toy"] }}
{}
"""


def test_python_can_be_started_ahead() -> None:
    assert languages.by_name("python").run.spare


@pytest.mark.parametrize("language", languages.all_languages().values(), ids=lambda lang: lang.name)
def test_no_language_with_a_build_is_started_ahead(language: languages.Language) -> None:
    assert not (language.run.spare and language.build)
    assert language.build is None or not language.build.spare


@pytest.mark.parametrize(("key", "spare"), [("", False), ("spare = true", True)])
def test_a_program_is_started_ahead_only_if_that_is_said(key: str, spare: bool) -> None:
    text = TOY.format(f'[run]\ncommand = ["toy", "main.toy"]\n{key}')

    assert parse(text.encode(), "toy.toml").run.spare is spare


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ('run = { command = ["toy", "main.toy"], spare = 1 }', "run.spare"),
        ('run = { command = ["toy", "main.toy"], spare = "yes" }', "run.spare"),
        ('run = { command = ["toy", "./main.toy"], spare = true }', "run.spare"),
        (
            'run = { command = ["toy", "main.toy"], spare = true }\nbuild = { command = ["make"] }',
            "run.spare",
        ),
        (
            'run = { command = ["toy", "main.toy"] }\n'
            'build = { command = ["make", "main.toy"], spare = true }',
            "build.spare",
        ),
    ],
)
def test_what_cannot_be_started_ahead_is_an_error(tables: str, key: str) -> None:
    with pytest.raises(InvalidLanguage, match=key):
        parse(TOY.format(tables).encode(), "toy.toml")
