"""Added languages from Debian's packages, with all dependencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.build import build_image
from slipway_initramfs.compression.compressors import unpack_lz4
from slipway_initramfs.languages import toml_file
from slipway_initramfs.source import SourceOptions
from support.newc import unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore
    from support.commands import Commands

pytestmark = [
    pytest.mark.debian("apt-get"),
    pytest.mark.timeout(300),
]

MAX_ROOT = 1 << 28
PERL = """
name = "perl"
suffixes = [".pl"]
source = "main.pl"
run = { command = ["perl", "main.pl"] }

[image]
workload = 32

[image.debian]
packages = ["perl"]

[image.debian.warm]
command = ["sh", "-c", "mkdir opt; perl -e 'print $^V' >opt/warm; tar cf warm.tar opt"]
"""
# DB_File needs a library of a package that most recipes can do without.
PROGRAM = """
use DB_File;
open my $warm, '<', '/opt/warm';
print <$warm>, ' ', tie(my %table, 'DB_File', 'table') ? 'tied' : $!, "\\n";
"""
LANGUAGE = """
name = "other"
suffixes = [".other"]
source = "main.other"
run = { command = ["other", "main.other"] }
image.debian = { packages = ["dash"] }
image.tools = false
"""


def test_perl_of_packages_is_warmed_up_and_has_all_that_it_depends_on(
    commands: Commands, store: ImageStore, apt: Path, tmp_path: Path
) -> None:
    store.apt.symlink_to(apt)
    (tmp_path / "perl.toml").write_text(PERL)
    (tmp_path / "program.pl").write_text(PROGRAM)

    built = commands(
        "slipway", "image", "build", "--no-snapshot", "--store", store.root, "--source", "debian",
        "--language-file", tmp_path / "perl.toml",
    )  # fmt: skip
    ran = commands("slipway", "run", "--store", store.root, tmp_path / "program.pl")

    assert built.code == 0, built.stderr
    assert (ran.code, ran.stdout) == (0, b"v5.36.0 tied\n"), ran.stderr


def test_a_recipe_without_its_commands_program_is_refused_and_names_it(
    commands: Commands, store: ImageStore, apt: Path, tmp_path: Path
) -> None:
    store.apt.symlink_to(apt)
    (tmp_path / "other.toml").write_text(LANGUAGE)

    built = commands(
        "slipway", "image", "build", "--no-snapshot", "--store", store.root, "--source", "debian",
        "--language-file", tmp_path / "other.toml",
    )  # fmt: skip

    assert built.code == 125
    assert "the image lacks the program 'other' in PATH" in built.stderr
    assert store.image("other") is None


def test_without_the_base_set_an_image_has_only_its_named_packages(
    new_store: Callable[[], ImageStore],
) -> None:
    text = LANGUAGE.replace('["other"', '["dash"')
    image = build_image(
        toml_file.parse_language(text.encode(), "other.toml"),
        new_store(),
        SourceOptions(kind="debian"),
    )

    root = unpack(unpack_lz4(image.root_archive.read_bytes(), MAX_ROOT))

    assert "usr/bin/dash" in root
    assert "usr/bin/bash" not in root
    assert "usr/share/zoneinfo/UTC" not in root
