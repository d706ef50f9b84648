"""Hosts whose KVM is unusable for reasons that are known before a guest runs."""

from __future__ import annotations

import mmap

import pytest

from slipway.vmm.kvm import usability


@pytest.mark.parametrize(("size", "words"), [(16 << 10, "16 KiB"), (64 << 10, "64 KiB")])
def test_host_with_other_pages_is_refused(
    monkeypatch: pytest.MonkeyPatch, size: int, words: str
) -> None:
    monkeypatch.setattr(mmap, "PAGESIZE", size)

    usable, reason = usability.examine()

    assert not usable
    assert reason == f"this host has pages of {words}, and 4 KiB are needed"
