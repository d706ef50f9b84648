"""The one exception of the protocol."""

from __future__ import annotations


class ProtocolError(ValueError):
    """A message of ours breaks a bound of the protocol, or a peer's breaks its rules.

    ``message`` is one sentence that names what was wrong and where.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
