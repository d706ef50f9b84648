"""Repositories: the interface of registries, layout directories and archives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    # Called with a blob's short name, the bytes received, and the bytes in total.
    Transfers = Callable[[str, int, int], None]

# Limit on an index, a manifest or a configuration, in bytes; registries have the same limit.
MAX_DOCUMENT = 4 << 20


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Blob as a manifest names it (OCI image specification, "Content Descriptors").

    ``digest`` is ``sha256:`` and 64 hexadecimal digits, or empty if unknown (docker-archive);
    ``size`` is in bytes, or -1 if unknown.
    """

    media_type: str
    digest: str
    size: int

    @property
    def label(self) -> str:
        """First digits of the digest, by which people tell layers apart."""
        return self.digest.removeprefix("sha256:")[:12] or "layer"


def digest_of(data: bytes) -> str:
    """Return the digest that a descriptor of ``data`` has."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Document:
    """Bytes of a manifest or an index; ``media_type`` is the type from the transport, or empty."""

    media_type: str
    digest: str
    data: bytes


class Repository(Protocol):
    """Documents and blobs behind a reference; all methods raise ImageError.

    The bytes are untrusted: the caller checks a blob's digest.
    """

    @property
    def local(self) -> bool:
        """True if blobs are on this machine's disk, and need no cached copy."""
        ...

    def root(self) -> Document:
        """Return the manifest or index that the reference names."""
        ...

    def document(self, descriptor: Descriptor) -> Document:
        """Return a manifest, an index or a configuration, checked against size and digest."""
        ...

    def blob(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Yield the bytes of a blob from ``offset`` on, unchecked."""
        ...

    def close(self) -> None:
        """Close connections and files."""
        ...
