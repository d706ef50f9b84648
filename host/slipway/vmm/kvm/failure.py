"""Errors of KVM's calls, as errors for users."""

from __future__ import annotations

import errno

from slipway._util.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_HINTS = {
    errno.ENOMEM: "Give the machine less memory (--memory), or run fewer machines at once.",
    errno.ENOSPC: "Run fewer machines at once.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "Run fewer machines at once.",
    errno.EBUSY: "Another hypervisor holds the processor's virtualisation; end it.",
}
_GENERAL = "Use --machine qemu; 'slipway doctor' tells what this host can do."


class explain_failure:  # noqa: N801 (used as a statement, like contextlib.suppress)
    """Context manager that turns an OSError into a HostError with the name of the failed call."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            raise HostError(
                f"{self._what} failed: {error.strerror or error}",
                _HINTS.get(error.errno or 0, _GENERAL),
            ) from error
