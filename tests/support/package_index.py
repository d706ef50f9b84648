"""Index of Python packages that a test serves, with one small package."""

from __future__ import annotations

import io
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHEEL = "greeting-1.0-py3-none-any.whl"
# What its module has.
TEXT = "hello from a package"


def build_wheel() -> bytes:
    """Return the wheel of the package ``greeting``."""
    data = io.BytesIO()
    information = "greeting-1.0.dist-info"
    with zipfile.ZipFile(data, "w") as wheel:
        wheel.writestr("greeting.py", f"TEXT = {TEXT!r}\n")
        wheel.writestr(
            f"{information}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{information}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{information}/RECORD", "")
    return data.getvalue()


def write_index(directory: Path) -> None:
    """Write the files of an index with that package (PEP 503)."""
    (directory / "greeting").mkdir(parents=True)
    (directory / "greeting" / WHEEL).write_bytes(build_wheel())


class QuietHandler(SimpleHTTPRequestHandler):
    """Handler without a log."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serve_directory(directory: Path, address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Serve the files of ``directory``; return the port."""
    handler = partial(QuietHandler, directory=str(directory))
    with ThreadingHTTPServer((address, port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
