from __future__ import annotations

import pytest

from slipway._run.image_warmup import _build_failure


@pytest.mark.parametrize(
    ("said", "missing", "words"),
    [
        (b"no \x1b]0;title\x07such\n\xff luck\r\n", "", "no ]0;title such \ufffd luck"),
        (b"\n", "there is no such file", "there is no such file"),
        (b"", "", "no output"),
    ],
)
def test_the_words_of_an_image_reach_no_terminal_as_commands(
    said: bytes, missing: str, words: str
) -> None:
    assert _build_failure("sh", said, missing).message == f"sh failed in the image: {words}"
