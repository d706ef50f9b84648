"""Toolchains' versions, read from what an image's record says of its packages and variables.

Nothing of an image is run for that, and no image has to be made again: Debian's packages have
versions, and the official container images tell theirs in a variable. This module imports nothing
that is slow to import.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway_initramfs.store.records import Image

# Where the version stands in what a toolchain says of itself.
PLACE = "{version}"

# Compiled when they are needed: each run imports this module.
_VERSION = r"[0-9][0-9A-Za-z.]{0,39}(-[0-9A-Za-z.]{1,24})?"
_UPSTREAM = r"(?:[0-9]+:)?([0-9][0-9A-Za-z.]*)"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How a language's compiler or interpreter tells its version, and where that is found.

    ``text`` has PLACE where the version goes (``go{version}``); ``package`` is a pattern of the
    name of Debian's package, ``variable`` the name of a container image's variable. Either may be
    empty, and nothing is known of such images then.
    """

    text: str = ""
    package: str = ""
    variable: str = ""

    def of(self, image: Image) -> str:
        """Return what the toolchain of ``image`` is, such as ``rustc 1.63.0``; "" if unknown."""
        version = self._find_package_version(image) or self._find_variable_version(image)
        return self.text.replace(PLACE, version) if version and self.text else ""

    def _find_package_version(self, image: Image) -> str:
        packages = image.manifest.get("packages")
        for package in packages if isinstance(packages, list) and self.package else ():
            if isinstance(package, dict) and fnmatchcase(str(package.get("name")), self.package):
                # "4:12.2.0-3" and "18.20.4+dfsg-1~deb12u3" are 12.2.0 and 18.20.4 to their makers.
                match = re.match(_UPSTREAM, str(package.get("version")))
                return match[1] if match else ""
        return ""

    def _find_variable_version(self, image: Image) -> str:
        # An image may say whatever it likes; only what looks like a version gets on.
        told = image.environment.get(self.variable, "") if self.variable else ""
        return told if re.fullmatch(_VERSION, told) else ""
