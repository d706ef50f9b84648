"""Paths and names from untrusted archives, checked by the rules of the kernel."""

from __future__ import annotations

from slipway_initramfs.errors import ImageError

# The kernel's PATH_MAX without the NUL: init/initramfs.c skips longer names and link targets.
MAX_PATH = 4095
MAX_NAME = 255


def split(path: str) -> list[str]:
    """Split a relative path.

    Raises:
        ImageError: the path is absolute, too long, has a NUL or a part "..".
    """
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
    """Check that a path is not longer than MAX_PATH; the kernel skips longer paths silently.

    Raises:
        ImageError: the path is longer.
    """
    # No character takes more than four bytes.
    if len(path) > MAX_PATH // 4 and len(encode(path)) > MAX_PATH:
        raise ImageError(f"a path has more than {MAX_PATH} bytes: {path[:80]!r}...")


def encode(text: str) -> bytes:
    """Return the bytes of a file name, which need not be UTF-8.

    Raises:
        ImageError: the name has lone surrogates that stand for no byte.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ImageError(f"a name that cannot be encoded: {text[:80]!r}") from error
