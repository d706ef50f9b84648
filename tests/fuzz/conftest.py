"""How long the property tests search.

As part of the test suite they are short and take the same examples each time. For a long search
with fresh examples say how many of them each property gets: ``SLIPWAY_FUZZ_EXAMPLES=20000``.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("SLIPWAY_FUZZ_EXAMPLES", "0"))

# No deadline: a machine that is busy is no defect. Frames of 64 KiB are what is tested here, so
# large data is not "too large".
_COMMON = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("suite", _COMMON, max_examples=80, derandomize=True, database=None)
settings.register_profile("long", _COMMON, max_examples=EXAMPLES or 1, print_blob=True)
settings.load_profile("long" if EXAMPLES else "suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long search ends when it is done."""
    here = Path(__file__).parent
    for item in items:
        if EXAMPLES and here in item.path.parents:
            item.add_marker(pytest.mark.timeout(0))
