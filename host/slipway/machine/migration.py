"""QEMU's migration, by which a machine is saved to a file and loaded from one.

The stream that would go to another host is written to a file in memory, without the RAM where
that is shared with this process already.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._util.errors import HostError, NoAnswer
from slipway._util.text import to_plain_line
from slipway._util.threads import run_shielded
from slipway._util.units import MIB

if TYPE_CHECKING:
    from slipway.machine.qmp import Monitor

# Upper bound on a state without the RAM: devices have 60 KB, and there is the firmware.
STATE_BYTES = 64 * MIB
# Saving 100 MB of RAM takes a tenth of a second; loading it, too.
SAVE_SECONDS = 60.0
LOAD_SECONDS = 60.0
BREAK_OFF_SECONDS = 10.0
_OVER = (None, "none", "completed", "failed", "cancelled")
_POLL_SECONDS = 0.002
# Both ends of a migration need this setting.
_IGNORE_SHARED = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
# By default QEMU limits its rate, and lets the guest continue while that writes to its RAM faster.
# These are the highest values that QEMU accepts: bytes and milliseconds.
_UNLIMITED = {"max-bandwidth": 2**60, "downtime-limit": 2_000_000}
# Arguments of a QEMU that loads: after a migration it would announce each interface to switches, by
# five frames (RARP) within a second. A link has no switch, and each frame wakes a gateway.
NO_ANNOUNCEMENTS = ("-global", "migration.announce-rounds=0")
_SHOWN = 300


async def save(monitor: Monitor, state: int) -> None:
    """Let QEMU write all but shared memory to the file ``state``, and stop the guest.

    A cancelled call breaks the migration off: QEMU could not resume the guest meanwhile, and would
    stop it at the end.

    Raises:
        HostError: QEMU cannot save the machine, or has ended.
    """
    await monitor.execute("migrate-set-capabilities", _IGNORE_SHARED)
    await monitor.execute("migrate-set-parameters", _UNLIMITED)
    await monitor.execute("getfd", {"fdname": "state"}, files=(state,))
    try:
        await monitor.execute("migrate", {"uri": "fd:state"})
        async with asyncio.timeout(SAVE_SECONDS):
            while not await _is_saved(monitor):
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        await run_shielded(_break_off(monitor))
        raise HostError(f"QEMU did not save the machine within {SAVE_SECONDS:g} s") from None
    except asyncio.CancelledError:
        await run_shielded(_break_off(monitor))
        raise


async def _break_off(monitor: Monitor) -> None:
    """Wait until QEMU has stopped saving, or does not answer in time."""
    with suppress(HostError, TimeoutError):
        async with asyncio.timeout(BREAK_OFF_SECONDS):
            await monitor.execute("migrate_cancel")
            while (await _query_status(monitor)).get("status") not in _OVER:
                await asyncio.sleep(_POLL_SECONDS)


async def _is_saved(monitor: Monitor) -> bool:
    answer = await _query_status(monitor)
    status = answer.get("status")
    if status in ("failed", "cancelled"):
        reason = to_plain_line(str(answer.get("error-desc", "reason unknown"))[:_SHOWN])
        raise HostError(f"QEMU could not save the machine: {reason}")
    return status == "completed"


async def _query_status(monitor: Monitor) -> dict[str, Any]:
    """Return QEMU's report on its migration; empty before the first."""
    answer = await monitor.execute("query-migrate")
    return answer if isinstance(answer, dict) else {}


def load(monitor: Monitor, state: int) -> None:
    """Let QEMU load the file that it has inherited as ``state``.

    QEMU is started with ``-incoming defer``, and may still be starting. A state that cannot be
    loaded ends its process.
    """
    monitor.send("migrate-set-capabilities", _IGNORE_SHARED)
    monitor.send("migrate-incoming", {"uri": f"fd:{state}"})


async def wait_loaded(monitor: Monitor) -> None:
    """Wait until the guest runs.

    Raises:
        HostError: QEMU could not load the state, or has ended.
    """
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            await monitor.resumed
    except TimeoutError:
        raise NoAnswer(f"QEMU did not load the snapshot within {LOAD_SECONDS:g} s") from None
