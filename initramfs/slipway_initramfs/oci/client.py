"""HTTP client for registries: TLS, proxies, redirects, and errors in words.

Each call is a single exchange; the caller decides whether to repeat it (retry.py).
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING

import certifi
import httpx

from slipway_initramfs.errors import BuildFailed, ImageError, SourceUnavailable
from slipway_initramfs.oci.reference import is_loopback
from slipway_initramfs.oci.retry import Interrupted, retry_after
from slipway_protocol import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from slipway_initramfs.oci.retry import RetryPolicy

MAX_REDIRECTS = 5
# Bytes of an error response that are read.
MAX_EXCERPT = 64 << 10

# Seconds in which at least WINDOW_BYTES of a body must arrive.
WINDOW = 60
WINDOW_BYTES = 64 << 10

_REDIRECTS = {301, 302, 303, 307, 308}
_MAY_PASS = {429, 500, 502, 503, 504}
# Reasons of OpenSSL if the peer's first bytes are not a TLS record.
_NO_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
}
_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)


class NotTls(BuildFailed):
    """The peer answers a TLS handshake with other data."""


@dataclass(frozen=True, slots=True)
class Access:
    """Permissions and trust for connections to registries.

    ``insecure`` allows plain http to other machines that do not speak TLS; ``ca`` is a PEM file
    with certificates to trust besides the system's.
    """

    insecure: bool = False
    ca: Path | None = None


class Client:
    """HTTP client; may be used by several threads."""

    def __init__(self, access: Access, policy: RetryPolicy) -> None:
        self._access = access
        self._timeout = httpx.Timeout(policy.silence, connect=policy.connect, pool=None)
        self._context = _create_tls_context(access.ca)
        self._lock = Lock()
        self._clients: dict[bool, httpx.Client] = {}

    def allows_plain(self, host: str) -> bool:
        """Check whether http without TLS is allowed for a host."""
        return self._access.insecure or is_loopback(host)

    @contextmanager
    def stream(
        self, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """Get ``url``, or post ``form`` to it; yield the response with its body unread.

        Redirects are followed; ``Authorization`` is sent to the host of ``url`` only.

        Raises:
            Interrupted: the exchange fails for the moment, also while the body is read.
            SourceUnavailable: the host cannot be reached.
            NotTls: the host does not speak TLS.
            BuildFailed: the exchange fails for another reason.
        """
        host = url[:80]
        try:
            target, headers = httpx.URL(url), dict(headers)
            for _ in range(MAX_REDIRECTS + 1):
                host = host_of(target)
                client = self._get_client(is_loopback(host))
                request = client.build_request(
                    "GET" if form is None else "POST", target, headers=headers, data=form
                )
                response = client.send(request, stream=True)
                try:
                    if response.status_code not in _REDIRECTS or form is not None:
                        if response.status_code in _MAY_PASS:
                            raise _make_interruption(host, response)
                        yield response
                        return
                    following = _find_redirect_target(target, response)
                finally:
                    response.close()
                if origin_of(following) != origin_of(target):
                    headers.pop("Authorization", None)
                target = following
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            # ValueError: httpx raises it for some invalid addresses.
            raise _translate_error(host, error) from error
        raise BuildFailed(f"{host} redirects more than {MAX_REDIRECTS} times")

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()

    def _get_client(self, direct: bool) -> httpx.Client:
        """Return the client that goes through the user's proxies, or that for this machine."""
        with self._lock:
            if direct not in self._clients:
                try:
                    self._clients[direct] = httpx.Client(
                        verify=self._context,
                        timeout=self._timeout,
                        trust_env=not direct,
                        headers={
                            "User-Agent": f"slipway/{__version__}",
                            # The digest is that of the stored bytes: no further encoding.
                            "Accept-Encoding": "identity",
                        },
                    )
                except (ValueError, ImportError, httpx.InvalidURL) as error:
                    raise BuildFailed(
                        f"the proxy of this environment cannot be used: {str(error)[:120]}",
                        "Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.",
                    ) from error
            return self._clients[direct]


def read_body(response: httpx.Response, limit: int) -> bytes:
    """Return the body of a response.

    Raises:
        ImageError: the body has more than ``limit`` bytes.
    """
    data = bytearray()
    for chunk in read_pieces(response):
        data += chunk
        if len(data) > limit:
            host = host_of(response.url)
            raise ImageError(f"{host} sends a document of more than {limit >> 10} KiB")
    return bytes(data)


def read_pieces(response: httpx.Response) -> Iterator[bytes]:
    """Yield the body of a response as it arrives.

    The limit on silence alone would accept a server that sends a byte now and then for ever.

    Raises:
        Interrupted: the server is too slow.
    """
    begun, received = time.monotonic(), 0
    for piece in response.iter_raw():
        if received >= WINDOW_BYTES:
            begun, received = time.monotonic(), 0
        elif time.monotonic() - begun > WINDOW:
            raise Interrupted(f"{host_of(response.url)} is too slow", "Try again later.")
        received += len(piece)
        yield piece


