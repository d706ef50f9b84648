"""A server that never falls silent and never comes to an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import SourceUnavailable
from slipway_initramfs.oci import client
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.oci.registry import Access, Registry
from slipway_initramfs.oci.repository import Descriptor
from slipway_initramfs.oci.retry import RetryPolicy
from support.layers import digest
from support.registries import Reply, scripted_server

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = bytes(3000)
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BITS = b"".join(b"3e8\r\n" + DATA[:1000] + b"\r\n" for _ in range(3)) + b"0\r\n\r\n"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry that is too slow for a limit of zero seconds."""
    monkeypatch.setattr(client, "WINDOW", -1)
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")
    with scripted_server(lambda _: Reply(raw=HEAD + BITS)) as server:
        patience = RetryPolicy(sleep=lambda _: None)
        found = Registry(Reference.parse(f"docker://{server.host}/tool:1"), Access(), patience)
        yield found
        found.close()


def test_a_document_that_drips_is_given_up(registry: Registry) -> None:
    with pytest.raises(SourceUnavailable, match="too slow"):
        registry.root()


def test_a_layer_that_drips_is_given_up(registry: Registry) -> None:
    blob = Descriptor("layer", digest(DATA), len(DATA))

    with registry.blob(blob) as chunks, pytest.raises(SourceUnavailable, match="too slow"):
        b"".join(chunks)
