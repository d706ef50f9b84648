"""Port: the byte stream to the host; search, opening, and writes without waiting."""

from __future__ import annotations

import os
from collections import deque
from time import monotonic, sleep

from slipway_agent.loop import READABLE
from slipway_agent.mounts import write_to_sysfs

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
# Prefix of a serial device that is used where no virtio console is found.
EITHER = "auto,"
SERIAL_DEVICE = "ttyS1"
BAUD_RATE = 115200
# The highest of a 16550A; Linux takes 8. QEMU fills the FIFO up to the level and no further.
TRIGGER_LEVEL = b"14"

READ_SIZE = 256 * 1024
# A serial line keeps 4095 bytes for its reader, and more behind them: a read of so many is repeated
# at once. Pauses between the others: the first is a short delay for a person who types; in the last
# a line of 0.5 MB/s fills the 4095 bytes.
FULL_READ = 2048
FIRST_PAUSE_SECONDS = 0.002
LAST_PAUSE_SECONDS = 0.008
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


class SerialPort(HostPort):
    """Serial line, which is read at intervals while bytes keep coming.

    The driver hands out the bytes of one interrupt, often 8. A turn of the agent for each would
    take far more time than the line itself. Therefore the first bytes are read at once, and those
    that follow after a pause, which becomes longer while there are any.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, SERIAL)
        self._is_paused = False
        self._pause_seconds = FIRST_PAUSE_SECONDS
        # Set by watch().
        self._loop: Loop | None = None
        self._events = 0
        self._handler: Handler | None = None

    def watch(self, loop: Loop, events: int, handler: Handler) -> None:
        """Watch the line for ``events``; in a pause, only for those of writing."""
        self._loop, self._events, self._handler = loop, events, handler
        loop.watch(self.fd, events & ~READABLE if self._is_paused else events, handler)

    def read(self) -> bytes:
        """Return the bytes that have arrived, or b"", also in a pause; see :class:`HostPort`."""
        if self._is_paused:
            return b""
        data = super().read()
        if data and len(data) < FULL_READ:
            self._begin_pause()
        return data

    def _begin_pause(self) -> None:
        if self._loop is not None and self._handler is not None:
            self._is_paused = True
            self._loop.watch(self.fd, self._events & ~READABLE, self._handler)
            self._loop.call_at(monotonic() + self._pause_seconds, self._end_pause)
            self._pause_seconds = min(2 * self._pause_seconds, LAST_PAUSE_SECONDS)

    def _end_pause(self) -> None:
        """Read the bytes of the pause; if there are none, wait for the next."""
        assert self._loop is not None
        assert self._handler is not None
        self._is_paused = False
        self._handler(READABLE)
        if not self._is_paused:
            self._pause_seconds = FIRST_PAUSE_SECONDS
            self._loop.watch(self.fd, self._events, self._handler)

    def flush_and_wait(self) -> None:
        """Write the whole queue and wait until the bytes have left the guest."""
        super().flush_and_wait()
        import termios

        termios.tcdrain(self.fd)


def open_port(wanted: str | None) -> HostPort:
    """Open the device ``wanted``; with ``auto,DEVICE`` the virtio port "agent" or else DEVICE.

    None is ``auto`` with the second UART of a PC.

    Raises:
        OSError: the device is missing.
    """
    if wanted is None or wanted.startswith(EITHER):
        device = find_virtio_port()
        if device is not None:
            return _open_virtio(device)
        wanted = SERIAL_DEVICE if wanted is None else wanted.removeprefix(EITHER)
    if wanted.startswith("ttyS"):
        return _open_serial(wanted)
    return _open_virtio(wanted)


def find_virtio_port() -> str | None:
    """Return the device of the virtio port "agent"; None without a console and its driver."""
    if not _has_virtio_console():
        return None
    deadline = monotonic() + NAME_WAIT_SECONDS
    while monotonic() < deadline:
        for device in _list_entries(VIRTIO_CLASS):
            if _read_name(device) == VIRTIO_NAME:
                return device
        sleep(NAME_STEP_SECONDS)
    return None


def _list_entries(path: str) -> Iterable[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return ()


def _has_virtio_console() -> bool:
    """Return true if a driver has taken a console: a kernel may have the bus and no driver."""
    for device in _list_entries(VIRTIO_DEVICES):
        if not os.path.exists(f"{VIRTIO_DEVICES}/{device}/driver"):
            continue
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


def _open_serial(device: str) -> HostPort:
    import serial

    path = f"/dev/{device}"

    # The settings (raw, 8N1, no flow control) and the exclusive lock stay while a descriptor is
    # open, also without the object. inter_byte_timeout sets VMIN to 1: an empty line then gives
    # EAGAIN. With VMIN 0 it would look like end of file.
    line = serial.Serial(path, BAUD_RATE, exclusive=True, timeout=0, inter_byte_timeout=0)
    fd = os.dup(line.fileno())
    os.fchmod(fd, 0o600)
    line.close()
    _raise_trigger_level(device)
    return SerialPort(fd)


def _raise_trigger_level(device: str) -> None:
    """Have the driver handle more bytes in an interrupt, where it can. This clears the FIFO."""
    try:
        write_to_sysfs(f"/sys/class/tty/{device}/rx_trig_bytes", TRIGGER_LEVEL)
    except OSError:
        pass  # another driver, or a chip without levels
