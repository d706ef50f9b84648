"""Repository of a container registry (OCI distribution specification 1.1, "Pull")."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError, SourceUnavailable
from slipway_initramfs.oci.authorization import Authorization
from slipway_initramfs.oci.client import (
    Access,
    Client,
    NotTls,
    origin_of,
    read_body,
    read_complaint,
    read_pieces,
)
from slipway_initramfs.oci.manifests import ACCEPTED, DOCKER_CONFIG, OCI_CONFIG
from slipway_initramfs.oci.repository import MAX_DOCUMENT, Document, digest_of
from slipway_initramfs.oci.retry import Interrupted, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import httpx

    from slipway_initramfs.oci.reference import Reference
    from slipway_initramfs.oci.repository import Descriptor

__all__ = ["Access", "Registry"]

# Bytes of progress after which a broken transfer counts as a first failure again.
PROGRESS = 64 << 10

_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")
_CONFIGS = {OCI_CONFIG, DOCKER_CONFIG}


class Registry:
    """Repository behind a registry's reference; may be used by several threads.

    Requests are sent on demand. Temporary failures are repeated, and a broken blob is resumed, as
    ``policy`` says. All methods raise ImageError: SourceUnavailable if the registry cannot be
    reached or fails, BuildFailed if it refuses, ImageCorrupted if its bytes do not match a digest
    or size.
    """

    local = False

    def __init__(
        self, reference: Reference, access: Access, policy: RetryPolicy | None = None
    ) -> None:
        self._reference = reference
        self._policy = policy or RetryPolicy()
        self._client = Client(access, self._policy)
        self._authorization = Authorization(reference, self._client)
        self._scheme = "https"

    def root(self) -> Document:
        """Return the manifest or index that the reference names."""
        name = self._reference.digest or self._reference.tag
        what = f"the manifest of {self._reference}"
        return self._fetch_document(f"manifests/{name}", what, self._reference.digest)

    def document(self, descriptor: Descriptor) -> Document:
        """Return a manifest, an index or a configuration, checked against size and digest."""
        kind = "blobs" if descriptor.media_type in _CONFIGS else "manifests"
        what = f"the document {descriptor.label} of {self._reference}"
        if descriptor.size > MAX_DOCUMENT:
            raise ImageError(f"{what} has {descriptor.size} bytes, more than {MAX_DOCUMENT}")
        document = self._fetch_document(f"{kind}/{descriptor.digest}", what, descriptor.digest)
        if descriptor.size != len(document.data):
            raise ImageCorrupted(
                f"{what} has {len(document.data)} bytes instead of {descriptor.size}"
            )
        return document

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Yield the bytes of a blob from ``offset`` on, unchecked."""
        chunks = self._fetch_chunks(descriptor, offset)
        try:
            yield chunks
        finally:
            chunks.close()

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _fetch_document(self, path: str, what: str, expected: str) -> Document:
        def ask() -> Document:
            headers = {"Accept": ", ".join(ACCEPTED)} if path.startswith("manifests/") else {}
            with self._open_path(path, headers) as response:
                if response.status_code != HTTPStatus.OK:
                    raise self._make_refusal(response, what)
                media_type = response.headers.get("Content-Type", "")
                if media_type.partition(";")[0].strip().lower() == "text/html":
                    raise BuildFailed(
                        f"{self._reference.registry} answers with a web page; it is not a registry",
                        "Check the host and the port of the reference.",
                    )
                data = read_body(response, MAX_DOCUMENT)
                digest = digest_of(data)
                reported = response.headers.get("Docker-Content-Digest", "")
                for promised in (expected, reported if reported.startswith("sha256:") else ""):
                    if promised not in ("", digest):
                        raise ImageCorrupted(
                            f"{what} has the digest {digest[:19]}... instead of {promised[:19]!r}"
                        )
                return Document(media_type, digest, data)

        return self._policy.retry(ask)

    def _fetch_chunks(self, descriptor: Descriptor, offset: int) -> Generator[bytes, None, None]:
        position = mark = offset
        failures = 0
        while True:
            try:
                with self._open_range(descriptor, position) as data:
                    for chunk in data:
                        position += len(chunk)
                        yield chunk
                if position >= descriptor.size:
                    return
                raise Interrupted(
                    f"{self._reference.registry} sent {position} of the "
                    f"{descriptor.size} bytes of layer {descriptor.label}",
                    "Try again later.",
                )
            except Interrupted as error:
                # Some progress is wanted, or else a byte at a time would go on for years.
                failures = 1 if position - mark >= PROGRESS else failures + 1
                mark = position
                self._policy.wait(failures, error)

    @contextmanager
    def _open_range(self, descriptor: Descriptor, offset: int) -> Iterator[Iterator[bytes]]:
        """Yield the bytes of a response from ``offset`` on."""
        what = f"layer {descriptor.label} of {self._reference}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._open_path(f"blobs/{descriptor.digest}", headers) as response:
            status = response.status_code
            start, total = 0, response.headers.get("Content-Length", "")
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise ImageCorrupted(f"{what} has no more than {offset} bytes in the registry")
            if status == HTTPStatus.PARTIAL_CONTENT:
                reported = response.headers.get("Content-Range", "")
                found = _CONTENT_RANGE.fullmatch(reported)
                if found is None or int(found[1]) != offset:
                    raise ImageError(
                        f"the registry answers with the range {reported[:80]!r} to a request "
                        f"for {what} from byte {offset} on"
                    )
                start, total = offset, found[3]
            elif status != HTTPStatus.OK:
                raise self._make_refusal(response, what)
            if total.isascii() and total.isdigit() and total != str(descriptor.size):
                raise ImageCorrupted(
                    f"{what} has {total[:20]} bytes in the registry instead of {descriptor.size}"
                )
            yield _skip_bytes(read_pieces(response), offset - start)

    @contextmanager
    def _open_path(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Get a path of the repository; repeat the request once if the registry demands a login."""
        with ExitStack() as stack:
            used = self._authorization.header()
            response = self._send_request(stack, path, headers, used)
            if self._asks_for_login(response):
                # Read the body in any case: an unread body costs a new connection.
                said = read_complaint(response)
                self._authorization.renew(response, used, said)
                stack.close()
                response = self._send_request(stack, path, headers, self._authorization.header())
                if self._asks_for_login(response):
                    raise self._authorization.make_refusal(read_complaint(response))
            yield response

    def _send_request(
        self, stack: ExitStack, path: str, headers: dict[str, str], authorization: str
    ) -> httpx.Response:
        if authorization:
            headers = {**headers, "Authorization": authorization}
        try:
            return stack.enter_context(self._client.stream(self._build_url(path), headers))
        except NotTls:
            if not self._client.allows_plain(self._reference.host):
                raise
        self._scheme = "http"
        return stack.enter_context(self._client.stream(self._build_url(path), headers))

    def _build_url(self, path: str) -> str:
        return f"{self._scheme}://{self._reference.host}/v2/{self._reference.repository}/{path}"

    def _asks_for_login(self, response: httpx.Response) -> bool:
        """Check whether the registry itself demands a login, and not the host of its blobs."""
        asked = origin_of(response.url) == origin_of(self._build_url(""))
        return asked and response.status_code == HTTPStatus.UNAUTHORIZED

    def _make_refusal(self, response: httpx.Response, what: str) -> ImageError:
        said = read_complaint(response)
        if response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return self._authorization.make_refusal(f"{response.url.host} answers {said}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            return BuildFailed(
                f"the registry {self._reference.registry} does not have {what} ({said})",
                "Check the spelling; name and tag may be removed or private.",
            )
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return SourceUnavailable(f"{response.url.host} answers {said}", "Try again later.")
        return BuildFailed(f"{response.url.host} answers {said} to the request for {what}")


def _skip_bytes(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Skip the first ``count`` bytes, from a server without support for ranges."""
    for chunk in chunks:
        rest = chunk[count:]
        count -= len(chunk) - len(rest)
        if rest:
            yield rest
