"""What all tests share."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway._model.options import OPTIONS, Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway.machine.hypervisors import HYPERVISORS
from slipway.machine.qemu_targets import find_target
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import DEBIAN_KERNEL, KERNELS, SMALL_KERNEL
from support.host_programs import need_program

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._run.assets import Assets

# Also those of support/ways.py, which imports more than most tests need.
WAYS = ("guest", "clone", "runtime", "client", "cli", "served", "serial", "tcp")

# Fixtures that stand for what Python alone does not bring, and the marker of each test that uses
# one, directly or through another fixture. ``make check`` runs the tests without these markers.
MARKERS = {
    "image_store": "image",
    "apt": "debian",
    "registry_programs": "debian",
    "installed_qemu": "vm",
    "kvm": "vm",
}

# The suite is to do the same whether or not this machine reaches Docker Hub.
os.environ.setdefault("SLIPWAY_SOURCE", "debian")
# Nor does it use a server that the person who tests has running.
os.environ["XDG_RUNTIME_DIR"] = "/nonexistent"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--machine",
        action="append",
        choices=HYPERVISORS,
        help="the machine that the behaviour suite runs on; may be given again"
        " (default: qemu, and kvm where this host's is usable)",
    )
    parser.addoption(
        "--arch",
        choices=OPTIONS["arch"].choices,
        default="auto",
        help="the architecture of the machines that run the behaviour suite's programs",
    )
    parser.addoption(
        "--kernel",
        choices=KERNELS,
        help="the kernel that the user's store lets machines boot for this session",
    )
    parser.addoption(
        "--through",
        action="append",
        choices=WAYS,
        help="how the behaviour suite's programs get to a machine; may be given again. guest: all"
        " of a language to one machine, directly; clone: each to a clone of a ready one; runtime,"
        " client, cli and served (the command line on a server): as users do it, each to a machine"
        " of its own; serial and tcp: as guest,"
        " with an agent on that port, for one language (default: guest for all languages, the"
        " others for few)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the kernel of ``--kernel``, and the former one again at the end."""
    name = config.getoption("--kernel", None)
    if name is None or hasattr(config, "workerinput"):  # a worker of pytest-xdist
        return
    store, target = ImageStore(), find_target(_find_architecture(config)).architecture
    former = store.kernel_choice(target)
    store.choose_kernel(name, target)
    # Without a choice, the small kernel is in use where it is.
    has_small = store.find_kernel(target, SMALL_KERNEL) is not None
    before = former or (SMALL_KERNEL if has_small else DEBIAN_KERNEL)
    config.add_cleanup(lambda: store.choose_kernel(before, target))


def _find_architecture(config: pytest.Config) -> str:
    chosen = str(config.getoption("--arch"))
    return "" if chosen == "auto" else chosen


def pytest_sessionstart() -> None:
    """Let SIGINT and SIGHUP reach tests and their programs where the parent process ignores them.

    A shell starts ``make check &`` so, as do ``nohup`` and many CI systems.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use, before ``-m`` selects by markers."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        for marker in {MARKERS[name] for name in names if name in MARKERS}:
            item.add_marker(marker)
        # Workers of pytest-xdist (--dist loadgroup) take a guest's tests together: it boots once.
        values = getattr(getattr(item, "callspec", None), "params", {})
        group = f"{item.path.stem}-{values.get('start_runner', '')}"
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test with ``debian("PROGRAM", ...)`` where one of its programs is missing."""
    for marker in item.iter_markers("debian"):
        for program in marker.args:
            need_program(program)


@pytest.fixture(scope="session")
def image_store() -> ImageStore:
    """The user's store, with the images that ``make images`` has built."""
    return ImageStore()


@pytest.fixture(scope="session")
def bash(image_store: ImageStore, progress: Callable[[str], None]) -> Assets:
    """What bash boots from, in the user's store; no image boots faster."""
    return find_assets(find_language("bash"), Options(), image_store, progress)


@pytest.fixture(scope="session")
def installed_qemu() -> str:
    """The path of QEMU."""
    return need_program(find_target().program)


@pytest.fixture(scope="session")
def other_users() -> None:
    """Programs of these tests can be run as other users, which takes root and an open checkout."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    for path in (Path(sys.prefix, "bin"), Path(__file__).parents[1]):
        for directory in (path, *path.parents):
            if not directory.stat().st_mode & stat.S_IXOTH:
                pytest.skip(f"other users cannot enter {directory}")


@pytest.fixture
def open_tmp_path(tmp_path: Path) -> Path:
    """The test's temporary directory, which other users can enter."""
    common = Path(tempfile.gettempdir())
    # A worker of pytest-xdist has one more directory above it.
    for path in (tmp_path, *tmp_path.parents):
        if path == common:
            break
        path.chmod(path.stat().st_mode | stat.S_IXOTH)
    return tmp_path


@pytest.fixture(scope="session")
def mounts() -> None:
    """Programs of these tests can mount what only they see."""
    namespaces = "-m" if os.geteuid() == 0 else "-Urm"
    command = ["unshare", namespaces, "mount", "-t", "tmpfs", "none", "/tmp"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        pytest.skip(f"this user may not mount: {ended.stderr.strip()}")


@pytest.fixture(scope="session")
def taps() -> None:
    """Processes of these tests have network namespaces with interfaces of their own."""
    command = ["unshare", "-n", "ip", "tuntap", "add", "eth0", "mode", "tap"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        pytest.skip(f"this user may not make network interfaces: {ended.stderr.strip()}")


@pytest.fixture(scope="session")
def registry_programs() -> None:
    """What runs a container registry and pushes to it."""
    for program in ("docker-registry", "skopeo", "htpasswd"):
        need_program(program)


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Shows a line at once: making an image takes a while, and captured output shows nothing."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")

    def show(line: str) -> None:
        if terminal is None:  # a worker of pytest-xdist has none
            print(line)
            return
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)

    return show
