from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from threading import Barrier, Event, Thread
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import BuildFailed, ImageCorrupted, SourceUnavailable
from slipway_initramfs.oci.blob_cache import REPORT, BlobCache
from slipway_initramfs.oci.repository import Descriptor, Document
from support.layers import digest
from support.waiting import LIMIT, block_until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    Chunks = Generator[bytes, None, None]

DATA = os.urandom(3 * REPORT + 1)
CHUNK = 64 << 10


def descriptor_of(data: bytes, size: int | None = None) -> Descriptor:
    return Descriptor("layer", digest(data), len(data) if size is None else size)


BLOB = descriptor_of(DATA)


class Memory:
    """A repository with blobs from ``give``; ``offsets`` are the requested offsets."""

    local = False

    def __init__(self, give: Callable[[Descriptor], Chunks | bytes]) -> None:
        self.give = give
        self.offsets: list[int] = []

    def root(self) -> Document:
        raise NotImplementedError

    def document(self, descriptor: Descriptor) -> Document:
        raise NotImplementedError

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        self.offsets.append(offset)
        data = self.give(descriptor)
        if isinstance(data, bytes):
            yield (data[at : at + CHUNK] for at in range(offset, len(data), CHUNK))
        else:
            with closing(data):
                yield data

    def close(self) -> None:
        raise NotImplementedError


def ignore(label: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "layers"


@pytest.fixture
def cache(directory: Path) -> BlobCache:
    return BlobCache(directory)


def partial_of(directory: Path, descriptor: Descriptor) -> Path:
    directory.mkdir(exist_ok=True)
    return directory / f"{descriptor.digest.removeprefix('sha256:')}.partial"


def test_keeps_a_blob_under_its_digest(cache: BlobCache, directory: Path) -> None:
    path = cache.fetch(BLOB, Memory(lambda _: DATA), ignore)

    assert path.read_bytes() == DATA
    assert [file.name for file in directory.iterdir()] == [BLOB.digest.removeprefix("sha256:")]


def test_keeps_an_empty_blob(cache: BlobCache) -> None:
    path = cache.fetch(descriptor_of(b""), Memory(lambda _: b""), ignore)

    assert path.read_bytes() == b""


def test_a_cached_blob_is_not_fetched_again(cache: BlobCache) -> None:
    repository = Memory(lambda _: DATA)

    paths = [cache.fetch(BLOB, repository, ignore) for _ in range(2)]

    assert paths[0] == paths[1]
    assert len(repository.offsets) == 1


def test_a_truncated_blob_is_fetched_again(cache: BlobCache) -> None:
    repository = Memory(lambda _: DATA)
    path = cache.fetch(BLOB, repository, ignore)
    os.truncate(path, 10)

    cache.fetch(BLOB, repository, ignore)

    assert path.read_bytes() == DATA


def test_a_discarded_blob_is_fetched_again(cache: BlobCache) -> None:
    repository = Memory(lambda _: DATA)
    path = cache.fetch(BLOB, repository, ignore)
    path.write_bytes(bytes(len(DATA)))

    cache.discard(BLOB)
    cache.fetch(BLOB, repository, ignore)

    assert path.read_bytes() == DATA


def test_transfers_are_reported(cache: BlobCache) -> None:
    told: list[tuple[str, int, int]] = []

    cache.fetch(BLOB, Memory(lambda _: DATA), lambda *values: told.append(values))

    assert {(label, total) for label, _, total in told} == {(BLOB.label, BLOB.size)}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == BLOB.size
    assert 4 <= len(told) <= 6


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (bytes(len(DATA)), "comes with the digest"),
        (DATA + b"x", "has more than its"),
        (DATA[:-1], f"has {len(DATA) - 1} bytes instead of {len(DATA)}"),
    ],
    ids=["other", "longer", "shorter"],
)
def test_refuses_other_bytes(
    cache: BlobCache, directory: Path, data: bytes, complaint: str
) -> None:
    with pytest.raises(ImageCorrupted, match=complaint):
        cache.fetch(BLOB, Memory(lambda _: data), ignore)

    assert list(directory.iterdir()) == []


def test_refuses_too_many_bytes_before_all_have_come(cache: BlobCache) -> None:
    def endless(_: Descriptor) -> Chunks:
        while True:
            yield bytes(CHUNK)

    with pytest.raises(ImageCorrupted, match="more than"):
        cache.fetch(BLOB, Memory(endless), ignore)


