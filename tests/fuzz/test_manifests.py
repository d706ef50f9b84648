"""Documents of registries, whatever is in them, are understood or refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.errors import ImageError
from slipway_initramfs.oci.manifests import (
    ACCEPTED,
    Index,
    Manifest,
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
_fields = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("schemaVersion", "mediaType", "config", "layers", "manifests", "rootfs"), _json
    ),
)


def use(data: bytes, media_type: str = "") -> None:
    """Do with a document all that is done with one; only ImageError may come of it."""
    errors = []
    for parse in (parse_index, parse_manifest, parse_config):
        with suppress(ImageError):
            parse(data)
    try:
        check_platform(parse_config(data), "arm64")
    except ImageError as error:
        errors.append(error)
    try:
        found = read_document(Document(media_type, digest(data), data))
        assert isinstance(found, Index | Manifest)
        if isinstance(found, Index):
            choose_platform(found, "amd64")
    except ImageError as error:
        errors.append(error)
    for error in errors:
        # What is said can be shown, and is no flood.
        assert len(str(error).encode()) < 4000
        assert str(error).isprintable()


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
