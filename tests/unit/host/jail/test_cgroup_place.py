from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from slipway import HostError
from slipway.jail.cgroup import GroupLimits
from slipway.jail.cgroup_place import Tree, check_controllers, find_tree, read_start_time

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
ONLY_V1 = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("mounts", "memberships", "own_group"),
    [
        (UNIFIED, "0::/\n", "/sys/fs/cgroup"),
        (UNIFIED, "0::/system.slice/a.service\n", "/sys/fs/cgroup/system.slice/a.service"),
        (HYBRID, "4:memory:/elsewhere\n0::/user\n", "/sys/fs/cgroup/unified/user"),
        (
            "30 23 0:26 /docker/12 /sys/fs/cgroup ro - cgroup2 cgroup ro\n",
            "0::/docker/12/a\n",
            "/sys/fs/cgroup/a",
        ),
        ("30 23 0:26 / /my\\040groups rw - cgroup2 none rw\n", "0::/b\n", "/my groups/b"),
    ],
    ids=["top", "service", "hybrid", "container", "blank"],
)
def test_cgroup_of_this_process_is_found(mounts: str, memberships: str, own_group: str) -> None:
    assert find_tree(mounts, memberships).own_group == Path(own_group)


@pytest.mark.parametrize(
    ("mounts", "memberships", "reason"),
    [
        (ONLY_V1, "4:memory:/\n", "no cgroup v2 is mounted"),
        ("", "0::/\n", "no cgroup v2 is mounted"),
        ("30 23 0:26 /inner /sys/fs/cgroup rw - cgroup2 none rw\n", "0::/outer\n", "not mounted"),
    ],
    ids=["v1", "nothing", "other"],
)
def test_process_without_a_cgroup_is_told_why(mounts: str, memberships: str, reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        find_tree(mounts, memberships)


def test_controllers_that_v1_has_are_missing(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("hugetlb pids\n")

    with pytest.raises(HostError, match="no controller memory here: this host uses v1") as caught:
        check_controllers(tmp_path)

    assert "systemd.unified_cgroup_hierarchy=1" in caught.value.hint


def test_top_of_the_hierarchy_has_no_type(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "")

    assert tree.has_top

    (tmp_path / "cgroup.type").write_text("domain\n")
    assert not tree.has_top


def test_machine_has_its_vcpus_and_one_more_cpu() -> None:
    limits = GroupLimits.for_machine(1 << 30, 2)

    assert limits.settings["memory.max"] == str(1 << 30)
    assert limits.settings["memory.swap.max"] == "0"
    assert limits.settings["cpu.max"] == "300000 100000"


def test_start_of_a_process_that_has_ended_is_unknown() -> None:
    child = subprocess.Popen(["true"])
    child.wait()

    assert read_start_time(os.getpid()) > 0
    assert read_start_time(child.pid) == 0
