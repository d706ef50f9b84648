"""Joined files: as many as fit into a message."""

from __future__ import annotations

from slipway_protocol import messages as m
from slipway_protocol.codec import encode
from slipway_protocol.joining import FileJoiner
from slipway_protocol.schema import MAX_DATA, MAX_ITEMS, MAX_MESSAGE


def join(*files: m.WholeFile) -> list[m.Files]:
    joiner = FileJoiner(7)
    messages = [message for file in files for message in joiner.add(file)]
    return messages + joiner.take()


def test_files_share_a_message_until_it_is_full() -> None:
    files = [m.WholeFile(str(number), 0o644, bytes(1000)) for number in range(100)]

    messages = join(*files)

    assert [file for message in messages for file in message.files] == files
    assert [len(message.files) for message in messages] == [60, 40]


def test_message_has_no_more_files_than_a_list_may_have() -> None:
    messages = join(*[m.WholeFile("x", 0, b"")] * (MAX_ITEMS + 1))

    assert [len(message.files) for message in messages] == [MAX_ITEMS, 1]


def test_no_files_are_no_message() -> None:
    assert join() == []


def test_largest_file_that_is_accepted_fits_into_a_message() -> None:
    path = "/".join(["\U0001f600" * 255] * 16)
    size = next(size for size in range(MAX_DATA, 0, -1) if FileJoiner.accepts(path, size))

    (message,) = join(m.WholeFile(path, 0o777, bytes(size)))

    assert len(encode(message)) <= MAX_MESSAGE
    assert not FileJoiner.accepts("x", MAX_DATA)
