"""Images that a runtime has made for the sake of a run: for whom, and which."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._util.errors import InputError

if TYPE_CHECKING:
    from slipway._util.shares import Share

_ROOT = 0


class BuildNotAllowed(InputError):
    """Request for an image that is not in the store, and that the operator lets nobody make."""


@dataclass(frozen=True, slots=True)
class BuildPolicy:
    """Operator's choice of the images that runs may have made.

    ``build`` is ``never``, ``listed``, ``any`` or ``auto``: any for callers in this process, for
    its user and for root, and listed for other users. Listed are the default versions of all
    languages, images that the store has in an older form, and those of ``listed``, such as
    ``rust@1.80``.
    """

    build: str = "auto"
    listed: tuple[str, ...] = ()

    def check(self, image: str, share: Share, *, is_known: bool) -> None:
        """Check that ``share`` may have ``image`` made; ``is_known`` if the store has an old one.

        Raises:
            BuildNotAllowed: it may not.
        """
        if self.build == "any" or (self.build == "auto" and _is_trusted(share)):
            return
        is_listed = is_known or "@" not in image or image in self.listed
        if self.build != "never" and is_listed:
            return
        found = "has to be made anew" if is_known else "is not in the store"
        may = "none" if self.build == "never" else "only listed ones"
        raise BuildNotAllowed(
            f"the image {image[:80]} {found}, and the operator lets runs have {may} made",
            "Use a version of the list of languages. The operator can make the image:"
            f" slipway image build {image[:80]}; or allow it: --listed {image[:80]}",
        )


def _is_trusted(share: Share) -> bool:
    return share.user in {"", str(_ROOT), str(os.geteuid())}
