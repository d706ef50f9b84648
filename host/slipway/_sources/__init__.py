"""Which of a job's files its build is told of, and what source and program are called.

The language file has placeholders for that, and names the rules; ``docs/languages.md`` tells users.
Everything is decided from the files of the job itself: what earlier runs of a session have left is
not compiled again.
"""

from __future__ import annotations

from slipway._sources.arrangement import (
    MAX_SOURCE_NAMES,
    Arrangement,
    arrange,
    check_source_names,
    keep_names,
)

__all__ = ["MAX_SOURCE_NAMES", "Arrangement", "arrange", "check_source_names", "keep_names"]
