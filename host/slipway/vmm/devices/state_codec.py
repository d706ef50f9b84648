"""States of devices as plain values, and back, with the bounds of each field.

A decoded state becomes a device that a guest uses, and may come from a VMM that a guest controls:
a field that no device could have is refused.
"""

from __future__ import annotations

from slipway.vmm.devices.i8042 import I8042State
from slipway.vmm.devices.rtc import RtcState
from slipway.vmm.devices.uart import UartState
from slipway.vmm.devices.virtio_console import ConsoleState, VirtioConsole
from slipway.vmm.devices.virtio_mmio import MmioState
from slipway.vmm.devices.virtqueue import QueueState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")
    Check = Callable[[Any], Any]

_FIFO = 64  # bytes of a serial port's longest FIFO


def _make_integer_check(maximum: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= maximum:
            raise ValueError("a number is out of bounds")
        return value

    return check


def _check_boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("neither true nor false")
    return value


def _make_data_check(minimum: int, maximum: int) -> Check:
    def check(value: Any) -> bytearray:
        if type(value) is not bytes or not minimum <= len(value) <= maximum:
            raise ValueError("data of a wrong length")
        return bytearray(value)

    return check


def _check_areas(value: Any) -> tuple[int, int, int]:
    if type(value) is not list or len(value) != 3:
        raise ValueError("a queue has three parts")
    first, second, third = map(_U64, value)
    return first, second, third


def _decode_queues(value: Any) -> list[QueueState]:
    if type(value) is not list:
        raise ValueError("no queues")
    return [_decode_state(QueueState, item) for item in value]


def _decode_console_transport(value: Any) -> MmioState:
    return decode_transport(value, len(VirtioConsole.QUEUE_SIZES))


_BIT5, _BIT7, _U8, _U16, _U32, _U64 = (
    _make_integer_check((1 << n) - 1) for n in (5, 7, 8, 16, 32, 64)
)

_FIELDS: dict[type, dict[str, Check]] = {
    UartState: {
        **dict.fromkeys(("ier", "fcr", "lcr"), _U8),
        "mcr": _BIT5,
        **dict.fromkeys(("scr", "dll", "dlm", "errors", "deltas"), _U8),
        **dict.fromkeys(("thre", "asserted"), _check_boolean),
        "received": _make_data_check(0, _FIFO),
        "unsent": _make_data_check(0, _FIFO),
    },
    I8042State: dict.fromkeys(("status", "control", "output", "command"), _U8),
    RtcState: {"index": _BIT7, "cells": _make_data_check(128, 128)},
    QueueState: {
        "size": _U32,
        "areas": _check_areas,
        "ready": _check_boolean,
        **dict.fromkeys(("next_available", "next_used", "notified"), _U16),
    },
    MmioState: {
        "status": _U8,
        "driver_features": _U64,
        **dict.fromkeys(("device_features_select", "driver_features_select", "queue_select"), _U32),
        "interrupt_status": _U32,
        "postponed": _U32,
        "queues": _decode_queues,
    },
    ConsoleState: {
        "transport": _decode_console_transport,
        **dict.fromkeys(("ready", "opened", "starved"), _check_boolean),
        "pending": _make_integer_check(7),
        "sent": _U32,
    },
}


def encode(state: object) -> Any:
    """Return a state as maps, lists, numbers and bytes."""
    if type(state) in _FIELDS:
        return {name: encode(getattr(state, name)) for name in _FIELDS[type(state)]}
    if isinstance(state, list | tuple):
        return [encode(item) for item in state]
    if isinstance(state, bytearray):
        return bytes(state)
    return state


def decode_uart(value: Any) -> UartState:
    """Return the state of a serial port.

    Raises:
        ValueError: ``value`` is not such a state; likewise for the other devices.
    """
    return _decode_state(UartState, value)


def decode_keyboard(value: Any) -> I8042State:
    """Return the state of a keyboard controller; see :func:`decode_uart`."""
    return _decode_state(I8042State, value)


def decode_clock(value: Any) -> RtcState:
    """Return the state of a real-time clock; see :func:`decode_uart`."""
    return _decode_state(RtcState, value)


def decode_console(value: Any) -> ConsoleState:
    """Return the state of a virtio console; see :func:`decode_uart`."""
    return _decode_state(ConsoleState, value)


def decode_transport(value: Any, queues: int) -> MmioState:
    """Return the state of a virtio device's transport with ``queues``; see :func:`decode_uart`."""
    state = _decode_state(MmioState, value)
    if len(state.queues) != queues:
        raise ValueError("a wrong number of queues")
    return state


def _decode_state(kind: type[T], value: Any) -> T:
    fields = _FIELDS[kind]
    if type(value) is not dict or value.keys() != fields.keys():
        raise ValueError(f"not the fields of {kind.__name__}")
    return kind(**{name: check(value[name]) for name, check in fields.items()})
