"""Request for a run, as it travels whole from the edge to the job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.options import Options


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Source, language, options and input of a run, before its language is looked up.

    ``language`` is a name, perhaps with a version; it is empty for a run in a session, which has
    its own. ``stdin`` is None if the caller writes it later.
    """

    source: bytes
    language: str
    options: Options
    stdin: bytes | AsyncIterator[bytes] | None = b""
