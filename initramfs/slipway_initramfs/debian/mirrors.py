"""Debian mirrors of the machine's apt configuration.

Third-party repositories are left out: their packages may have the names of Debian's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

# Debian release of all images, independent of the release of this machine.
RELEASE = "bookworm"
# Suites of Debian's archive that form a release.
SUITES = (RELEASE, f"{RELEASE}-updates", f"{RELEASE}-security")
# Mirrors for a machine without a mirror of the release.
FALLBACK = (
    ("http://deb.debian.org/debian", RELEASE),
    ("http://deb.debian.org/debian", f"{RELEASE}-updates"),
    ("http://deb.debian.org/debian-security", f"{RELEASE}-security"),
)


def read_sources(directory: Path) -> tuple[tuple[str, str], ...]:
    """Return (URI, suite) of all Debian mirrors in ``/etc/apt`` that serve RELEASE."""
    found: list[tuple[str, str]] = []
    files = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            found += _parse_deb822(text)
        elif path.suffix == ".list":
            found += _parse_one_line(text)
    chosen = tuple(dict.fromkeys(pair for pair in found if _is_debian(*pair)))
    return chosen if any(suite == RELEASE for _, suite in chosen) else ()


def _parse_deb822(text: str) -> list[tuple[str, str]]:
    found = []
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = {
            key.lower(): value
            for key, _, value in (line.partition(":") for line in stanza.splitlines())
        }
        words = {key: value.split() for key, value in fields.items()}
        if (
            "deb" in words.get("types", [])
            and "main" in words.get("components", [])
            and "suites" in words
            and words.get("enabled", ["yes"]) != ["no"]
            and "debian" in fields.get("signed-by", "debian")
        ):
            found += [(uri, suite) for uri in words.get("uris", []) for suite in words["suites"]]
    return found


def _parse_one_line(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if match is None or "main" not in match[4].partition("#")[0].split():
            continue
        if "signed-by=" not in (match["options"] or "") or "debian" in match["options"]:
            found.append((match[2], match[3]))
    return found


def _is_debian(uri: str, suite: str) -> bool:
    """Check whether URI and suite look like a mirror of Debian itself.

    The signature decides in the end; but a third party's repository would make the update fail.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    last = parts.path.rstrip("/").rpartition("/")[2]
    official = (parts.hostname or "").endswith(".debian.org")
    return (
        suite.rstrip("/") in SUITES
        and parts.scheme in ("http", "https")
        and (official or last.startswith("debian"))
        and not re.search(r"[\s\"'\[\]]", uri)
    )
