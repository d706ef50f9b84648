"""Lets a real browser show a page of Flask that runs in a session: ``make browser``.

Flask comes through the session's network, from an index of this program on the host's loopback that
has the wheels of PyPI. The page loads a style, a script, pictures and an icon, and its script asks
the server for more, as pages do. The argument is the file for the screenshot.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import Network, Output, Runtime
from support.host_programs import need_program
from support.package_index import serve_directory

if TYPE_CHECKING:
    from slipway import Execution

PORT = 5000
PICTURES = 24
PATIENCE: dict[str, Any] = {"timeout": 600.0}
BROWSER_SECONDS = 120
# A loaded host that emulates the guest answers a request in a tenth of a second.
WAIT_MILLISECONDS = 30_000

INSTALL = """
import subprocess, sys
pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index"]
subprocess.run([*pip, "--find-links", INDEX, "--trusted-host", "198.18.0.1", "flask"], check=True)
"""
APPLICATION = """
from flask import Flask, Response, request

app = Flask("page")
PICTURE = ('<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">'
    '<rect width="40" height="40" fill="hsl({hue},70%,50%)"/></svg>')
PAGE = '''<!doctype html><title>Slipway</title><link rel="stylesheet" href="/style.css">
<h1>Flask in a Slipway session</h1><p id="sum">waiting</p><p id="form">waiting</p>
<div>IMAGES</div><script src="/script.js"></script>'''
SCRIPT = '''
const ask = number => fetch(`/square/${number}`).then(answer => answer.json());
Promise.all([...Array(20).keys()].map(ask)).then(all => {
    const sum = all.reduce((sum, each) => sum + each.value, 0);
    document.getElementById("sum").textContent = "sum " + sum;
    return fetch("/form", {method: "POST", body: new URLSearchParams({name: "Ada"})});
}).then(answer => answer.text()).then(text => {
    const loaded = [...document.images].filter(image => image.naturalWidth).length;
    document.getElementById("form").textContent = text + ", " + loaded + " pictures";
});
'''

@app.get("/")
def show_page():
    images = "".join(f'<img src="/picture/{number}.svg">' for number in range(PICTURES))
    return PAGE.replace("IMAGES", images)

@app.get("/style.css")
def send_style():
    return Response("body { font-family: sans-serif; background: #eef }", mimetype="text/css")

@app.get("/script.js")
def send_script():
    return Response(SCRIPT, mimetype="text/javascript")

@app.get("/picture/<int:number>.svg")
def send_picture(number):
    return Response(PICTURE.format(hue=number * 15), mimetype="image/svg+xml")

@app.get("/square/<int:number>")
def send_square(number):
    return {"value": number * number}

@app.post("/form")
def read_form():
    return "hello " + request.form["name"]

app.run(host="0.0.0.0", port=PORT, threaded=True)
"""


def main() -> None:
    """Show the page twice: to a reader of its elements, and to a reader of its picture."""
    browser = need_program("chromium")
    screenshot = Path(sys.argv[1] if len(sys.argv) > 1 else "browser.png").absolute()
    with (
        tempfile.TemporaryDirectory(prefix="slipway-") as name,
        serve_directory(Path(name)) as index,
        Runtime() as runtime,
        runtime.session(
            "python",
            memory=1 << 30,
            network=Network(allow=(f"host:{index}",), publish=(PORT,)),
        ) as session,
    ):
        version = session.run("import sys; print(*sys.version_info[:2], sep='.')", **PATIENCE)
        download_wheels(Path(name), version.stdout.strip())
        installed = session.run(f"INDEX = 'http://198.18.0.1:{index}/'{INSTALL}", **PATIENCE)
        assert installed.ok, installed.stderr
        execution = session.start(f"PORT, PICTURES = {PORT}, {PICTURES}{APPLICATION}", **PATIENCE)
        wait_for_line(execution, b"Running on")
        (port,) = execution.ports
        address = f"http://{port.host}:{port.port}/"
        page = run_browser(browser, "--dump-dom", address)
        assert f"sum {sum(number**2 for number in range(20))}" in page, page
        assert f"hello Ada, {PICTURES} pictures" in page, page
        run_browser(browser, f"--screenshot={screenshot}", address)
        assert screenshot.stat().st_size > 0
        execution.cancel()
        use = execution.wait().network
    print(f"browser: {address} was shown, see {screenshot}; {use}", file=sys.stderr)


def download_wheels(directory: Path, version: str) -> None:
    """Download Flask and all that it needs, for the guest's version of Python."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    options = ["--only-binary=:all:", "--python-version", version, "-d", str(directory)]
    subprocess.run([*pip, *options, "flask"], check=True)


def wait_for_line(execution: Execution, text: bytes) -> None:
    """Take output until ``text`` has come."""
    output = b""
    for event in execution:
        if isinstance(event, Output):
            output += event.data
            if text in output:
                return
    raise SystemExit(f"browser: the server has ended: {output.decode(errors='replace')}")


def run_browser(browser: str, action: str, address: str) -> str:
    """Open a page in a new browser without a window; return its output."""
    with tempfile.TemporaryDirectory(prefix="slipway-browser-") as profile:
        options = [
            "--headless",
            "--no-sandbox",  # root has no sandbox in it
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={profile}",
            "--window-size=800,400",
            f"--virtual-time-budget={WAIT_MILLISECONDS}",
        ]
        ended = subprocess.run(
            [browser, *options, action, address],
            capture_output=True,
            timeout=BROWSER_SECONDS,
            check=True,
        )
    return ended.stdout.decode()


if __name__ == "__main__":
    main()
