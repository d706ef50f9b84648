"""Errors of building, storing and finding images."""

from __future__ import annotations


class ImageError(Exception):
    """An image or an ingredient of an image is missing, invalid or cannot be built.

    ``message`` says what is wrong and where, ``hint`` what to do about it (may be empty).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UnknownLanguage(ImageError):
    """A language name or file suffix is unknown."""


class InvalidLanguage(ImageError):
    """A language file breaks a rule; the message names file and key."""


class ImageCorrupted(ImageError):
    """Bytes in the store, or of a package, do not match their digest."""


class UntrustedFile(ImageError):
    """A file of the store is a link or no plain file, of another user, or writable by others."""


class BuildFailed(ImageError):
    """An image cannot be built: no apt, no network, disk full, unknown package."""


class SourceUnavailable(BuildFailed):
    """A registry or mirror does not answer, or not now; another source may."""


class DiskFull(BuildFailed):
    """A disk is full, or has less space than a task needs."""


class InvalidReference(ImageError):
    """The name of an image, registry or source is invalid."""
