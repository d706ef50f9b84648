"""A host without a hypervisor: the error comes before a download or a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import slipway
from slipway.vmm.kvm import usability
from support.commands import Commands

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ERROR = "QEMU is not installed"


@pytest.fixture(params=["qemu", "auto"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an option for which this host has no program: no directory of PATH has QEMU."""
    if request.param == "auto" and usability.examine()[0]:
        pytest.skip("auto selects KVM here")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("SLIPWAY_SOURCE", "debian")
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the directory of an empty store."""
    return tmp_path / "store"


def assert_nothing_built(store: Path) -> None:
    """Check that the store has no blob, and no record of an image or a kernel."""
    left = [path for path in store.rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert left == []
    assert not [path for path in store.rglob("*") if path.suffix == ".json"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("vmm-run", "--language", "bash", "-c", "echo"),
        ("slipway", "run", "--language", "bash", "-c", "echo"),
        ("slipway", "image", "build", "--snapshot", "bash"),
        ("slipway", "serve", "--api-sock", "api"),
        ("slipway", "mcp"),
    ],
    ids=["vmm-run", "run", "image-build", "serve", "mcp"],
)
def test_commands_report_it_first(
    arguments: tuple[str, ...], machine: str, store: Path, tmp_path: Path
) -> None:
    commands = Commands(tmp_path)
    program, *others = arguments
    verbs = 0 if program == "vmm-run" else 2 if others[0] == "image" else 1
    options = ["--store", str(store), "--machine", machine]

    ended = commands(program, *others[:verbs], *options, *others[verbs:], cwd=tmp_path)

    assert ended.code == 125
    assert ended.stderr.startswith(f"slipway: error: {ERROR}\nslipway: hint: ")
    assert_nothing_built(store)


def test_single_run_reports_it_first(machine: str, store: Path) -> None:
    lines: list[str] = []

    with pytest.raises(slipway.HostError, match=ERROR):
        slipway.run("echo", "bash", machine=machine, store=store, progress=lines.append)

    assert lines == []
    assert_nothing_built(store)


async def test_single_run_of_asyncio_reports_it_first(machine: str, store: Path) -> None:
    lines: list[str] = []

    with pytest.raises(slipway.HostError, match=ERROR):
        await slipway.run_async("echo", "bash", machine=machine, store=store, progress=lines.append)

    assert lines == []
    assert_nothing_built(store)


def run_by_handle(runtime: slipway.Runtime) -> None:
    runtime.start("echo", "bash").wait()


def run_in_session(runtime: slipway.Runtime) -> None:
    with runtime.session("bash") as session:
        session.run("echo")


@pytest.mark.parametrize(
    "use",
    [lambda runtime: runtime.run("echo", "bash"), run_by_handle, run_in_session],
    ids=["run", "start", "session"],
)
def test_runtime_reports_it_first(
    use: Callable[[slipway.Runtime], None], machine: str, store: Path
) -> None:
    with (
        slipway.Runtime(machine=machine, store=store) as runtime,
        pytest.raises(slipway.HostError, match=ERROR),
    ):
        use(runtime)

    assert_nothing_built(store)
