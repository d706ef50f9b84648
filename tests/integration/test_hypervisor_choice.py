"""Choice of the hypervisor: once for each run, whatever has to be built for it first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import slipway
from slipway._model.options import Options
from slipway._run.images import StoredImages
from slipway._run.languages import find_language
from slipway._run.launcher import ColdLauncher
from slipway._run.slot import Slot, SlotContext
from slipway.machine import hypervisors

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.model import Hypervisor
    from slipway_initramfs.store.image_store import ImageStore


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names that hypervisors are chosen by from now on, in order."""
    names: list[str] = []
    choose = hypervisors.choose

    def count_choice(
        name: str, state: Path | None = None, architecture: str = "auto"
    ) -> Hypervisor:
        names.append(name)
        return choose(name, state, architecture)

    monkeypatch.setattr(hypervisors, "choose", count_choice)
    return names


@pytest.fixture
def unreachable_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have images come from a registry that nothing listens for."""
    monkeypatch.setenv("SLIPWAY_SOURCE", "registry")
    monkeypatch.setenv("SLIPWAY_REGISTRY", "127.0.0.1:1")


@pytest.mark.usefixtures("installed_qemu", "unreachable_registry")
def test_run_chooses_once_before_an_image_is_built(choices: list[str], tmp_path: Path) -> None:
    with pytest.raises(slipway.SlipwayError, match=r"127\.0\.0\.1:1"):
        slipway.run("echo", "bash", store=tmp_path)

    assert choices == ["auto"]


@pytest.mark.usefixtures("installed_qemu", "unreachable_registry")
def test_image_is_built_by_the_best_hypervisor_even_if_the_run_names_another(
    choices: list[str], tmp_path: Path
) -> None:
    with (
        slipway.Runtime(store=tmp_path) as runtime,
        pytest.raises(slipway.SlipwayError, match=r"127\.0\.0\.1:1"),
    ):
        runtime.run("echo", "bash", machine="qemu")

    assert choices == ["qemu", "auto"]


@pytest.mark.parametrize("name", ["auto", "qemu"])
def test_machine_of_a_stored_image_runs_on_the_one_choice(
    name: str, choices: list[str], image_store: ImageStore
) -> None:
    context = SlotContext(StoredImages(image_store), ColdLauncher(image_store))
    slot = Slot(context, find_language("bash"), Options(machine=name))

    slot.find()

    assert choices == [name]
    assert name in {"auto", slot.assets.hypervisor.name}
