"""Seam of the host's processor: the registers and numbers of its system calls."""

from __future__ import annotations

import os

from slipway._util.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from slipway.machine.fork.call_names import Call

    class Processor(Protocol):
        """Module with the threads of one architecture."""

        GENERAL: int
        NOTES: tuple[int, ...]
        CALL_INSTRUCTION: bytes
        NUMBERS: Mapping[Call, int]
        WAITING: frozenset[int]

        def find_interrupted_call(self, registers: bytes) -> int | None:
            """Return the number of the call that the stop has interrupted, if any."""
            ...

        def get_call_address(self, registers: bytes) -> int:
            """Return the address of the instruction of that call."""
            ...

        def prepare_restart(self, registers: bytes) -> bytes:
            """Return registers that make the interrupted call again."""
            ...

        def prepare_call(
            self, registers: bytes, address: int, number: int, arguments: tuple[int, ...]
        ) -> bytes:
            """Return registers that make a call by the instruction at ``address``."""
            ...

        def read_result(self, registers: bytes) -> int:
            """Return the result of a call that is over; negative for an error."""
            ...


def find_processor() -> Processor:
    """Return the module of this host's processor.

    Raises:
        HostError: the processor has none.
    """
    machine = os.uname().machine
    if machine == "x86_64":
        from slipway.machine.fork import x86_64

        return x86_64
    if machine == "aarch64":
        from slipway.machine.fork import aarch64

        return aarch64
    raise HostError(f"processes of {machine} cannot be forked by another process")
