"""Registers of the serial port by name, made of the numbers that the device uses."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from slipway.vmm.devices import uart


class Register(IntEnum):
    """Offsets of the registers."""

    DATA = uart.DATA
    IER = uart.IER
    IIR = uart.IIR
    LCR = uart.LCR
    MCR = uart.MCR
    LSR = uart.LSR
    MSR = uart.MSR
    SCR = uart.SCR


class Ier(IntFlag):
    """Interrupt enable."""

    DATA = uart.IER_DATA
    THRE = uart.IER_THRE
    LINE = uart.IER_LINE
    MODEM = uart.IER_MODEM


class Iir(IntEnum):
    """Cause of the interrupt."""

    MODEM = uart.IIR_MODEM
    NONE = uart.IIR_NONE
    THRE = uart.IIR_THRE
    DATA = uart.IIR_DATA
    LINE = uart.IIR_LINE
    TIMEOUT = uart.IIR_TIMEOUT


class Fcr(IntFlag):
    """FIFO control."""

    ENABLE = uart.FCR_ENABLE
    CLEAR_RX = uart.FCR_CLEAR_RX
    CLEAR_TX = uart.FCR_CLEAR_TX
    WIDE = uart.FCR_WIDE
    LEVEL = uart.FCR_LEVEL


class Lcr(IntFlag):
    """Line control."""

    BREAK = uart.LCR_BREAK
    DLAB = uart.LCR_DLAB


class Mcr(IntFlag):
    """Modem control."""

    DTR = uart.MCR_DTR
    RTS = uart.MCR_RTS
    OUT1 = uart.MCR_OUT1
    OUT2 = uart.MCR_OUT2
    LOOP = uart.MCR_LOOP


class Lsr(IntFlag):
    """Line status."""

    READY = uart.LSR_READY
    OVERRUN = uart.LSR_OVERRUN
    BREAK = 0x10  # Linux looks for it; the device never sets it
    THRE = uart.LSR_THRE
    TEMT = uart.LSR_TEMT


class Msr(IntFlag):
    """Modem status."""

    DELTA_CTS = uart.MSR_DELTA_CTS
    DELTA_DSR = uart.MSR_DELTA_DSR
    TRAILING_RI = uart.MSR_TRAILING_RI
    DELTA_DCD = uart.MSR_DELTA_DCD
    CTS = uart.MSR_CTS
    DSR = uart.MSR_DSR
    RI = uart.MSR_RI
    DCD = uart.MSR_DCD
