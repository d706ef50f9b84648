"""Identifiers of runs and sessions: 128 random bits as hexadecimal digits."""

from __future__ import annotations

import re
import secrets

IDENTIFIER_PATTERN = "[0-9a-f]{32}"
# Characters of an identifier.
IDENTIFIER_LENGTH = 32
_IDENTIFIER = re.compile(IDENTIFIER_PATTERN)


def create_identifier() -> str:
    """Return a new random identifier."""
    return secrets.token_hex(IDENTIFIER_LENGTH // 2)


def is_identifier(text: str) -> bool:
    """Tell if ``text`` has the form of an identifier."""
    return _IDENTIFIER.fullmatch(text) is not None
