"""Interrupted downloads through apt: received parts are kept and resumed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import psutil
import pytest

from support.waiting import LIMIT, block_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WHOLE, HALF = b"w" * 50_000, b"h" * 400_000
CODE = """
import sys
from pathlib import Path
from slipway._cli.interruption import report_interruption
from slipway._cli.progress import Progress
from slipway._cli.terminal import run_guarded
from slipway_initramfs.debian.archive import DebianArchive, Package
from slipway_initramfs.store.image_store import ImageStore

def command(arguments):
    root, host, *digests = arguments
    store = ImageStore(Path(root))
    source = DebianArchive(store.apt, "amd64", lambda line: None)
    packages = [
        Package(name, "1", "amd64", f"http://{host}/{name}", int(size), digest)
        for name, size, digest in (text.split(":") for text in digests)
    ]
    with report_interruption(store, Progress()):
        for path in source.fetch(packages):
            print(path.stat().st_size)
    return 0

run_guarded(command, sys.argv[1:])
"""


class _Mirror(ThreadingHTTPServer):
    """Sends half of a file, then waits for ``go_on``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.half_is_out = threading.Event()
        self.go_on = threading.Event()
        self.ranges: list[str] = []
        self.whole = 0
        self.host = f"127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Mirror

    def do_GET(self) -> None:
        data = {"/whole": WHOLE, "/half": HALF}[self.path]
        asked = self.headers.get("Range", "")
        self.server.whole += data is WHOLE
        if asked:
            self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").partition("-")[0] or 0) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Last-Modified", "Tue, 14 Nov 2023 00:00:00 GMT")
        self.end_headers()
        if data is HALF and not self.server.go_on.is_set():
            self.wfile.write(data[: len(data) // 2])
            self.server.half_is_out.set()
            block_until(self.server.go_on.is_set, "the test lets the mirror go on")
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror() -> Iterator[_Mirror]:
    with _Mirror() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join(LIMIT)
        assert not thread.is_alive(), "the mirror has ended"


@contextmanager
def fetching(store: Path, mirror: _Mirror) -> Iterator[subprocess.Popen[str]]:
    files = [
        f"{name}:{len(data)}:{hashlib.sha256(data).hexdigest()}"
        for name, data in (("whole", WHOLE), ("half", HALF))
    ]
    command = [sys.executable, "-c", CODE, str(store), mirror.host, *files]
    environment = {**os.environ, "no_proxy": "127.0.0.1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(
    process: subprocess.Popen[str], condition: Callable[[], bool], sentence: str
) -> None:
    block_until(lambda: condition() or process.poll() is not None, sentence, limit=240)
    assert process.poll() is None, f"ended before: {sentence}: {process.communicate()[1]}"


def sizes(directory: Path) -> list[int]:
    return sorted(path.stat().st_size for path in directory.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.debian("apt-get")
def test_an_interrupted_download_is_reported_and_resumed(
    tmp_path: Path, mirror: _Mirror, number: signal.Signals
) -> None:
    store = tmp_path / "store"
    with fetching(store, mirror) as process:
        wait_until(process, mirror.half_is_out.is_set, "the mirror sends half of a file")
        partial = store / "apt" / "amd64" / "partial"
        wait_until(process, lambda: len(HALF) // 2 in sizes(partial), "apt has stored that half")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        _, said = process.communicate(timeout=240)
    _, alive = psutil.wait_procs(children, timeout=30)
    killed = number == signal.SIGKILL
    kept = sizes(store / "apt" / "downloads") + (sizes(partial)[:1] if killed else [])
    mirror.go_on.set()
    with fetching(store, mirror) as process:
        got, told = process.communicate(timeout=240)

    assert process.returncode == 0, told
    assert alive == []
    assert killed or "slipway: interrupted; kept 0 MiB of downloads" in said
    assert killed or "slipway image prune" in said
    assert "Traceback" not in said
    assert kept == [len(WHOLE)]
    assert got.split() == [str(len(WHOLE)), str(len(HALF))]
    # A killed apt has not noted how old the half is, by which it could be gone on with.
    assert killed or mirror.ranges == [f"bytes={len(HALF) // 2}-"]
    assert mirror.whole == 1
    assert sizes(partial) == []
