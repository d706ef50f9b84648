"""What can go wrong while images are made, stored and looked up."""

from __future__ import annotations


class ImageError(Exception):
    """An image or one of its ingredients is missing, wrong or cannot be made.

    ``message`` says what was wrong and where, ``hint`` what to do about it (may be empty).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UnknownLanguage(ImageError):
    """No language has this name or file suffix."""


class InvalidLanguage(ImageError):
    """A language file breaks a rule; the message names file and key."""


class ImageCorrupted(ImageError):
    """Bytes in the store, or of a package, are not those that its digest promises."""


class BuildFailed(ImageError):
    """An image could not be made: no apt, no network, disk full, unknown package."""


class SourceUnavailable(BuildFailed):
    """A registry does not answer, or not now; another source may do."""


class DiskFull(BuildFailed):
    """A disk has less room than is needed, or none any more."""


class InvalidReference(ImageError):
    """What names an image, or where to look for it, breaks the rules of such names."""
