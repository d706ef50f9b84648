from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.errors import InvalidReference
from slipway_initramfs.oci.reference import Reference, is_loopback

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256:" + "0f" * 32


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("rust", "docker://docker.io/library/rust:latest"),
        ("rust:1.80-slim", "docker://docker.io/library/rust:1.80-slim"),
        ("docker://rust:1.80-slim", "docker://docker.io/library/rust:1.80-slim"),
        ("docker://docker.io/rust", "docker://docker.io/library/rust:latest"),
        ("docker.io/library/rust", "docker://docker.io/library/rust:latest"),
        ("index.docker.io/alice/tool:2", "docker://docker.io/alice/tool:2"),
        ("alice/tool", "docker://docker.io/alice/tool:latest"),
        ("docker:20", "docker://docker.io/library/docker:20"),
        ("localhost/tool", "docker://localhost/tool:latest"),
        ("localhost:5000/a/b/c:x", "docker://localhost:5000/a/b/c:x"),
        ("Registry.Example/tool", "docker://registry.example/tool:latest"),
        ("example:5000/tool", "docker://example:5000/tool:latest"),
        ("docker://[::1]:5000/tool", "docker://[::1]:5000/tool:latest"),
        ("10.0.0.1/a__b/c-d.e_f", "docker://10.0.0.1/a__b/c-d.e_f:latest"),
        (f"rust@{DIGEST}", f"docker://docker.io/library/rust@{DIGEST}"),
        (f"rust:1@{DIGEST}", f"docker://docker.io/library/rust:1@{DIGEST}"),
        ("oci:/a/layout", "oci:/a/layout"),
        ("oci:/a/layout:1.0", "oci:/a/layout:1.0"),
        (
            "oci:/a/layout.tar:docker.io/library/rust:1",
            "oci:/a/layout.tar:docker.io/library/rust:1",
        ),
        ("docker-archive:/a/saved.tar", "docker-archive:/a/saved.tar"),
        ("docker-archive:/a/saved.tar:rust:1.80", "docker-archive:/a/saved.tar:rust:1.80"),
    ],
)
def test_references_of_docker_and_skopeo_are_read(text: str, canonical: str) -> None:
    reference = Reference.parse(text)

    assert str(reference) == canonical
    assert Reference.parse(canonical) == reference


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("a" * 5000, "too long"),
        ("rust\n", "not printable"),
        ("rust\0", "not printable"),
        ("Rust", "invalid repository 'library/Rust'"),
        ("alice/Tool", "invalid repository"),
        ("alice//tool", "invalid repository"),
        ("alice/tool/", "invalid repository"),
        ("a/../b", "invalid repository"),
        ("localhost:5000/", "invalid repository"),
        ("tool..x", "invalid repository"),
        ("a___b", "invalid repository"),
        ("rust:", "invalid tag"),
        ("rust:-x", "invalid tag"),
        ("rust:" + "x" * 129, "invalid tag"),
        ("rust:1:2", "invalid tag"),
        ("rust@sha256:abc", "digest"),
        ("rust@sha512:" + "0" * 128, "digest"),
        ("rust@" + DIGEST.upper(), "digest"),
        ("host:0/x", "invalid registry"),
        ("host:65536/x", "invalid registry"),
        ("user@host.example/x", "digest"),
        ("-host.example/x", "invalid registry"),
        ("host..example/x", "invalid registry"),
        ("[::1/x", "invalid registry"),
        ("[1.2]:5000/x", "invalid address"),
        ("[::1%25lo]/x", "invalid registry"),
        ("host.example/" + "a/" * 150 + "a", "more than 255"),
        ("https://host.example/x", "unknown transport"),
        ("oci:", "lacks a path"),
        ("oci:/a:", "invalid name"),
        ("oci:/a:b c", "invalid name"),
        ("docker-archive::x", "lacks a path"),
    ],
)
def test_references_against_the_grammar_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidReference, match=complaint) as caught:
        Reference.parse(text)

    assert len(caught.value.message) < 300


def test_makes_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    reference = Reference.parse("oci:layout:1")

    assert reference.path == tmp_path / "layout"


def test_refuses_a_path_that_could_not_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "a:b"
    directory.mkdir()
    monkeypatch.chdir(directory)

    with pytest.raises(InvalidReference, match="a path that a reference cannot hold"):
        Reference.parse("oci:layout")


def test_asks_docker_hub_at_its_own_host() -> None:
    assert Reference.parse("rust").host == "registry-1.docker.io"
    assert Reference.parse("host.example:5000/rust").host == "host.example:5000"


def test_pins_a_name_to_a_digest() -> None:
    pinned = Reference.parse("rust:1").pin(DIGEST)

    assert str(pinned) == f"docker://docker.io/library/rust:1@{DIGEST}"


def test_references_on_this_machine_are_not_pinned() -> None:
    layout = Reference.parse("oci:/a/layout")

    assert layout.pin(DIGEST) == layout


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("LOCALHOST", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("128.0.0.1", False),
        ("[::2]:5000", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_knows_this_machine_by_its_names(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@given(st.text(st.sampled_from("aB0._-:/@[]é \n") | st.characters(), max_size=40))
def test_reads_or_refuses_any_text(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return

    assert Reference.parse(str(reference)) == reference
