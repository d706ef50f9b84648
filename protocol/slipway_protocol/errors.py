"""Exception of the protocol."""

from __future__ import annotations


class ProtocolError(ValueError):
    """Message that breaks a rule or bound of the protocol, in either direction.

    ``message`` is one sentence that names the message or field and the rule.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
