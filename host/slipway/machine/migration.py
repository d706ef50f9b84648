"""QEMU's migration, which is how a machine is saved to a file and loaded from one.

Nothing travels: the stream that another host would get is written to a file in memory, without the
RAM where that is shared with us already.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._model.errors import HostError
from slipway._util.text import plain
from slipway._util.threads import uninterrupted

if TYPE_CHECKING:
    from slipway.machine.qmp import Monitor

# What a state may hold besides the RAM: the devices' 60 KB, and the firmware.
STATE_BYTES = 64 * 1024 * 1024
# Saving 100 MB of RAM takes a tenth of a second; loading it, too.
SAVE_SECONDS = 60.0
LOAD_SECONDS = 60.0
BREAK_OFF_SECONDS = 10.0
_OVER = (None, "none", "completed", "failed", "cancelled")
_POLL_SECONDS = 0.002
# Both ends of a migration have to say so.
_IGNORE_SHARED = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
# Else QEMU spares a network, and lets the guest run on while it writes its RAM faster than that.
# These are the highest values that it takes: bytes and milliseconds.
_UNLIMITED = {"max-bandwidth": 2**60, "downtime-limit": 2_000_000}
_SHOWN = 300


async def save(monitor: Monitor, state: int) -> None:
    """Have QEMU write all but shared memory to the file ``state``; the guest stands still after.

    Cancelled, it breaks that off: QEMU lets no guest go on meanwhile, and would stop it at the end.

    Raises:
        HostError: it cannot, or has ended.
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
        await uninterrupted(_break_off(monitor))
        raise HostError(f"QEMU did not save the machine within {SAVE_SECONDS:g} s") from None
    except asyncio.CancelledError:
        await uninterrupted(_break_off(monitor))
        raise


async def _break_off(monitor: Monitor) -> None:
    """Until QEMU saves nothing more, or does not answer."""
    with suppress(HostError, TimeoutError):
        async with asyncio.timeout(BREAK_OFF_SECONDS):
            await monitor.execute("migrate_cancel")
            while (await _query_status(monitor)).get("status") not in _OVER:
                await asyncio.sleep(_POLL_SECONDS)


async def _is_saved(monitor: Monitor) -> bool:
    told = await _query_status(monitor)
    status = told.get("status")
    if status in ("failed", "cancelled"):
        reason = plain(str(told.get("error-desc", "it does not say why"))[:_SHOWN])
        raise HostError(f"QEMU could not save the machine: {reason}")
    return status == "completed"


async def _query_status(monitor: Monitor) -> dict[str, Any]:
    """What QEMU says of its migration; nothing where there has been none."""
    told = await monitor.execute("query-migrate")
    return told if isinstance(told, dict) else {}


def load(monitor: Monitor, state: int) -> None:
    """Have QEMU load the file that it has inherited as ``state``.

    It is started with ``-incoming defer``, and need not run yet. It ends where it cannot load that.
    """
    monitor.send("migrate-set-capabilities", _IGNORE_SHARED)
    monitor.send("migrate-incoming", {"uri": f"fd:{state}"})


async def wait_loaded(monitor: Monitor) -> None:
    """Until the guest goes on.

    Raises:
        HostError: QEMU could not load the state, or has ended.
    """
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            await monitor.resumed
    except TimeoutError:
        raise HostError(f"QEMU did not load the snapshot within {LOAD_SECONDS:g} s") from None
