"""Report of an interrupted image build."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from slipway._cli.terminal import Interrupted, write_line
from slipway._util.units import format_mib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._cli.progress import Progress
    from slipway_initramfs.store.image_store import ImageStore


@contextmanager
def report_interruption(store: ImageStore, progress: Progress) -> Iterator[None]:
    """Clean up after an interruption, and report the downloads that are kept."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        from slipway_initramfs.errors import ImageError
        from slipway_initramfs.store.garbage_collection import list_downloads, try_tidy

        progress.clear()
        with suppress(ImageError, OSError):
            try_tidy(store)
        kept = 0
        with suppress(OSError):
            kept = sum(path.stat().st_size for path in list_downloads(store))
        write_line(
            f"interrupted; kept {format_mib(kept, 0)} of downloads for the next try"
            " (to remove them: slipway image prune)"
            if kept
            else "interrupted; nothing is left behind"
        )
        raise
