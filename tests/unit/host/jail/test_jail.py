"""A process in its jail, as /proc shows it, for root and for an ordinary user."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.jail.identity import COUNT, FIRST_ID, LARGEST_FIRST_ID
from slipway.jail.part import JailRefusal, Part
from slipway.machine.module_command import build_module_command
from support.jailed_process import (
    FREE_ID,
    JailedProcess,
    list_tree,
    read_namespaces,
    read_status,
)
from support.waiting import block_until

IDENTITIES = [pytest.param(0, id="caller"), pytest.param(FREE_ID, id="ordinary user")]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def choose(identity: int) -> int:
    """Return the identity that a test as ``identity`` can have: only root can change its own."""
    return identity if os.geteuid() == 0 else 0


@pytest.mark.parametrize("identity", IDENTITIES)
def test_process_in_its_jail_has_namespaces_of_its_own(identity: int) -> None:
    with (
        JailedProcess(identity=choose(identity)) as one,
        JailedProcess(identity=choose(identity)) as other,
    ):
        ours = read_namespaces("self")
        theirs = [read_namespaces(each.number) for each in (one, other)]

    for kind, name in ours.items():
        assert len({name, *(each[kind] for each in theirs)}) == 3, kind


@pytest.mark.parametrize("identity", IDENTITIES)
def test_process_in_its_jail_has_no_capability_and_gets_none(identity: int) -> None:
    with JailedProcess(identity=choose(identity)) as jailed:
        status = read_status(jailed.number)

    sets = [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    assert {int(each, 16) for each in sets} == {0}
    assert status["NoNewPrivs"] == "1"


@needs_root
def test_each_process_of_root_has_a_user_of_its_own() -> None:
    with JailedProcess() as one, JailedProcess(first_id=0x60000000) as other:
        users = [read_status(each.number)["Uid"].split() for each in (one, other)]
        groups = [read_status(each.number)["Gid"].split() for each in (one, other)]
        lists = [read_status(each.number)["Groups"].split() for each in (one, other)]
        numbers = one.number, other.number
        known = Path(f"/proc/{one.number}/uid_map").read_text().split()

    wanted = [str(FIRST_ID + numbers[0])] * 4, [str(0x60000000 + numbers[1])] * 4
    assert (*users,) == (*groups,) == wanted
    assert lists == [[], []]
    assert known == ["0", wanted[0][0], "1"]


@pytest.mark.parametrize("identity", IDENTITIES)
def test_process_sees_only_the_tree_that_it_is_given(identity: int, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:-1]):
        if os.geteuid() == 0 and directory.owner() == "root":
            directory.chmod(directory.stat().st_mode | 0o055)
    data, file, link = tmp_path / "data", tmp_path / "file", tmp_path / "link"
    data.mkdir()
    (data / "inside").write_text("text")
    file.write_text("text")
    link.symlink_to("data")
    paths = [str(data), str(file), str(link), str(tmp_path / "missing")]

    with JailedProcess(paths, identity=choose(identity)) as jailed:
        top = {path for path in list_tree(jailed.number) if path.count("/") == 1}
        root = Path(f"/proc/{jailed.number}/root")
        seen = {path.name for path in Path(f"{root}{tmp_path}").iterdir()}
        text = Path(f"{root}{data}/inside").read_text()
        mounts = Path(f"/proc/{jailed.number}/mountinfo").read_text().splitlines()

    assert top == {"/proc", f"/{tmp_path.parts[1]}"}
    assert seen == {"data", "file", "link"}
    assert text == "text"
    options = [set(line.split()[5].split(",")) for line in mounts]
    assert len(mounts) == 4
    assert all({"ro", "nosuid", "nodev"} <= each for each in options)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_process_in_its_jail_dies_with_its_parent(identity: int) -> None:
    with JailedProcess(identity=choose(identity)) as jailed:
        jailed.parent.kill()
        jailed.parent.wait()

        block_until(
            lambda: not Path(f"/proc/{jailed.number}").exists(), "the process ends", limit=60
        )


@pytest.mark.parametrize("part", ["PID_NAMESPACE", "USER_NAMESPACE", "NET_NAMESPACE"])
@needs_root
def test_part_that_is_left_out_leaves_the_others(part: str) -> None:
    kind = part.split("_", maxsplit=1)[0].lower()
    with JailedProcess(left_out=[part]) as jailed:
        ours, theirs = read_namespaces("self"), read_namespaces(jailed.number)

    assert {name for name in ours if ours[name] == theirs[name]} == {kind}


LIMITED = """
import os, sys
sys.path[:0] = [sys.argv[1]]
from slipway.jail import capabilities
from slipway.jail.jail import Jail
from slipway.jail.namespaces import Namespace, map_root, unshare
from slipway.jail.root_tree import RootTree
from slipway.jail.trial import find_refusals
user, group = os.getuid(), os.getgid()
unshare(Namespace.USER)
map_root(user, group)
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
capabilities.drop_all()
print(*(part.name for part in find_refusals(lambda refused: Jail(RootTree(), refused))))
"""


def test_ordinary_user_without_user_namespaces_does_without_them() -> None:
    packages = build_module_command("", ())[4]

    ended = subprocess.run(
        [sys.executable, "-IS", "-c", LIMITED, packages],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    refused = ended.stdout.split()
    assert refused[:2] == ["USER_NAMESPACE", "PID_NAMESPACE"]
    assert "CAPABILITIES" not in refused


def test_ids_of_all_processes_fit_into_the_range() -> None:
    assert FIRST_ID + COUNT <= 0x7FFFFFFF
    assert LARGEST_FIRST_ID + COUNT == 0x7FFFFFFF


@pytest.mark.parametrize(
    ("number", "momentary"),
    [(errno.EAGAIN, True), (errno.ENOMEM, True), (errno.EPERM, False), (errno.ENOSYS, False)],
)
def test_lack_of_room_is_told_from_a_refusal(number: int, momentary: bool) -> None:
    refusal = JailRefusal(Part.USER_NAMESPACE, OSError(number, os.strerror(number)))

    assert refusal.is_momentary == momentary
    assert bool(refusal.hint) == momentary
