"""Port: the byte stream to the host; search, opening, and writes without waiting."""

from __future__ import annotations

import os
from collections import deque
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway_agent.loop import Handler, Loop

VIRTIO_CLASS = "/sys/class/virtio-ports"
VIRTIO_DEVICES = "/sys/bus/virtio/devices"
# include/uapi/linux/virtio_ids.h
VIRTIO_ID_CONSOLE = 3
VIRTIO_NAME = "agent"
VIRTIO = "virtio"
SERIAL = "serial"
TCP = "tcp"
SERIAL_DEVICE = "/dev/ttyS1"
BAUD_RATE = 115200

READ_SIZE = 256 * 1024
# Small messages are joined up to this size; the virtio driver takes at most 32 KiB in one call.
WRITE_SIZE = 32 * 1024
# The host sends the name of a virtio port after the driver has asked; a loaded host is slow.
NAME_WAIT_SECONDS = 60
NAME_STEP_SECONDS = 0.002


class PortClosedError(Exception):
    """End of the stream: the host has closed its end."""


class HostPort:
    """Open port, with a queue of bytes that cannot be written yet."""

    def __init__(self, fd: int, kind: str) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.kind = kind
        self.pending = 0
        self._queue: deque[bytes] = deque()

    def watch(self, loop: Loop, events: int, handler: Handler) -> None:
        """Have ``loop`` call ``handler`` for ``events`` of the port, from now on."""
        loop.watch(self.fd, events, handler)

    def read(self) -> bytes:
        """Return the bytes that have arrived, or b"".

        Raises:
            PortClosedError: the host has closed its end.
        """
        try:
            data = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise PortClosedError(str(error)) from None
        if not data:
            raise PortClosedError("end of file")
        return data

    def send(self, data: bytes) -> None:
        """Queue ``data`` until :meth:`flush`."""
        self._queue.append(data)
        self.pending += len(data)

    def flush(self) -> None:
        """Write as much of the queue as the port takes now; ``pending`` bytes remain.

        Raises:
            PortClosedError: the host has closed its end.
        """
        queue = self._queue
        while queue:
            data = queue.popleft()
            if queue and len(data) < WRITE_SIZE:
                pieces, size = [data], len(data)
                while queue and size + len(queue[0]) <= WRITE_SIZE:
                    pieces.append(queue.popleft())
                    size += len(pieces[-1])
                data = b"".join(pieces)
            written = self._write(data)
            self.pending -= written
            if written < len(data):
                queue.appendleft(data[written:])
                if not written:
                    return

    def _write(self, data: bytes) -> int:
        """Write to the port without waiting; return the number of bytes written.

        Raises:
            PortClosedError: the host has closed its end.
        """
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PortClosedError(str(error)) from None

    def flush_and_wait(self) -> None:
        """Write the whole queue and wait until the bytes have left the guest."""
        os.set_blocking(self.fd, True)
        try:
            self.flush()
        except PortClosedError:
            return
        if self.kind == SERIAL:
            import termios

            termios.tcdrain(self.fd)


def open_port(wanted: str | None) -> HostPort:
    """Open the device ``wanted``; with None, the virtio port "agent" or else the second UART.

    Raises:
        OSError: the device is missing.
    """
    if wanted is not None and not wanted.startswith("ttyS"):
        return _open_virtio(wanted)
    if wanted is None and _has_virtio_console():
        deadline = monotonic() + NAME_WAIT_SECONDS
        while monotonic() < deadline:
            for device in _list_entries(VIRTIO_CLASS):
                if _read_name(device) == VIRTIO_NAME:
                    return _open_virtio(device)
            sleep(NAME_STEP_SECONDS)
    return _open_serial(SERIAL_DEVICE if wanted is None else f"/dev/{wanted}")


def _list_entries(path: str) -> Iterable[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return ()


def _has_virtio_console() -> bool:
    for device in _list_entries(VIRTIO_DEVICES):
        try:
            with open(f"{VIRTIO_DEVICES}/{device}/device", "rb") as file:
                if int(file.read(16), 16) == VIRTIO_ID_CONSOLE:
                    return True
        except (OSError, ValueError):
            continue
    return False


def _read_name(device: str) -> str:
    try:
        with open(f"{VIRTIO_CLASS}/{device}/name", "rb") as file:
            return file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _open_virtio(device: str) -> HostPort:
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    path = f"/dev/{device}"
    fd = os.open(path, flags)
    os.fchmod(fd, 0o600)
    return HostPort(fd, VIRTIO)


def _open_serial(path: str) -> HostPort:
    import serial

    # The settings (raw, 8N1, no flow control) and the exclusive lock stay while a descriptor is
    # open, also without the object. inter_byte_timeout sets VMIN to 1: an empty line then gives
    # EAGAIN. With VMIN 0 it would look like end of file.
    line = serial.Serial(path, BAUD_RATE, exclusive=True, timeout=0, inter_byte_timeout=0)
    fd = os.dup(line.fileno())
    os.fchmod(fd, 0o600)
    line.close()
    return HostPort(fd, SERIAL)
