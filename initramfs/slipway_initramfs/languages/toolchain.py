"""Toolchains' versions, taken from the packages and variables in an image's record.

No program of the image is run, and no image need be built again: Debian's packages have versions,
and the official container images state theirs in a variable. Every run imports this module: its own
imports are fast.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway_initramfs.store.records import Image

# Placeholder for the version in the text of a toolchain.
PLACE = "{version}"

# Compiled on use: every run imports this module.
_VERSION = r"[0-9][0-9A-Za-z.]{0,39}(-[0-9A-Za-z.]{1,24})?"
_UPSTREAM = r"(?:[0-9]+:)?([0-9][0-9A-Za-z.]*)"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Version of a language's compiler or interpreter, and the place of it in an image's record.

    ``text`` has PLACE in place of the version (``go{version}``). ``package`` is a pattern for the
    name of a Debian package, ``variable`` the name of a container image's variable; the version of
    an image is unknown if the matching field is empty.
    """

    text: str = ""
    package: str = ""
    variable: str = ""

    def of(self, image: Image) -> str:
        """Return the toolchain of ``image``, such as ``rustc 1.63.0``, or an empty string."""
        version = self._find_package_version(image) or self._find_variable_version(image)
        return self.text.replace(PLACE, version) if version and self.text else ""

    def _find_package_version(self, image: Image) -> str:
        packages = image.manifest.get("packages")
        for package in packages if isinstance(packages, list) and self.package else ():
            if isinstance(package, dict) and fnmatchcase(str(package.get("name")), self.package):
                # Upstream versions: 12.2.0 of "4:12.2.0-3", 18.20.4 of "18.20.4+dfsg-1~deb12u3".
                match = re.match(_UPSTREAM, str(package.get("version")))
                return match[1] if match else ""
        return ""

    def _find_variable_version(self, image: Image) -> str:
        # The value is untrusted: only text in the form of a version is used.
        value = image.environment.get(self.variable, "") if self.variable else ""
        return value if re.fullmatch(_VERSION, value) else ""