def test_goes_on_where_an_earlier_try_stopped(cache: BlobCache, directory: Path) -> None:
    partial_of(directory, BLOB).write_bytes(DATA[:1000])
    repository = Memory(lambda _: DATA)

    path = cache.fetch(BLOB, repository, ignore)

    assert path.read_bytes() == DATA
    assert repository.offsets == [1000]


def test_a_complete_partial_blob_needs_no_request(cache: BlobCache, directory: Path) -> None:
    partial_of(directory, BLOB).write_bytes(DATA)
    repository = Memory(lambda _: DATA)

    path = cache.fetch(BLOB, repository, ignore)

    assert path.read_bytes() == DATA
    assert repository.offsets == []


@pytest.mark.parametrize(
    ("rest", "offsets"),
    [(bytes(1000), [1000, 0]), (bytes(len(DATA) + 1), [0]), (bytes(len(DATA)), [0])],
    ids=["other", "longer", "as long"],
)
def test_starts_anew_if_the_rest_of_an_earlier_try_is_wrong(
    cache: BlobCache, directory: Path, rest: bytes, offsets: list[int]
) -> None:
    partial_of(directory, BLOB).write_bytes(rest)
    repository = Memory(lambda _: DATA)

    path = cache.fetch(BLOB, repository, ignore)

    assert path.read_bytes() == DATA
    assert repository.offsets == offsets


def test_starts_anew_only_once(cache: BlobCache, directory: Path) -> None:
    partial_of(directory, BLOB).write_bytes(DATA[:1000])
    repository = Memory(lambda _: bytes(len(DATA)))

    with pytest.raises(ImageCorrupted, match="digest"):
        cache.fetch(BLOB, repository, ignore)

    assert repository.offsets == [1000, 0]
    assert list(directory.iterdir()) == []


def test_a_partial_blob_is_kept_when_the_source_fails(cache: BlobCache, directory: Path) -> None:
    def failing(_: Descriptor) -> Chunks:
        yield DATA[:1000]
        raise SourceUnavailable("the registry is gone")

    with pytest.raises(SourceUnavailable):
        cache.fetch(BLOB, Memory(failing), ignore)

    assert partial_of(directory, BLOB).read_bytes() == DATA[:1000]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may have more than 100 kB, as if the disk were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_keeps_what_has_come_when_the_disk_takes_no_more(cache: BlobCache, directory: Path) -> None:
    with pytest.raises(BuildFailed, match="cannot write below") as caught:
        cache.fetch(BLOB, Memory(lambda _: DATA), ignore)

    assert "--store" in caught.value.hint
    assert partial_of(directory, BLOB).read_bytes() == DATA[:100_000]


def test_says_that_a_place_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BuildFailed, match="cannot write below"):
        BlobCache(tmp_path / "file" / "layers").fetch(BLOB, Memory(lambda _: DATA), ignore)


def join(thread: Thread) -> None:
    block_until(lambda: not thread.is_alive(), "the thread has ended")


def test_several_threads_share_one_transfer(cache: BlobCache) -> None:
    repository = Memory(lambda _: DATA)
    together = Barrier(4)
    paths: list[Path] = []

    def fetch() -> None:
        together.wait(LIMIT)
        paths.append(cache.fetch(BLOB, repository, ignore))

    threads = [Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)

    assert len(paths) == 4
    assert repository.offsets == [0]
    assert paths[0].read_bytes() == DATA


def test_a_waiter_of_a_failed_transfer_fetches_the_blob(cache: BlobCache, directory: Path) -> None:
    begun = Event()
    others = Event()

    def wrong(_: Descriptor) -> Chunks:
        begun.set()
        assert others.wait(LIMIT), "the other fetch has begun"
        yield bytes(len(DATA))

    def first() -> None:
        with pytest.raises(ImageCorrupted):
            cache.fetch(BLOB, Memory(wrong), ignore)

    thread = Thread(target=first)
    thread.start()
    assert begun.wait(LIMIT), "the first fetch has begun"
    right = Memory(lambda _: DATA)
    second = Thread(target=lambda: cache.fetch(BLOB, right, ignore))
    second.start()
    others.set()
    join(thread)
    join(second)

    assert right.offsets == [0]
    assert [file.read_bytes() for file in directory.iterdir()] == [DATA]


def test_fetches_several_blobs_in_order(cache: BlobCache) -> None:
    blobs = {descriptor_of(data): data for data in (DATA, b"a", b"b", b"", b"c" * CHUNK)}
    wanted = [*blobs, BLOB]

    paths = cache.fetch_all(wanted, Memory(blobs.__getitem__), ignore)

    assert [path.read_bytes() for path in paths] == [blobs[blob] for blob in wanted]


