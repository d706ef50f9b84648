"""What a reference leads to, whether it is a registry, a layout directory or an archive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    # Called with a blob's short name, the bytes that have come and those that will, in total.
    Transfers = Callable[[str, int, int], None]

# Most bytes of an index, a manifest or a configuration; registries refuse more as well.
MAX_DOCUMENT = 4 << 20


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob as a manifest names it (OCI image specification, "Content Descriptors").

    ``digest`` is ``sha256:`` and 64 hexadecimal digits, or empty where the container of the blob
    does not say it (docker-archive); ``size`` is in bytes, or -1 where it is not said either.
    """

    media_type: str
    digest: str
    size: int

    @property
    def label(self) -> str:
        """The first digits of the digest, by which people tell layers apart."""
        return self.digest.removeprefix("sha256:")[:12] or "layer"


def digest_of(data: bytes) -> str:
    """Return the digest by which a descriptor names ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index, as its bytes; ``media_type`` is what came with them, or empty."""

    media_type: str
    digest: str
    data: bytes


class Repository(Protocol):
    """Gives the documents and blobs of one reference; any method raises ImageError.

    Nothing is trusted because it came from here: who asks for a blob checks its digest.
    """

    @property
    def local(self) -> bool:
        """Whether blobs are read from this machine's disk, so that no copy need be kept."""
        ...

    def root(self) -> Document:
        """Return the manifest or index that the reference names."""
        ...

    def document(self, descriptor: Descriptor) -> Document:
        """Return a manifest, an index or a configuration, its size and digest checked."""
        ...

    def blob(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Give the bytes of a blob from ``offset`` on, as they come, unchecked."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...
