"""Authorization for a repository: answers to a registry's demand for a login.

The exchange follows the distribution project ("Token Authentication Specification", "Oauth2 Token
Authentication"), or Basic authentication (RFC 7617).
"""

from __future__ import annotations

import json
import re
import time
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING

import httpx

from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.oci.challenge import parse_challenges
from slipway_initramfs.oci.client import host_of, read_body, read_complaint
from slipway_initramfs.oci.credentials import find_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.oci.challenge import Challenge
    from slipway_initramfs.oci.client import Client
    from slipway_initramfs.oci.credentials import Credentials
    from slipway_initramfs.oci.reference import Reference

# Limit on a token server's answer, in bytes.
MAX_ANSWER = 256 << 10
# Shortest lifetime of a token in seconds, also its default (specification).
MIN_LIFETIME = 60

_CLIENT = "slipway"
_TOKEN = re.compile("[A-Za-z0-9._~+/=-]{1,65536}")  # b64token of RFC 6750, section 2.1


class Authorization:
    """Header ``Authorization`` for one repository, kept until it expires.

    The only scope is pulling from this repository: a single token is in use at a time.
    """

    def __init__(
        self, reference: Reference, client: Client, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reference = reference
        self._client = client
        self._clock = clock
        self._lock = Lock()
        self._header = ""
        self._until = 0.0
        self._origin = ""

    def header(self) -> str:
        """Return the value of the header, or an empty string if no valid value is known."""
        return self._header if self._clock() < self._until else ""

    def renew(self, response: httpx.Response, refused: str, said: str) -> None:
        """Replace the ``refused`` header, as the 401 ``response`` demands.

        ``said`` is the body of the response in words. Threads that were refused at the same time
        share the result.

        Raises:
            Interrupted: the token server fails for the moment.
            SourceUnavailable: the token server cannot be reached.
            BuildFailed: access is denied, or the demand is invalid.
        """
        with self._lock:
            if self.header() not in {"", refused}:
                return
            challenges = parse_challenges(response.headers.get_list("WWW-Authenticate"))
            # A registry that offers both schemes means Basic for its token server.
            for challenge in sorted(challenges, key=lambda one: one.scheme != "bearer"):
                if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                    self._header, lifetime = self._request_token(challenge, response.url.scheme)
                    self._until = self._clock() + lifetime
                    return
                if challenge.scheme == "basic":
                    found = find_credentials(self._reference)
                    if refused or found is None or found.identity_token:
                        raise self.make_refusal(said)
                    self._header, self._until = found.basic(), float("inf")
                    self._origin = found.origin
                    return
        raise self.make_refusal(said)

    def make_refusal(self, said: str) -> BuildFailed:
        """Return the error for an image that this user may not read.

        ``said`` is the registry's text.
        """
        who = f" with the login from {self._origin}" if self._origin else ""
        return BuildFailed(
            f"the registry {self._reference.registry} refuses {self._reference}{who}: {said}",
            f"If the image exists and is private: docker login {self._reference.registry}",
        )

    def _request_token(self, challenge: Challenge, scheme: str) -> tuple[str, float]:
        """Return a header with a new token, and its lifetime in seconds."""
        realm = challenge.parameters["realm"]
        scope = challenge.parameters.get("scope") or f"repository:{self._reference.repository}:pull"
        asked = {"client_id": _CLIENT, "scope": scope}
        if service := challenge.parameters.get("service"):
            asked["service"] = service
        self._check_realm(realm, scheme)
        found = find_credentials(self._reference)
        self._origin = found.origin if found else ""
        data = self._send_request(realm, asked, found)
        try:
            fields = json.loads(data)
            token = fields.get("token") or fields.get("access_token")
            lifetime = fields.get("expires_in")
        except (ValueError, AttributeError, RecursionError):
            token = lifetime = None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise BuildFailed(f"the answer of the token server {host_of(realm)} lacks a token")
        known = isinstance(lifetime, int | float) and MIN_LIFETIME < lifetime < 1 << 31
        return f"Bearer {token}", float(lifetime) if known else MIN_LIFETIME

    def _check_realm(self, realm: str, scheme: str) -> None:
        """Refuse to send credentials in plain text, or to an invalid address.

        Raises:
            BuildFailed: the token server's address is invalid or unencrypted.
        """
        try:
            url = httpx.URL(realm)
            plain = scheme == "http" and self._client.allows_plain(host_of(url))
            good = url.host and (url.scheme == "https" or (plain and url.scheme == "http"))
        except (httpx.InvalidURL, ValueError):
            good = False
        if not good:
            raise BuildFailed(
                f"the registry {self._reference.registry} names the token server {realm[:80]!r}, "
                "which is not https"
            )

    def _send_request(self, realm: str, asked: dict[str, str], found: Credentials | None) -> bytes:
        headers: dict[str, str] = {}
        form: dict[str, str] | None = None
        url = httpx.URL(realm)
        if found and found.identity_token:
            form = {
                **asked,
                "grant_type": "refresh_token",
                "refresh_token": found.identity_token,
            }
        else:
            url = url.copy_merge_params(asked)
            if found:
                headers["Authorization"] = found.basic()
        with self._client.stream(str(url), headers, form) as response:
            if response.status_code == HTTPStatus.OK:
                return read_body(response, MAX_ANSWER)
            raise self.make_refusal(
                f"its token server {host_of(realm)} answers {read_complaint(response)}"
            )
