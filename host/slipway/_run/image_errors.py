"""Translation of errors of slipway_initramfs into those of slipway."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from slipway._util.errors import ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def translated_image_errors() -> Iterator[None]:
    """Raise errors of slipway_initramfs in the body as ImageError or InputError."""
    from slipway_initramfs.errors import ImageError as BuildError
    from slipway_initramfs.errors import InvalidLanguage, InvalidReference, UnknownLanguage

    try:
        yield
    except (InvalidLanguage, InvalidReference, UnknownLanguage) as error:
        raise InputError(error.message, error.hint) from None
    except BuildError as error:
        raise ImageError(error.message, error.hint) from error
