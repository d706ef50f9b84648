"""Paths and names in archives that nobody vouches for, by the rules of the kernel."""

from __future__ import annotations

from slipway_initramfs.errors import ImageError

# The kernel's PATH_MAX without its NUL: init/initramfs.c skips longer names and link targets.
MAX_PATH = 4095
MAX_NAME = 255


def split(path: str) -> list[str]:
    """Take a relative path apart; absolute, climbing, overlong and impossible ones are refused."""
    if path.startswith("/"):
        raise ImageError(f"absolute path {path[:80]!r} in a layer")
    check_length(path)
    if "\0" in path:
        raise ImageError(f"a path has a NUL: {path[:80]!r}")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageError(f"path {path[:80]!r} climbs out of its directory")
    return parts


def check_length(path: str) -> None:
    """Raise ImageError for a path that the kernel would pass over without a word."""
    # No character takes more than four bytes.
    if len(path) > MAX_PATH // 4 and len(encode(path)) > MAX_PATH:
        raise ImageError(f"a path has more than {MAX_PATH} bytes: {path[:80]!r}...")


def encode(text: str) -> bytes:
    """Return the bytes of a file name, which need not be UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ImageError(f"a name that is no text: {text[:80]!r}") from error
