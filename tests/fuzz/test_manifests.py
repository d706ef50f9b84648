"""Documents of registries, whatever is in them, are understood or refused."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.errors import ImageError
from slipway_initramfs.oci.manifests import (
    ACCEPTED,
    Index,
    Manifest,
    find_layer_compression,
    parse_config,
    parse_index,
    parse_manifest,
    read_document,
)
from slipway_initramfs.oci.platforms import check_platform, choose_platform
from slipway_initramfs.oci.repository import Document
from support.layers import digest, edited_document

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)
_KNOWN = ("schemaVersion", "mediaType", "config", "layers", "manifests", "rootfs")
_fields = st.fixed_dictionaries({}, optional=dict.fromkeys(_KNOWN, _json))


def use(data: bytes, media_type: str = "") -> None:
    """Do with a document all that is done with one; only ImageError may come of it."""
    document = Document(media_type, digest(data), data)
    actions = (
        lambda: parse_index(data),
        lambda: parse_manifest(data),
        lambda: check_platform(parse_config(data), "arm64"),
        lambda: _follow(read_document(document)),
    )
    said = []
    for action in actions:
        try:
            action()
        except ImageError as error:
            said.append(str(error))
    for sentence in said:
        # What is said can be shown, and is no flood.
        assert len(sentence.encode()) < 4000
        assert sentence.isprintable()


def _follow(found: Index | Manifest) -> None:
    if isinstance(found, Index):
        choose_platform(found, "amd64")
    else:
        for layer in found.layers:
            find_layer_compression(layer)


@given(st.binary(max_size=300))
def test_any_bytes_are_understood_or_refused(data: bytes) -> None:
    use(data)


@given(_json | _fields, st.sampled_from(["", *ACCEPTED]))
def test_any_json_is_understood_or_refused(value: Any, media_type: str) -> None:
    use(json.dumps(value).encode(), media_type)


@given(st.binary(min_size=3, max_size=9))
def test_a_sound_document_with_odd_fields_is_understood_or_refused(edits: bytes) -> None:
    use(edited_document(edits))


@given(st.text(max_size=50), st.integers(0, 60))
def test_a_document_may_break_off_anywhere(text: str, place: int) -> None:
    data = edited_document(b"\1")

    use(data[: place * 7] + text.encode("utf-8", "surrogatepass"))
