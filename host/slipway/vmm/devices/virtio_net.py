"""Virtio network device, whose frames are the packets of a socket (VIRTIO 1.2, section 5.1).

The socket is one end of a pair of AF_UNIX and SOCK_SEQPACKET: a packet is one Ethernet frame and
nothing else. The peer is the guest's gateway; it computes and checks no checksum of TCP and UDP,
since a frame cannot be damaged on its way. Segmentation is not offered, because an MTU of 65520
bytes saves as much and needs no rules for its headers.

Frames of the guest are written to the socket as views of guest memory, on the thread of the vCPU
that notifies. Frames for the guest are read into one buffer, since their length is unknown before,
and copied to as many buffers of the guest as that takes (5.1.6.4).

Used buffers of frames that were sent are shown at once, and the guest is interrupted for them when
the peer has read: at an edge of the socket, at which a frame for the guest often comes as well.
"""

from __future__ import annotations

import os
from enum import IntEnum, IntFlag
from struct import Struct

from slipway.vmm.devices.buffers import BUDGET, BUFFER_COST, scatter
from slipway.vmm.devices.virtio_mmio import VERSION_1, MmioState, VirtioMmio
from slipway.vmm.devices.virtqueue import DriverError, RingFeature
from slipway.vmm.memory import GuestAddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.devices.model import Memory, Trigger
    from slipway.vmm.devices.virtqueue import Virtqueue


class NetFeature(IntFlag):
    """Features of network devices (5.1.3)."""

    CSUM = 1 << 0  # the device takes packets without a checksum
    GUEST_CSUM = 1 << 1  # the driver does
    MTU = 1 << 3
    MAC = 1 << 5
    MRG_RXBUF = 1 << 15  # a frame may take several chains


Queue = IntEnum("Queue", "RECEIVE TRANSMIT", start=0)

# The guest's address, and the largest IP packet in bytes: the gateway's constants as well.
GUEST_MAC = bytes.fromhex("525400534c50")
MTU = 65520
# Destination, source and type of a frame. A frame without them has no meaning, and an empty packet
# would be the end of the file for the peer.
ETHERNET_HEADER = 14
MAX_FRAME = ETHERNET_HEADER + MTU

# struct virtio_net_config (5.1.4): mac, status, max_virtqueue_pairs, mtu
_CONFIG = Struct("<6sHHH")
# struct virtio_net_hdr_v1 (5.1.6): flags, gso_type, hdr_len, gso_size, csum_start, csum_offset,
# num_buffers
_HEADER = Struct("<BBHHHHH")
_NUM_BUFFERS = Struct("<H").pack_into
_NUM_BUFFERS_OFFSET = 10
_DATA_VALID = 2  # a flag: the checksum is right, whatever the frame says

# As numbers: to compare with members of an enum would cost more.
_RECEIVE, _TRANSMIT = int(Queue.RECEIVE), int(Queue.TRANSMIT)
_HEADER_SIZE = _HEADER.size


