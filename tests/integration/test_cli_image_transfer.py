"""``slipway image export`` and ``import`` between stores, through files and pipes."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.store.garbage_collection import try_tidy
from slipway_initramfs.store.image_store import ImageStore
from support.waiting import read_until

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._run.assets import Assets
    from support.commands import Commands

# A network namespace of its own, in which there is not even a loopback interface.
OFFLINE = ("unshare", "-n" if os.geteuid() == 0 else "-rn")


@pytest.fixture
def elsewhere(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "elsewhere")


@pytest.fixture
def archive_file(commands: Commands, store: ImageStore, tmp_path: Path) -> Path:
    file = tmp_path / "bash.slipway"
    assert commands("slipway", "image", "export", "--store", store.root, "sh", file).code == 0
    return file


def test_an_image_runs_where_there_is_no_network(
    commands: Commands, archive_file: Path, bash: Assets, elsewhere: ImageStore, tmp_path: Path
) -> None:
    (tmp_path / "hello.sh").write_text("echo hello")
    commands.prefix = OFFLINE
    where = ("--store", elsewhere.root)

    imported = commands("slipway", "image", "import", "--json", *where, archive_file)
    listed = commands("slipway", "image", "list", "--json", *where)
    ended = commands("vmm-run", *where, tmp_path / "hello.sh")

    assert imported.code == 0, imported.stderr
    told = json.loads(imported.stdout)
    assert told["digest"] == bash.image.digest
    assert (told["name"], told["replaced"], told["agent"]) == ("bash", False, True)
    assert [image["digest"] for image in json.loads(listed.stdout)] == [bash.image.digest]
    assert (ended.code, ended.stdout) == (0, b"hello\n"), ended.stderr
    assert commands.leftovers() == []


def test_an_image_goes_through_pipes(
    commands: Commands, store: ImageStore, archive_file: Path, elsewhere: ImageStore, bash: Assets
) -> None:
    sent = commands("slipway", "image", "export", "--store", store.root, "bash", "-")
    taken = commands(
        "slipway", "image", "import", "--store", elsewhere.root, "-", stdin=sent.stdout
    )

    assert sent.stdout == archive_file.read_bytes()
    assert bash.image.digest in sent.stderr
    assert taken.code == 0, taken.stderr
    assert bash.image.digest in taken.stderr
    assert elsewhere.image("bash") is not None


def test_an_exported_file_appears_when_complete(
    commands: Commands, store: ImageStore, archive_file: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    image = store.image("bash")
    assert image is not None
    sound = archive_file.read_bytes()
    with image.root_archive.open("r+b") as file:
        file.write(b"damage")

    again = commands("slipway", "image", "export", "--store", store.root, "bash", archive_file)

    assert again.code == 125
    assert "is damaged" in again.stderr
    assert archive_file.read_bytes() == sound
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("export", "nope", "x"), 2, "'nope'"),
        (("export", "bash", "/dev/full"), 125, "No space left on device"),
        (("export", "bash", "/nowhere/x"), 125, "cannot write /nowhere/x"),
        (("export", "bash", "/"), 2, "is a directory"),
        (("export", "--json", "bash", "-"), 2, "--json"),
        (("import", "/nowhere/x"), 2, "cannot read '/nowhere/x'"),
        (("import", "/"), 2, "cannot read '/'"),
        (("import", "/dev/null"), 125, "/dev/null: the archive is truncated"),
        (("import", "/dev/zero"), 125, "not an archive of 'slipway image export'"),
    ],
)
def test_failures_are_reported(
    commands: Commands, store: ImageStore, arguments: tuple[str, ...], code: int, word: str
) -> None:
    name, *rest = arguments

    ended = commands("slipway", "image", name, "--store", store.root, *rest)

    assert (ended.code, ended.stdout) == (code, b"")
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_import_leaves_no_files(
    commands: Commands, archive_file: Path, elsewhere: ImageStore, number: signal.Signals
) -> None:
    data = archive_file.read_bytes()
    with commands.start("slipway", "image", "import", "--store", elsewhere.root, "-") as process:
        assert process.stdin is not None
        # More than the first files; and as much as the pipe holds, so that it has been read.
        process.stdin.write(data[: len(data) - 1024 - (1 << 20)])
        process.stdin.flush()
        process.send_signal(number)
        process.wait(60)
    process.stdin.close()
    if number == signal.SIGKILL:
        try_tidy(elsewhere)

    assert elsewhere.images() == []
    assert elsewhere.kernel() is None
    left = [path for path in elsewhere.root.rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []
    assert commands.leftovers() == []


def test_a_killed_export_leaves_no_file(
    commands: Commands, store: ImageStore, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with commands.start(
        "slipway", "image", "export", "--store", store.root, "bash", target / "bash.slipway"
    ) as process:
        assert process.stderr is not None
        read_until(process.stderr, b"writing", "the file is being written")
        process.kill()
        process.wait(60)

    # It may have been done already; half a file there is not.
    assert [path.name for path in target.iterdir()] in ([], ["bash.slipway"])
