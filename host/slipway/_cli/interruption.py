"""What is said when a person interrupts the making of images."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from slipway._cli.terminal import Interrupted, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._cli.terminal import Progress
    from slipway_initramfs.store.image_store import ImageStore


@contextmanager
def interruption_told(store: ImageStore, progress: Progress) -> Iterator[None]:
    """Remove what an interruption leaves, and say what is kept for the next try."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        from slipway_initramfs.errors import ImageError
        from slipway_initramfs.store.garbage_collection import list_downloads, try_tidy

        progress.done()
        with suppress(ImageError, OSError):
            try_tidy(store)
        kept = 0
        with suppress(OSError):
            kept = sum(path.stat().st_size for path in list_downloads(store))
        say(
            f"interrupted; {kept / 1e6:.0f} MB of downloads are kept, and the same command goes on"
            " from there ('slipway image prune' removes them)"
            if kept
            else "interrupted; nothing is left of it"
        )
        raise
