"""The byte stream to the host: finding it, opening it, and writing to it without waiting."""

from __future__ import annotations

import os
from collections import deque
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

VIRTIO_CLASS = "/sys/class/virtio-ports"
VIRTIO_DEVICES = "/sys/bus/virtio/devices"
# include/uapi/linux/virtio_ids.h
VIRTIO_ID_CONSOLE = 3
VIRTIO_NAME = "agent"
VIRTIO = "virtio"
SERIAL = "serial"
SERIAL_DEVICE = "/dev/ttyS1"
BAUD_RATE = 115200

READ_SIZE = 256 * 1024
# Small messages are joined up to this; the virtio driver takes at most 32 KiB with one call.
WRITE_SIZE = 32 * 1024
# A virtio port and its name come from the host after the driver asks: from a loaded one late.
NAME_WAIT_SECONDS = 60
NAME_STEP_SECONDS = 0.002


class PortClosedError(Exception):
    """The host has closed its end."""


class Port:
    """Reads what is there, and queues what cannot be written yet."""

    def __init__(self, fd: int, kind: str) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.kind = kind
        self.pending = 0
        self._queue: deque[bytes] = deque()

    def read(self) -> bytes:
        """What has arrived; empty when nothing has.

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
        """Queue ``data``; :meth:`flush` writes it."""
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
            try:
                written = os.write(self.fd, data)
            except BlockingIOError:
                written = 0
            except OSError as error:
                raise PortClosedError(str(error)) from None
            self.pending -= written
            if written < len(data):
                queue.appendleft(data[written:])
                if not written:
                    return

    def flush_and_wait(self) -> None:
        """Write all of the queue and wait until it is on its way; the machine ends next."""
        os.set_blocking(self.fd, True)
        try:
            self.flush()
        except PortClosedError:
            return
        if self.kind == SERIAL:
            import termios

            termios.tcdrain(self.fd)


def open_port(wanted: str | None) -> Port:
    """The virtio port named "agent", else the second UART; ``wanted`` names a device instead.

    Raises:
        OSError: there is neither.
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


def _open_virtio(device: str) -> Port:
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    path = f"/dev/{device}"
    fd = os.open(path, flags)
    os.fchmod(fd, 0o600)
    return Port(fd, VIRTIO)


def _open_serial(path: str) -> Port:
    import serial

    # Its settings (raw, 8N1, no flow control) and the exclusive lock outlive the object as long as
    # the descriptor is open. With inter_byte_timeout the line says when it has nothing (VMIN 1):
    # with VMIN 0 that would look like the end of file.
    line = serial.Serial(path, BAUD_RATE, exclusive=True, timeout=0, inter_byte_timeout=0)
    fd = os.dup(line.fileno())
    os.fchmod(fd, 0o600)
    line.close()
    return Port(fd, SERIAL)
