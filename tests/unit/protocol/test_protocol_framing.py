"""Frames on a byte stream."""

import sys
import tracemalloc
from collections.abc import Callable

from slipway_protocol.framing import (
    CRC_SIZE,
    END,
    MAX_ENCODED,
    BadFrame,
    FrameReader,
    decode_frame,
    encode_frame,
)
from slipway_protocol.schema import MAX_MESSAGE

TOO_LONG = "longer than a frame may be"


def test_frames_come_out_in_order_whatever_their_bytes() -> None:
    payloads = [bytes([byte]) * 3 for byte in range(256)]

    frames = FrameReader().feed(b"".join(encode_frame(payload) for payload in payloads))

    assert frames == payloads


def test_frame_is_whole_with_its_last_end_and_not_before() -> None:
    reader = FrameReader()
    frame = encode_frame(b"payload")

    before = [reader.feed(bytes([byte])) for byte in frame[:-1]]
    after = reader.feed(frame[-1:])

    assert before == [[] for _ in frame[:-1]]
    assert after == [b"payload"]


def test_frame_ends_the_noise_before_it() -> None:
    noise = b"[    0.000000] Linux version 6.1.0"

    frames = FrameReader().feed(noise + encode_frame(b"payload"))

    assert frames == [BadFrame("wrong checksum", len(noise)), b"payload"]


def test_ends_in_a_row_are_no_frames() -> None:
    assert FrameReader().feed(END * 1000) == []


def test_longest_payload_passes_even_if_every_byte_is_escaped() -> None:
    payload = END * MAX_MESSAGE

    assert FrameReader().feed(encode_frame(payload)) == [payload]


def test_payload_a_byte_too_long_is_dropped() -> None:
    payload = bytes(MAX_MESSAGE + 1)

    frames = FrameReader().feed(encode_frame(payload) + encode_frame(b"next"))

    assert frames == [BadFrame(TOO_LONG, MAX_MESSAGE + 1 + CRC_SIZE), b"next"]


def test_endless_frame_is_dropped_with_its_true_size_and_the_next_one_passes() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert reader.feed(b"x" * 65536) == []

    frames = reader.feed(encode_frame(b"next"))

    assert frames == [BadFrame(TOO_LONG, 100 * 65536), b"next"]


def test_endless_garbage_is_not_kept() -> None:
    for size, count in ((1, 200_000), (2, 100_000), (65536, 500), (2 * MAX_ENCODED, 5)):
        reader = FrameReader()
        piece = bytes(size)

        def flood(reader: FrameReader = reader, piece: bytes = piece, count: int = count) -> None:
            for _ in range(count):
                # A slice of its own, as a read from a port gives; not one object many times.
                reader.feed(bytes(bytearray(piece)))

        # 128 KiB of a frame, held in the smallest pieces that there are.
        assert peak_memory(flood) < 8 * 2**20


def test_reader_is_empty_after_a_frame_that_was_too_long() -> None:
    reader = FrameReader()
    reader.feed(b"x" * (MAX_ENCODED + 1))
    reader.feed(END)

    assert reader.feed(b"y" * 10 + END) == [BadFrame("wrong checksum", 10)]


def test_byte_by_byte_costs_no_more_memory_than_the_frame_has() -> None:
    """A reader that joined its pieces again and again would allocate quadratically."""
    small, large = (allocated_bytewise(size) for size in (2_000, 8_000))

    assert large < 6 * small


def allocated_bytewise(size: int) -> int:
    """What a reader allocates in all while it is fed a frame of ``size`` bytes, one by one."""
    reader = FrameReader()
    pieces = [bytes([byte]) for byte in encode_frame(bytes(size))]
    total = 0
    tracemalloc.start()
    try:
        for piece in pieces:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            reader.feed(piece)
            total += tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return total


def test_work_grows_with_the_number_of_frames_and_no_faster() -> None:
    def calls(count: int) -> int:
        stream = encode_frame(b"payload") * count
        return calls_of(lambda: FrameReader().feed(stream))

    assert calls(2_000) < 2.1 * calls(1_000)


def test_work_grows_with_the_number_of_escapes_and_no_faster() -> None:
    def calls(count: int) -> int:
        frame = encode_frame(END * count)[1:-1]
        return calls_of(lambda: decode_frame(frame))

    assert calls(60_000) == calls(6)


def peak_memory(act: Callable[[], object]) -> int:
    """The most bytes that were allocated at one time during ``act``."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def calls_of(act: Callable[[], object]) -> int:
    """How many functions, of Python or C, were called during ``act``."""
    count = 0

    def notice(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(notice)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count
