"""Joined files of any names and sizes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuzz.strategies import numbers, paths
from slipway_protocol import messages as m
from slipway_protocol.codec import decode, encode
from slipway_protocol.joining import FileJoiner
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT, MAX_DATA

_data = st.binary(max_size=100) | st.integers(0, MAX_DATA).map(bytes)
_files = st.builds(m.WholeFile, paths, numbers(0o777), _data).filter(
    lambda file: FileJoiner.accepts(file.path, len(file.data))
)


@given(st.lists(_files, max_size=30))
def test_joined_files_arrive_in_their_order(files: list[m.WholeFile]) -> None:
    joiner = FileJoiner(1)
    messages = [message for file in files for message in joiner.add(file)] + joiner.take()

    for table in (HOST_TO_AGENT, AGENT_TO_HOST):
        arrived = [decode(encode(message), table) for message in messages]

        assert arrived == messages
        assert [file for message in messages for file in message.files] == files