def test_fetches_several_blobs_at_a_time(cache: BlobCache) -> None:
    together = Barrier(3)
    blobs = {descriptor_of(data): data for data in (b"a", b"b", b"c")}

    def give(blob: Descriptor) -> Chunks:
        together.wait(LIMIT)
        yield blobs[blob]

    paths = cache.fetch_all(list(blobs), Memory(give), ignore, workers=3)

    assert [path.read_bytes() for path in paths] == [b"a", b"b", b"c"]


def test_fetches_no_blobs(cache: BlobCache) -> None:
    assert cache.fetch_all([], Memory(lambda _: b""), ignore) == []


def test_the_first_error_stops_the_others(cache: BlobCache) -> None:
    waiting = Event()
    stopped = Event()

    def give(blob: Descriptor) -> Chunks:
        if blob != BLOB:
            assert waiting.wait(LIMIT), "the endless transfer has begun"
            raise SourceUnavailable("the registry is gone")
        try:
            while True:
                yield b"x"
                waiting.set()
        finally:
            stopped.set()

    endless = Descriptor("layer", BLOB.digest, 1 << 40)
    blobs = [endless, descriptor_of(b"other")]

    with pytest.raises(SourceUnavailable, match="the registry is gone"):
        cache.fetch_all(blobs, Memory(lambda blob: give(BLOB if blob is endless else blob)), ignore)

    assert stopped.wait(LIMIT), "the endless transfer has stopped"


def test_an_error_does_not_wait_for_a_silent_source(cache: BlobCache) -> None:
    silent = Event()
    for_ever = Event()

    def give(blob: Descriptor) -> Chunks:
        if blob == BLOB:
            silent.set()
            block_until(for_ever.is_set, "the other transfer has failed")
        assert silent.wait(LIMIT), "the silent transfer has begun"
        raise SourceUnavailable("the registry is gone")
        yield b""

    with pytest.raises(SourceUnavailable):
        cache.fetch_all([BLOB, descriptor_of(b"other")], Memory(give), ignore)

    for_ever.set()


INTERRUPTED = """
import os, signal, sys, threading
from contextlib import closing, contextmanager
from pathlib import Path
from slipway_initramfs.oci.blob_cache import BlobCache
from slipway_initramfs.oci.repository import Descriptor

class Silent:
    @contextmanager
    def blob(self, descriptor, offset=0):
        # Once: a second signal would interrupt how the first one is dealt with.
        if descriptor.digest.endswith("a"):
            os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait()
        yield iter(())

blobs = [Descriptor("layer", "sha256:" + digit * 64, 1) for digit in "abc"]
try:
    BlobCache(Path(sys.argv[1])).fetch_all(blobs, Silent(), lambda *_: None)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interruption_does_not_wait_for_a_silent_source(directory: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-c", INTERRUPTED, str(directory)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


SLOW = """
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from slipway_initramfs.oci.blob_cache import BlobCache
from slipway_initramfs.oci.repository import Descriptor

class Slow:
    @contextmanager
    def blob(self, descriptor, offset=0):
        def chunks():
            yield b"x" * 1000
            print("under way", flush=True)
            sys.stdin.read()
        yield chunks()

descriptor = Descriptor("layer", sys.argv[2], int(sys.argv[3]))
BlobCache(Path(sys.argv[1])).fetch(descriptor, Slow(), lambda *_: None)
"""


@contextmanager
def slow_process(directory: Path, blob: Descriptor) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has 1000 bytes of a blob; the source ends with the process's input."""
    with subprocess.Popen(
        (sys.executable, "-c", SLOW, str(directory), blob.digest, str(blob.size)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def test_a_killed_process_leaves_a_partial_blob(cache: BlobCache, directory: Path) -> None:
    blob = descriptor_of(b"x" * 2000)
    repository = Memory(lambda _: b"x" * 2000)
    with slow_process(directory, blob) as process:
        process.send_signal(signal.SIGKILL)

    path = cache.fetch(blob, repository, ignore)

    assert path.read_bytes() == b"x" * 2000
    assert repository.offsets == [1000]


def test_waits_for_another_process_and_takes_its_result(cache: BlobCache, directory: Path) -> None:
    blob = descriptor_of(b"x" * 1000)
    repository = Memory(lambda _: b"x" * 1000)
    with slow_process(directory, blob) as process:
        assert process.stdin is not None
        paths: list[Path] = []
        thread = Thread(target=lambda: paths.append(cache.fetch(blob, repository, ignore)))
        thread.start()
        process.stdin.close()
        join(thread)

    assert paths[0].read_bytes() == b"x" * 1000
    assert repository.offsets == []
