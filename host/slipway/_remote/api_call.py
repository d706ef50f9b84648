"""Call of a server's API, without input and output: the request, its answer, and all errors."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

from slipway._remote.http_message import AnswerParser, encode_request
from slipway._remote.problems import decode_problem
from slipway._util.errors import HostError, InputError, UnknownOutcome
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import decode_line

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bytes that are sent or received at once.
PIECE = 256 * 1024


class ApiCall:
    """Call of ``method target`` of the server at ``path``.

    ``request`` are the bytes to send. Feed ``answer`` with the bytes that arrive, then ``decode()``
    it.

    Raises:
        InputError: a header field cannot be sent.
    """

    def __init__(
        self,
        path: str,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.has_body = body is not None
        self.answer = AnswerParser()
        content = None if body is None else json.dumps(body).encode("ascii")
        self.request = encode_request(method, target, content, headers or {})
        self._name = f"{method} {target}"

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the answer; empty ``data`` is the end of the connection.

        Raises:
            UnknownOutcome: the answer is invalid, or ended too early.
        """
        self.answer.feed(data)
        if not data and not self.answer.is_complete:
            raise self.make_break_error("it closed the connection")

    def decode(self) -> dict[str, Any]:
        """Return the object in a complete answer; {} if the answer is empty.

        Raises:
            SlipwayError: the server refused; the error is the one in the answer.
            UnknownOutcome: the answer is not a JSON object.
        """
        text = bytes(self.answer.body)
        if not 200 <= self.answer.status < 300:
            raise decode_problem(self.answer.status, text)
        try:
            return decode_line(text) if text else {}
        except InputError as error:
            raise make_protocol_error(error.message) from None

    def make_timeout_error(self, seconds: float) -> UnknownOutcome:
        """Return the error of a server that was silent for ``seconds``."""
        return UnknownOutcome(
            f"the server at {self.path} did not answer {self._name} within {seconds:g} s"
        )

    def make_break_error(self, reason: str) -> UnknownOutcome:
        """Return the error of a connection that broke after the request."""
        return UnknownOutcome(
            f"the server at {self.path} went away while it handled {self._name}: {reason}"
        )

    def make_connect_error(self, error: OSError) -> HostError:
        """Return the error of a server that cannot be reached; nothing was sent."""
        if isinstance(error, PermissionError):
            return HostError(
                f"cannot open the server's socket {self.path}: {error.strerror}",
                "Ask for access to the socket: slipway serve --mode, --owner.",
            )
        if _is_other_file(self.path):
            return HostError(
                f"{self.path} is no socket", "Name the socket that the server listens on."
            )
        return HostError(
            f"no server listens at {self.path}",
            f"Start one: slipway serve --api-sock {self.path}",
        )


def _is_other_file(path: str) -> bool:
    try:
        return not stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - pathlib costs start-up
    except (OSError, ValueError):
        return False
