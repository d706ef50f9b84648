"""Errors of image making, as those that callers see."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from slipway._model.errors import ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def translated_image_errors() -> Iterator[None]:
    """Errors of making and finding images, as those of our own tree."""
    from slipway_initramfs.errors import ImageError as BuildError
    from slipway_initramfs.errors import InvalidLanguage, InvalidReference, UnknownLanguage

    try:
        yield
    except (InvalidLanguage, InvalidReference, UnknownLanguage) as error:
        raise InputError(error.message, error.hint) from None
    except BuildError as error:
        raise ImageError(error.message, error.hint) from error