def read_complaint(response: httpx.Response) -> str:
    """Return status and error messages of a response as a line of printable characters.

    The messages are those of the distribution specification ("Error Codes").
    """
    status = response.status_code
    errors: list[object] = []
    try:
        fields = json.loads(read_body(response, MAX_EXCERPT))
        errors = list(fields["errors"])[:3]
    except (ValueError, LookupError, TypeError, RecursionError, ImageError):
        # The server may not be a registry, or the registry may send only a status.
        pass
    parts = [
        ": ".join(str(error[name])[:100] for name in ("code", "message") if error.get(name))
        for error in errors
        if isinstance(error, dict)
    ]
    said = "; ".join(part for part in parts if part)
    printable = "".join(letter if letter.isprintable() else " " for letter in said)
    phrase = httpx.codes.get_reason_phrase(status)
    return f"{status} {phrase}{': ' if printable else ''}{printable}"


def origin_of(url: httpx.URL | str) -> tuple[str, str, int | None]:
    """Return the origin of an address: scheme, host and port (RFC 6454)."""
    url = httpx.URL(url)
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def host_of(url: httpx.URL | str) -> str:
    """Return host and port of an address as people write them, at most 80 characters."""
    return httpx.URL(url).netloc.decode()[:80]


def _create_tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's certificates, ``SSL_CERT_FILE`` and ``ca``."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        context.load_verify_locations(certifi.where())
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or error
            raise BuildFailed(
                f"cannot read certificates from {ca}: {reason}", "A PEM file is needed."
            ) from error
    return context


def _find_redirect_target(source: httpx.URL, response: httpx.Response) -> httpx.URL:
    host = host_of(source)
    location = response.headers.get("Location", "")
    target = source.join(location)
    if not location or target.scheme not in {"http", "https"} or not target.host:
        raise BuildFailed(f"{host} redirects to {location[:80]!r}, which is not a valid address")
    if (source.scheme, target.scheme) == ("https", "http"):
        raise BuildFailed(f"{host} redirects from https to plain http at {host_of(target)}")
    return target


def _make_interruption(host: str, response: httpx.Response) -> Interrupted:
    hint = "Try again later."
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        hint = f"Try again later; with a login more may be allowed: docker login {host}"
    wanted = retry_after(response.headers.get("Retry-After"))
    if wanted:
        hint = f"{hint.removesuffix('.')} (it asks for {wanted:.0f} s)."
    return Interrupted(f"{host} answers {read_complaint(response)}", hint, wanted)


def _translate_error(host: str, error: Exception) -> BuildFailed:
    """Return the error for users that an exception of httpx stands for."""
    causes = list(_walk_causes(error))
    reason = str(causes[-1])[:160] or type(error).__name__
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return BuildFailed(
                f"the certificate of {host} is not trusted: {cause.verify_message or cause.reason}",
                "If the registry has a certificate authority of its own, name its file with --ca.",
            )
        if isinstance(cause, socket.gaierror):
            return SourceUnavailable(
                f"cannot find the host {host}: {cause.strerror}", "Is this machine online?"
            )
    if isinstance(error, httpx.ConnectError):
        for cause in causes:
            no_tls = isinstance(cause, ssl.SSLError) and (cause.reason or "") in _NO_TLS
            if no_tls or isinstance(cause, _HUNG_UP):
                return NotTls(
                    f"{host} does not speak TLS: {reason}",
                    "If it is meant to be without encryption: --insecure",
                )
    if isinstance(error, httpx.ProxyError):
        return SourceUnavailable(
            f"the proxy cannot reach {host}: {reason}", "Check HTTPS_PROXY and NO_PROXY."
        )
    if isinstance(error, httpx.ConnectTimeout):
        return SourceUnavailable(f"cannot connect to {host} in time", "Is this machine online?")
    if isinstance(error, httpx.ConnectError):
        return SourceUnavailable(f"cannot connect to {host}: {reason}", "Is this machine online?")
    if isinstance(error, httpx.TimeoutException):
        return Interrupted(f"{host} has stopped responding", "Try again later.")
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return Interrupted(f"the exchange with {host} broke: {reason}", "Try again later.")
    return BuildFailed(f"the request to {host} failed: {reason}")


def _walk_causes(error: BaseException | None) -> Iterator[BaseException]:
    # httpcore removes its causes; an ImageError handled before is not a cause.
    while error is not None and not isinstance(error, ImageError):
        yield error
        error = error.__cause__ or error.__context__
