"""The key that lets a language's programs be started ahead of their job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import InvalidLanguage
from slipway_initramfs.languages import catalogue
from slipway_initramfs.languages.toml_file import parse_language

if TYPE_CHECKING:
    from slipway_initramfs.languages.language import Language

TOY = """
name = "toy"
suffixes = [".toy"]
source = "main.toy"
image.debian = {{ packages = ["toy"] }}
{}
"""


def test_python_can_be_started_ahead() -> None:
    assert catalogue.find_language("python").run.prestart


@pytest.mark.parametrize(
    "language", catalogue.builtin_languages().values(), ids=lambda lang: lang.name
)
def test_no_language_with_a_build_is_started_ahead(language: Language) -> None:
    assert not (language.run.prestart and language.build)
    assert language.build is None or not language.build.prestart


@pytest.mark.parametrize(("key", "prestart"), [("", False), ("prestart = true", True)])
def test_a_program_is_started_ahead_only_if_that_is_said(key: str, prestart: bool) -> None:
    text = TOY.format(f'[run]\ncommand = ["toy", "main.toy"]\n{key}')

    assert parse_language(text.encode(), "toy.toml").run.prestart is prestart


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ('run = { command = ["toy", "main.toy"], prestart = 1 }', "run.prestart"),
        ('run = { command = ["toy", "main.toy"], prestart = "yes" }', "run.prestart"),
        ('run = { command = ["toy", "./main.toy"], prestart = true }', "run.prestart"),
        (
            'run = { command = ["toy", "main.toy"], prestart = true }\n'
            'build = { command = ["make"] }',
            "run.prestart",
        ),
        (
            'run = { command = ["toy", "main.toy"] }\n'
            'build = { command = ["make", "main.toy"], prestart = true }',
            "build.prestart",
        ),
    ],
)
def test_impossible_prestart_settings_are_errors(tables: str, key: str) -> None:
    with pytest.raises(InvalidLanguage, match=key):
        parse_language(TOY.format(tables).encode(), "toy.toml")
