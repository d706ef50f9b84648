"""Who may have which images built, and how many are built at once."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from slipway._model.options import Options
from slipway._run.assets import AssetRequest, Assets
from slipway._run.build_policy import BuildNotAllowed, BuildPolicy
from slipway._run.image_builds import ImageBuilds
from slipway._run.languages import find_language
from slipway._run.slot import ignore_progress
from slipway._util.shares import Share
from support.fake_machine import FakeLauncher
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ATTACKER, VICTIM = Share("61001"), Share("61002")
US = Share(str(os.geteuid()))


@pytest.mark.parametrize(
    ("build", "image", "is_known", "may"),
    [
        ("never", "rust", False, False),
        ("never", "rust", True, False),
        ("listed", "rust", False, True),
        ("listed", "rust@1.80", False, False),
        ("listed", "rust@1.80", True, True),
        ("listed", "rust@1.81", False, True),
        ("any", "rust@1.80", False, True),
        ("auto", "rust@1.80", False, False),
        ("auto", "rust@1.81", False, True),
    ],
)
def test_images_that_another_user_may_have_made(
    build: str, image: str, is_known: bool, may: bool
) -> None:
    policy = BuildPolicy(build, ("rust@1.81",))

    if may:
        policy.check(image, ATTACKER, is_known=is_known)
    else:
        with pytest.raises(BuildNotAllowed, match=image) as caught:
            policy.check(image, ATTACKER, is_known=is_known)
        assert f"slipway image build {image}" in caught.value.hint


@pytest.mark.parametrize("share", [Share(), US, Share("0")])
def test_user_of_the_server_may_have_any_image_made_unless_told_otherwise(share: Share) -> None:
    BuildPolicy().check("rust@1.80", share, is_known=False)
    with pytest.raises(BuildNotAllowed):
        BuildPolicy("listed").check("rust@1.80", share, is_known=False)


class SlowImages(FakeLauncher):
    """Images whose builds each wait for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.gates: dict[str, threading.Event] = {}

    def find(
        self, request: AssetRequest, progress: Callable[[str], None], *, repair: bool = False
    ) -> Assets:
        """Build the image as soon as the test opens its gate."""
        image = request.language.image
        gate = self.gates.setdefault(image, threading.Event())
        self.begun.append(image)
        assert gate.wait(120), "the test has opened the gate"
        return super().find(request, progress, repair=repair)

    def open_gate(self, image: str) -> None:
        """Let the build of ``image`` end."""
        self.gates[image].set()


class BuildRig:
    """Builds, and runs that wait for them."""

    def __init__(self) -> None:
        self.images = SlowImages()
        self.builds = ImageBuilds(self.images, most=2)
        self.tasks: list[asyncio.Task[None]] = []

    def want(self, image: str, share: Share) -> asyncio.Task[None]:
        """Begin to wait for an image."""
        request = AssetRequest(find_language(image), Options(), self.images.hypervisor)
        task = asyncio.create_task(self.builds.ensure_built(request, ignore_progress, share))
        self.tasks.append(task)
        return task

    async def wait_begun(self, *images: str) -> None:
        """Wait until exactly ``images`` have begun, in this order."""
        await wait_until(
            lambda: len(self.images.begun) >= len(images), f"the builds of {images} have begun"
        )
        assert self.images.begun == list(images)


@asynccontextmanager
async def building() -> AsyncIterator[BuildRig]:
    """Return a rig, whose builds all end with the test."""
    rig = BuildRig()
    yield rig
    for task in rig.tasks:
        task.cancel()
    for gate in list(rig.images.gates.values()):
        gate.set()
    for task in rig.tasks:
        with suppress(asyncio.CancelledError):
            await task
    await wait_until(lambda: rig.builds.holdings.total == 0, "no build is under way")


async def test_user_has_one_build_at_a_time_and_another_user_is_not_kept_waiting() -> None:
    async with building() as rig:
        for number in range(64):
            rig.want(f"rust@1.{number}", ATTACKER)
        await rig.wait_begun("rust@1.0")

        wanted = rig.want("python@3.12", VICTIM)
        await rig.wait_begun("rust@1.0", "python@3.12")
        rig.images.open_gate("python@3.12")
        await wanted

        assert rig.images.begun == ["rust@1.0", "python@3.12"]


async def test_builds_are_bounded_and_users_take_turns() -> None:
    async with building() as rig:
        for number in range(8):
            rig.want(f"rust@1.{number}", ATTACKER)
        rig.want("go@1.20", Share("61003"))
        await rig.wait_begun("rust@1.0", "go@1.20")
        rig.want("python@3.12", VICTIM)

        rig.images.open_gate("rust@1.0")
        await rig.wait_begun("rust@1.0", "go@1.20", "python@3.12")
        rig.images.open_gate("go@1.20")

        await rig.wait_begun("rust@1.0", "go@1.20", "python@3.12", "rust@1.1")


async def test_build_that_nobody_waits_for_any_more_does_not_begin() -> None:
    async with building() as rig:
        first = rig.want("rust@1.0", ATTACKER)
        left = rig.want("rust@1.1", ATTACKER)
        last = rig.want("rust@1.2", ATTACKER)
        await rig.wait_begun("rust@1.0")

        left.cancel()
        await asyncio.wait({left})
        rig.images.open_gate("rust@1.0")
        await first
        await rig.wait_begun("rust@1.0", "rust@1.2")
        rig.images.open_gate("rust@1.2")
        await last
