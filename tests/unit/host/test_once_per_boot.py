from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway._util.errors import ImageError
from slipway._util.once_per_boot import measure_once_per_boot
from support.untrusted_files import OF_FILES, give_away, open_to_all, replace_by_fifo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_number_is_measured_once(tmp_path: Path) -> None:
    numbers = iter((7, 8))

    found = [measure_once_per_boot(tmp_path / "khz", lambda: next(numbers)) for _ in range(2)]

    assert found == [7, 7]


@pytest.mark.parametrize("text", ["", "other-boot 5\n", "5", "{boot} 5", "{boot} x\n", "\xff"])
def test_invalid_line_is_measured_again(tmp_path: Path, text: str) -> None:
    file = tmp_path / "khz"
    measure_once_per_boot(file, lambda: 1)
    boot = file.read_text().split()[0]
    file.write_text(text.format(boot=boot), "latin-1")

    assert measure_once_per_boot(file, lambda: 7) == 7
    assert measure_once_per_boot(file, lambda: 8) == 7


@pytest.mark.parametrize("harm", OF_FILES)
def test_file_that_others_decide_on_is_refused(tmp_path: Path, harm: Callable[[Path], str]) -> None:
    file = tmp_path / "khz"
    measure_once_per_boot(file, lambda: 7)
    said = harm(file)

    with pytest.raises(ImageError) as caught:
        measure_once_per_boot(file, lambda: 8)

    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("harm", [give_away, open_to_all, replace_by_fifo])
def test_directory_that_others_decide_on_is_refused(
    tmp_path: Path, harm: Callable[[Path], str]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    said = harm(store)

    with pytest.raises(ImageError) as caught:
        measure_once_per_boot(store / "khz", lambda: 8)

    assert said in caught.value.message
