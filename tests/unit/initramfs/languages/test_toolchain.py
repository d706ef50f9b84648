from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slipway_initramfs.errors import InvalidLanguage
from slipway_initramfs.languages import catalogue
from slipway_initramfs.languages.toml_file import parse_language
from support.stores import put_image

if TYPE_CHECKING:
    from slipway_initramfs.store.image_store import ImageStore

TOY = """
name = "toy"
suffixes = [".toy"]
source = "main.toy"
run = { command = ["toy", "main.toy"] }
"""


def packages(**versions: str) -> dict[str, Any]:
    return {
        "packages": [
            {"name": name.replace("_", "-").replace("1-1", "1.1"), "version": version}
            for name, version in versions.items()
        ]
    }


def variables(**values: str) -> dict[str, Any]:
    return {"config": {"environment": values}}


@pytest.mark.parametrize(
    ("language", "told", "toolchain"),
    [
        ("python", packages(python3="3.11.2-1+b1"), "Python 3.11.2"),
        ("rust", packages(gcc="4:12.2.0-3", rustc="1.63.0+dfsg1-2"), "rustc 1.63.0"),
        ("go", packages(golang_go="2:1.19~1", golang_1_19_go="1.19.8-2"), "go1.19.8"),
        ("c", packages(gcc="4:12.2.0-3", gcc_12="12.2.0-14+deb12u1"), "gcc 12.2.0"),
        ("c++", packages(gcc="4:12.2.0-3"), ""),
        ("javascript", packages(nodejs="18.20.4+dfsg-1~deb12u3"), "node v18.20.4"),
        ("bash", packages(bash="5.2.15-2+b13"), "bash 5.2.15"),
        ("python", variables(PYTHON_VERSION="3.14.0rc2"), "Python 3.14.0rc2"),
        ("rust", variables(RUST_VERSION="1.80.1"), "rustc 1.80.1"),
        ("go", variables(GOLANG_VERSION="1.27.3"), "go1.27.3"),
        ("c++", variables(GCC_VERSION="14.1.0"), "g++ 14.1.0"),
        ("javascript", variables(NODE_VERSION="22.5.1"), "node v22.5.1"),
        ("bash", variables(_BASH_VERSION="5.2.37"), "bash 5.2.37"),
        ("rust", variables(RUST_VERSION="\x1b[31m1.80"), ""),
        ("rust", variables(RUST_VERSION="1" * 400), ""),
        ("rust", {}, ""),
    ],
)
def test_a_toolchain_is_found_in_the_record(
    store: ImageStore, language: str, told: dict[str, Any], toolchain: str
) -> None:
    image = put_image(store, language, told=told)

    assert catalogue.find_language(language).toolchain.of(image) == toolchain


def test_an_added_language_has_a_toolchain(store: ImageStore) -> None:
    text = 'image.toolchain = { text = "Toy {version}!", variable = "TOY" }\n'
    image = put_image(store, told=variables(TOY="7"))

    assert parse_language((TOY + text).encode(), "toy.toml").toolchain.of(image) == "Toy 7!"
    assert parse_language(TOY.encode(), "toy.toml").toolchain.of(image) == ""


@pytest.mark.parametrize("text", ["", "Toy", "Toy\\u001b {version}", "{version}" * 8])
def test_a_toolchains_text_is_a_short_line_with_a_version(text: str) -> None:
    with pytest.raises(InvalidLanguage, match=r"toy.toml: image.toolchain.text"):
        parse_language(f'{TOY}image.toolchain = {{ text = "{text}" }}\n'.encode(), "toy.toml")
