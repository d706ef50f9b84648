"""Sources: the files of a job that its build compiles, and the names of source and program.

The language file has placeholders for them, and names the rules; users read docs/languages.md.
Only files of the job itself are considered: files that earlier runs of a session have left are not
compiled again.
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
