"""Job of one run: language, source, options and stdin, from the caller to the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._model.options import check_source
from slipway._run.sizing import check_room
from slipway._sources import check_source_names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway_initramfs.languages.language import Language


@dataclass(frozen=True, slots=True)
class JobRequest:
    """Language, source, options and input of one run.

    ``stdin`` is read once; None gives the program an empty stdin. With ``keep_files`` the job finds
    the files of the last such job in its machine, and leaves its own to the next.
    """

    language: Language
    source: bytes
    options: Options
    stdin: AsyncIterator[bytes] | None = None
    keep_files: bool = False

    def check(self) -> None:
        """Check source and options against the language.

        Raises:
            InputError: the job cannot be run.
        """
        check_source(self.source)
        self.options.check(self.language.source)
        check_source_names(self.language, self.options.files)

    def check_room(self, assets: Assets) -> None:
        """Check that a machine of ``assets`` has room for the limits and files of this job.

        Raises:
            InputError: the machine has too little memory.
        """
        check_room(assets.image, self.language, assets.memory, self.options, len(self.source))