class VirtioNet(VirtioMmio):
    """Virtio network device; one call ends before the next begins.

    ``dropped`` counts frames of either side that are too long or too short, that the guest has no
    room for, or that have no reader any more.
    """

    DEVICE_ID = 1
    FEATURES = (
        VERSION_1
        | RingFeature.EVENT_IDX
        | RingFeature.INDIRECT_DESC
        | NetFeature.CSUM
        | NetFeature.GUEST_CSUM
        | NetFeature.MTU
        | NetFeature.MAC
        | NetFeature.MRG_RXBUF
    )
    # Without MRG_RXBUF, each buffer would have to take the longest frame. Without GUEST_CSUM, the
    # driver would check checksums that the gateway has not computed.
    REQUIRED = VERSION_1 | NetFeature.MRG_RXBUF | NetFeature.GUEST_CSUM
    QUEUE_SIZES = (256, 256)
    CONFIGURATION = _CONFIG.pack(GUEST_MAC, 0, 0, MTU)

    def __init__(self, memory: Memory, trigger: Trigger, descriptor: int) -> None:
        """Use the socket ``descriptor``, which belongs to the caller."""
        super().__init__(memory, trigger)
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.dropped = 0
        # The header, a frame, and one byte more, by which a longer frame is noticed.
        packet = bytearray(_HEADER_SIZE + MAX_FRAME + 1)
        _HEADER.pack_into(packet, 0, _DATA_VALID, 0, 0, 0, 0, 0, 0)
        self._packet = memoryview(packet)
        self._frame = [self._packet[_HEADER_SIZE:]]
        # Length of the packet that waits for buffers of the guest, in bytes; 0 for none.
        self._waiting = 0
        self._blocked = False

    def reset(self) -> None:
        """Reset the device, and drop a frame that waits; see :meth:`VirtioMmio.reset`."""
        super().reset()
        self._waiting = 0
        self._blocked = False

    def ready(self, *, readable: bool) -> None:
        """Continue after an edge of the socket, which is ``readable``, or writable, or both."""
        if not self.running:
            return
        try:
            more = readable and self._fill()
            if self._blocked:
                self._transmit()
        except (DriverError, GuestAddressError) as error:
            self.fail(str(error))
            return
        self.notify_driver(*self.queues)
        if more:
            self.postpone(_RECEIVE)

    def serve(self, queue: int) -> None:
        """Serve a queue; see :meth:`VirtioMmio.serve`."""
        if queue == _TRANSMIT:
            self._transmit()
        elif queue == _RECEIVE:
            more = self._fill()
            self.notify_driver(self.queues[_RECEIVE])
            if more:
                self.postpone(_RECEIVE)

    def save_state(self) -> MmioState:
        """Return a copy of the state, without a frame that waits."""
        return self.save_transport()

    def restore(self, state: MmioState) -> None:
        """Restore ``state``, after the guest memory; call :meth:`ready` next.

        Raises:
            DriverError: the state is of another machine.
            GuestAddressError: the state is of another machine.
        """
        self.restore_transport(state)
        self._blocked = True  # the guest may have frames to send, or wait for their buffers

    def _transmit(self) -> None:
        """Send until queue or socket is exhausted, or for as much as one call may do."""
        queue = self.queues[_TRANSMIT]
        self._blocked = False
        dropped = self.dropped
        done = self._send(queue)
        if self.dropped != dropped:
            self.notify_driver(queue)  # no edge of the socket follows from such a frame
        else:
            queue.publish()
        if not done:
            self.postpone(_TRANSMIT)

    def _send(self, queue: Virtqueue) -> bool:
        """Send frames; return False after too much for one call."""
        writev, descriptor = os.writev, self.descriptor
        batch = queue.size >> 2 or 1
        budget = BUDGET
        while budget > 0:
            chain = queue.peek(False)
            if chain is None:
                if queue.await_more():
                    continue
                return True
            buffers = len(chain)
            _strip_header(chain)
            size = sum(map(len, chain))
            budget -= size + BUFFER_COST * buffers
            if ETHERNET_HEADER <= size <= MAX_FRAME:
                try:
                    writev(descriptor, chain)
                except BlockingIOError:
                    self._blocked = True
                    return True
                except OSError:  # the peer has ended, or its socket cannot hold so much
                    self.dropped += 1
            else:
                self.dropped += 1
            if queue.push(0) >= batch:
                self.notify_driver(queue)
        return False

    def _fill(self) -> bool:
        """Give the guest frames until socket or buffers are exhausted; publish nothing.

        Return True after too much for one call.
        """
        queue = self.queues[_RECEIVE]
        budget = BUDGET
        while budget > 0:
            if not self._waiting:
                try:
                    size = os.readv(self.descriptor, self._frame)
                except OSError:  # no frame; or a peer that has ended, perhaps with frames unread
                    return False
                if not size:
                    return False
                budget -= size + BUFFER_COST
                if not ETHERNET_HEADER <= size <= MAX_FRAME:
                    self.dropped += 1
                    continue
                self._waiting = _HEADER_SIZE + size
            used = self._place(queue, self._waiting)
            if not used:
                return False
            budget -= BUFFER_COST * used
            self._waiting = 0
        return True

    def _place(self, queue: Virtqueue, size: int) -> int:
        """Copy the packet of ``size`` bytes to the guest; return the number of buffers tried.

        Return 0 while the guest has too few chains for it. A packet that does not fit into as many
        chains as the queue can have is dropped.
        """
        packet = self._packet[:size]
        buffers: list[memoryview] = []
        number = room = 0
        while room < size:
            if number == queue.size:
                queue.rewind(number)
                self.dropped += 1
                return len(buffers)
            chain = queue.peek(True)
            if chain is None:
                if queue.await_more():
                    continue
                queue.rewind(number)
                return 0
            length = sum(map(len, chain))
            queue.push(min(length, size - room))
            buffers += chain
            room += length
            number += 1
        _NUM_BUFFERS(packet, _NUM_BUFFERS_OFFSET, number)
        scatter(packet, buffers)
        return len(buffers)


def _strip_header(chain: list[memoryview]) -> None:
    """Remove the header from the start of ``chain``, in which it may be cut at any place (2.7.4).

    Raises:
        DriverError: the chain is shorter than its header.
    """
    rest = _HEADER_SIZE
    while rest:
        if not chain:
            raise DriverError("a chain shorter than the header of a frame")
        first = chain[0]
        if len(first) > rest:
            chain[0] = first[rest:]
            return
        rest -= len(first)
        del chain[0]
