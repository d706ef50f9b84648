"""The hint after a run that booted: for which machines it is shown, and its command."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slipway._cli.snapshot_hint import suggest_snapshot
from slipway._model.network import Network
from slipway._model.options import Options
from slipway._model.result import Provenance, Result, Timing
from slipway._run.languages import find_language
from slipway._util.units import MIB
from slipway_initramfs.store.image_store import ImageStore
from support.fake_templates import StoredHypervisor
from support.stores import put_image

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._run.assets import Assets


def result_of(start: str) -> Result:
    """Return the result of a run whose machine booted in 3 s, or was a clone."""
    return Result(
        language="bash",
        build=None,
        run=None,
        files=(),
        timing=Timing(boot=2.5, ready=0.5),
        provenance=Provenance(
            machine="fake", kernel="6.1", image="toy", image_digest="ab", agent="1", memory=MIB,
            cpus=1, machine_reason="", start=start, start_reason="", port="virtio", arch="amd64",
        ),
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path)


@pytest.fixture
def assets(store: ImageStore) -> Assets:
    image = put_image(store)
    assets = StoredHypervisor().launcher.assets_of(find_language("bash"), Options())
    return replace(assets, image=image, memory=image.default_memory)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, ""),
        ({"machine": "qemu"}, "--machine qemu "),
        ({"arch": "arm64", "port": "serial"}, "--arch arm64 --port serial "),
        ({"kernel": "small"}, "--kernel small "),
        ({"network": Network(allow=("a.example",))}, "--network "),
    ],
)
def test_command_takes_the_snapshot_that_the_run_lacked(
    assets: Assets, store: ImageStore, options: dict[str, Any], arguments: str
) -> None:
    hint = suggest_snapshot(assets, Options(**options), store, result_of("cold"))

    assert hint == (
        "the machine booted in 3.0 s; for faster starts:"
        f" slipway image build {arguments}--store {store.root} toy"
    )


def test_clone_has_no_hint(assets: Assets, store: ImageStore) -> None:
    assert suggest_snapshot(assets, Options(), store, result_of("snapshot")) == ""


def test_machine_of_which_no_snapshot_is_taken_has_no_hint(
    assets: Assets, store: ImageStore, tmp_path: Path
) -> None:
    larger = replace(assets, memory=assets.memory + MIB)
    own_kernel = replace(assets, other_kernel=tmp_path / "vmlinux")
    cases = [(larger, Options()), (own_kernel, Options()), (assets, Options(cpus=2)),
             (assets, Options(boot_log=True))]  # fmt: skip

    hints = {suggest_snapshot(each, options, store, result_of("cold")) for each, options in cases}

    assert hints == {""}


@pytest.mark.parametrize("budget", ["0", "much"])
def test_host_that_takes_no_snapshots_has_no_hint(
    assets: Assets, store: ImageStore, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_SNAPSHOT_BUDGET", budget)

    assert suggest_snapshot(assets, Options(), store, result_of("cold")) == ""
