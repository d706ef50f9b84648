"""Packages that a Python program installs for itself, from an index in its guest.

An index beyond the gateway is in ``test_network_session.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway._model.input_file import InputFile
from support.package_index import WHEEL, build_wheel

if TYPE_CHECKING:
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
