"""Packages that a Python program installs for itself, from an index in its guest or elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import slipway
from slipway._model.input_file import InputFile
from support.package_index import WHEEL, build_wheel, serve_directory, write_index
from support.programs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.programs import Runner

pytestmark = pytest.mark.languages("python")

# Serves the directory "index", and gives pip its address.
SERVE = f"""
import functools, http.server, os, subprocess, sys, threading
os.makedirs("index/greeting")
os.rename("{WHEEL}", "index/greeting/{WHEEL}")

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(
    ("127.0.0.1", 0), functools.partial(Quiet, directory="index")
)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["PIP_INDEX_URL"] = f"http://127.0.0.1:{{server.server_port}}/"
os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
"""


# Installs from an index of the host, and tells of a name that is not allowed.
INSTALL = """
import socket, subprocess, sys
options = ["-q", "--disable-pip-version-check", "--trusted-host", "198.18.0.1", "--index-url"]
subprocess.run([sys.executable, "-m", "pip", "install", *options, INDEX, "greeting"], check=True)
import greeting
print(greeting.TEXT)
try:
    socket.getaddrinfo("denied.example", 443)
except socket.gaierror as error:
    print(error.strerror)
"""


@pytest.fixture
def index_port(tmp_path: Path) -> Iterator[int]:
    """Port of an index on this host's loopback."""
    write_index(tmp_path)
    with serve_directory(tmp_path) as port:
        yield port


def run(vm: Runner, program: str) -> bytes:
    outcome = vm.run(SERVE + program, files=(InputFile(WHEEL, build_wheel()),))
    assert outcome.program.verdict == "ok", outcome.stderr.decode()
    return outcome.stdout


def test_package_is_importable_as_soon_as_it_is_installed(vm: Runner) -> None:
    printed = run(
        vm,
        """
try:
    import greeting
except ImportError:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "greeting"], check=True)
    import greeting
print(greeting.TEXT)
""",
    )

    assert printed == b"hello from a package\n"


def test_package_is_installed_into_a_directory_and_an_environment(vm: Runner) -> None:
    printed = run(
        vm,
        """
subprocess.run("pip install -q --target there greeting", shell=True, check=True)
subprocess.run("python3 -m venv --without-pip env", shell=True, check=True)
subprocess.run("pip3 --python env install -q greeting", shell=True, check=True)
show = "import greeting; print(greeting.__file__)"
subprocess.run(["env/bin/python", "-c", show], check=True)
subprocess.run(["python3", "-c", show], env={"PYTHONPATH": "there", **os.environ}, check=True)
""",
    )

    environment, directory = printed.decode().split()
    assert environment.startswith("/work/env/lib/python3")
    assert directory == "/work/there/greeting.py"


@pytest.mark.usefixtures("image_store")
def test_package_comes_from_an_index_that_is_allowed(machine: str, index_port: int) -> None:
    index = f"INDEX = 'http://198.18.0.1:{index_port}/'"

    result = slipway.run(
        index + INSTALL,
        language="python",
        machine=machine,
        network=slipway.Network(allow=(f"host:{index_port}",)),
        **PATIENCE,
    )

    assert result.run is not None, result
    assert result.run.stdout.data.decode().splitlines() == [
        "hello from a package",
        "Name or service not known",
    ], result.run.stderr.data.decode()
    assert result.network is not None
    assert [(each.destination, each.port) for each in result.network.denied] == [
        ("denied.example", 0)
    ]
