"""Guests without an operating system for aarch64, with the methods of ``support.machine_code``.

They are at EL1 without translation, as Slipway starts a kernel: each of their accesses is that of a
device, and has to be aligned. A port is an address: that of a register in memory, or one below all
devices.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from slipway.vmm.arch.aarch64 import layout
from support.assembler import Assembler

if TYPE_CHECKING:
    from typing import Self

    from slipway.vmm.memory import GuestMemory

RAM = layout.RAM
# Linux's header for the file of a kernel (Documentation/arm64/booting.rst, section 4), and the code
# behind it.
HEADER_SIZE = 64
CODE = layout.KERNEL_BASE + HEADER_SIZE
KERNEL_SIZE = 0x1000  # of build_kernel's, as far as its header says
KERNEL_END = layout.KERNEL_BASE + KERNEL_SIZE
DATA = RAM + 0x30_0000  # a guest's own, zeros when it starts
VECTORS = RAM + 0x10_0000
OTHERS_CODE = RAM + 0x38_0000  # where the other vCPUs start
OTHERS_DATA = RAM + 0x39_0000
NOWHERE = 0x0D80_0000  # neither memory nor a device
UNUSED_PORT = 0x80
DONE = 0xF4  # a write to this address ends a BareMetal
COM1, COM2 = layout.SERIAL, layout.SERIAL + layout.SERIAL_DISTANCE
# All of the memory is in one piece.
MEMORY_HOLE, VIRTIO = 1 << 40, layout.VIRTIO
CONSOLE_ARGUMENT = "console=ttyS0 "
# Verbs by which a VMM names accesses to ports.
PORT_WRITTEN, PORT_READ = "write", "read"
# What is said of a guest's crash, and the name of the register with its place.
CRASH, PLACE = "KVM cannot run an instruction of the guest's", "pc"

_STORE = {1: 0x3900_0000, 2: 0x7900_0000, 4: 0xB900_0000, 8: 0xF900_0000}
_LOAD = {1: 0x3940_0000, 2: 0x7940_0000, 4: 0xB940_0000, 8: 0xF940_0000}
_B, _B_NE, _CBZ, _CBNZ = 0x1400_0000, 0x5400_0001, 0xB400_0000, 0xB500_0000
_NOP, _WFI, _ISB, _HVC, _ERET = 0xD503_201F, 0xD503_207F, 0xD503_3FDF, 0xD400_0002, 0xD69F_03E0
_MASK_INTERRUPTS, _UNMASK_INTERRUPTS = 0xD503_42DF, 0xD503_42FF  # msr daifset, #2; msr daifclr, #2
_RESET, _CPU_ON = 0x8400_0009, 0xC400_0003  # PSCI (Arm DEN 0022), section 5.1
# Registers of the GIC (Arm IHI 0069): distributor, and the system registers of the CPU interface as
# op0, op1, CRn, CRm, op2.
_CTLR, _GROUP, _ENABLE, _CONFIG = 0x0, 0x80, 0x100, 0xC00
_ENABLE_GROUP_1, _EDGE = 0x12, 0xAAAA_AAAA
_VBAR, _PMR = (3, 0, 12, 0, 0), (3, 0, 4, 6, 0)
_IAR1, _EOIR1, _IGRPEN1 = (3, 0, 12, 12, 0), (3, 0, 12, 12, 1), (3, 0, 12, 12, 7)
# Entry of an interrupt at EL1 with its own stack pointer.
_IRQ_VECTOR = 0x280

_IMAGE_HEADER = struct.Struct("<II3Q24x4sI")
_LITTLE_ENDIAN_4K_ANYWHERE = 0xA


class ArmCode(Assembler):
    """Machine code for the address ``origin``; each method appends instructions.

    ``x0`` has the value of an access, ``x1`` the address; ``x2`` and ``x3`` are scratch, ``x19``
    counts repetitions.
    """

    def __init__(self, origin: int = CODE) -> None:
        super().__init__(origin)

    def words(self, *words: int) -> Self:
        """Append instructions."""
        return self.raw(struct.pack(f"<{len(words)}I", *words))

    def link(self, code: bytearray, at: int, target: int) -> None:
        (word,) = struct.unpack_from("<I", code, at)
        distance = (target - at) // 4
        word |= distance & 0x3FF_FFFF if word == _B else (distance & 0x7_FFFF) << 5
        struct.pack_into("<I", code, at, word)

    def _jump(self, word: int, name: str) -> Self:
        return self.jump_by(struct.pack("<I", word), 0, name)

    def jump(self, name: str) -> Self:
        """Go on at a label."""
        return self._jump(_B, name)

    def jump_unless_zero(self, name: str, register: int = 0) -> Self:
        """Go on at a label unless ``x0`` is zero."""
        return self._jump(_CBNZ | register, name)

    def set(self, register: int, value: int) -> Self:
        """Load a constant to the register of this number."""
        self.words(0xD280_0000 | (value & 0xFFFF) << 5 | register)
        for half in (1, 2, 3):
            if part := value >> 16 * half & 0xFFFF:
                self.words(0xF280_0000 | half << 21 | part << 5 | register)
        return self

    def out(self, port: int, value: int | None = None, size: int = 1) -> Self:
        """Write ``value``, or what is in ``x0``, to a port."""
        return self.store(port, value, size)

    def read_port(self, port: int, size: int = 1) -> Self:
        """Read a port to ``x0``."""
        return self.load(port, size)

    def store(self, address: int, value: int | None = None, size: int = 8) -> Self:
        """Write ``value``, or what is in ``x0``, to an address."""
        if value is not None:
            self.set(0, value)
        return self.set(1, address).words(_STORE[size] | 1 << 5)

    def load(self, address: int, size: int = 8) -> Self:
        """Read from an address to ``x0``."""
        return self.set(1, address).words(_LOAD[size] | 1 << 5)

    def out_string(self, port: int, address: int, count: int) -> Self:
        """Write ``count`` bytes from memory to a port."""
        return self.set(2, address)._out_bytes(port, count)

    def _out_bytes(self, port: int, count: int) -> Self:
        """Write ``count`` bytes from where ``x2`` points to a port."""
        name = f"string {len(self._code)}"
        self.set(1, port).set(3, count).label(name)
        # ldrb w0, [x2], #1; strb w0, [x1]; sub x3, x3, #1
        self.words(0x3840_1440, 0x3900_0020, 0xD100_0463)
        return self.jump_unless_zero(name, 3)

    def out_command_line(self, port: int) -> Self:
        """Write the begin of the device tree, with the command line, to a port, first of all."""
        return self.words(0xAA00_03E2)._out_bytes(port, 512)  # mov x2, x0

    def out_initramfs(self, port: int, count: int, memory_bytes: int) -> Self:
        """Write the first bytes of an initramfs of up to one page to a port, first of all."""
        return self.out_string(port, RAM + memory_bytes - layout.PAGE, count)

    def text(self, port: int, data: bytes) -> Self:
        """Write ``data`` to a port, byte by byte, ended by a read of the scratch register.

        That read is an exit, by which what is coalesced comes out.
        """
        self.set(1, port)
        for value in data:
            self.words(0x5280_0000 | value << 5, _STORE[1] | 1 << 5)
        return self.words(_LOAD[1] | 7 << 10 | 1 << 5)

    def repeat(self, count: int, name: str) -> Self:
        """Begin a loop with the counter ``x19``; :meth:`until_zero` ends it."""
        return self.set(19, count).label(name)

    def until_zero(self, name: str) -> Self:
        """End what :meth:`repeat` began."""
        return self.words(0xD100_0673).jump_unless_zero(name, 19)  # sub x19, x19, #1

    def out_counter(self, port: int) -> Self:
        """Write the lowest byte of the loop's counter to a port."""
        return self.set(1, port).words(0x3900_0033)  # strb w19, [x1]

    def exchange_for_ever(self, device: int, total: int = DATA) -> Self:
        """Write 1, 2, 3, ... to a device, and add the numbers that it reads to a total."""
        self.set(1, device).set(2, total).set(19, 0).label("exchange")
        # add w19, w19, #1; str w19, [x1]; ldr w0, [x1]; ldr x3, [x2]; add x3, x3, x0; str x3, [x2]
        self.words(0x1100_0673, 0xB900_0033, 0xB940_0020, 0xF940_0043, 0x8B00_0063, 0xF900_0043)
        return self.jump("exchange")

    def count(self, address: int = DATA, size: int = 8) -> Self:
        """Add one to the number at an address."""
        self.load(address, size).words(0x9100_0400)  # add x0, x0, #1
        return self.store(address, size=size)

    def touch_each(self, address: int, count: int) -> Self:
        """Write a byte to each of ``count`` addresses."""
        # strb w0, [x1]; add x1, x1, #1: KVM is not told of the register that a store advances.
        self.set(1, address).repeat(count, "touch").words(_STORE[1] | 1 << 5, 0x9100_0421)
        return self.until_zero("touch")

    def jump_if_equal(self, address: int, other: int, name: str, size: int = 8) -> Self:
        """Go on at a label if the numbers at two addresses are equal."""
        self.load(address, size).words(0xAA00_03E2).load(other, size)  # mov x2, x0
        return self.words(0xCB02_0000)._jump(_CBZ, name)  # sub x0, x0, x2

    def spin(self, address: int = DATA) -> Self:
        """Count for ever, without an exit."""
        return self.label("spin").count(address).jump("spin")

    def halt(self) -> Self:
        """Stand still for good."""
        return self.label("halt").words(_WFI).jump("halt")

    def mask(self) -> Self:
        """Let no interrupt be served."""
        return self.words(_MASK_INTERRUPTS)

    def wait_for_interrupt(self) -> Self:
        """Wait for an interrupt, which is served before the next instruction."""
        # A masked interrupt wakes as well, and cannot be served too early.
        return self.words(_MASK_INTERRUPTS, _WFI, _UNMASK_INTERRUPTS, _ISB, _MASK_INTERRUPTS)

    def unmask(self) -> Self:
        """Let an interrupt be served that has come, and go on."""
        return self.words(_UNMASK_INTERRUPTS, _ISB, _NOP)

    def wait_for(self, value: int, address: int = DATA) -> Self:
        """Loop until the byte at an address is ``value``."""
        name = f"wait {len(self._code)}"
        self.label(name).load(address, 1).words(0x7100_001F | value << 10)  # cmp w0, #value
        return self._jump(_B_NE, name)

    def wait_for_byte(self, port: int) -> Self:
        """Loop until a serial port has a byte, and room for one."""
        name = f"wait {len(self._code)}"
        self.label(name).load(port + 5, 1)
        # READY and THRE: mov w2, #0x21; bic w0, w2, w0
        self.words(0x5280_0422, 0x0A20_0040)
        return self.jump_unless_zero(name)

    def keep(self) -> Self:
        """Remember what was read."""
        return self.words(0xAA00_03F4)  # mov x20, x0

    def jump_unless_kept_zero(self, name: str) -> Self:
        """Go on at a label unless what :meth:`keep` remembered is zero."""
        return self.jump_unless_zero(name, 20)

    def wake(self, number: int) -> Self:
        """Have another vCPU start at ``OTHERS_CODE``."""
        return self.set(0, _CPU_ON).set(1, number).set(2, OTHERS_CODE).set(3, 0).words(_HVC)

    def interrupts(self, line: int) -> Self:
        """Have ``handler`` called for edges on a line, once interrupts are unmasked."""
        interrupt = layout.FIRST_INTID + line
        word, bit = interrupt // 32 * 4, 1 << interrupt % 32
        self.set(0, VECTORS)._write_system(_VBAR)
        self.store(layout.DISTRIBUTOR + _CTLR, _ENABLE_GROUP_1, 4)
        self.store(layout.DISTRIBUTOR + _GROUP + word, 0xFFFF_FFFF, 4)
        self.store(layout.DISTRIBUTOR + _CONFIG + interrupt // 16 * 4, _EDGE, 4)
        self.store(layout.DISTRIBUTOR + _ENABLE + word, bit, 4)
        self.set(0, 0xFF)._write_system(_PMR)
        return self.set(0, 1)._write_system(_IGRPEN1).words(_ISB)

    def handler(self) -> Self:
        """Count interrupts at ``DATA``."""
        # x0 and x1 are also those of the code that is interrupted: mov x4, x0; mov x5, x1
        self.label("handler").words(0xAA00_03E4, 0xAA01_03E5).count(DATA)
        self.words(0xD538_0000 | _encode(_IAR1)).words(0xD518_0000 | _encode(_EOIR1))
        return self.words(0xAA04_03E0, 0xAA05_03E1, _ERET)

    def _write_system(self, register: tuple[int, int, int, int, int]) -> Self:
        """Write ``x0`` to a system register."""
        return self.words(0xD510_0000 | _encode(register))

    def end_test(self) -> Self:
        """Tell :class:`BareMetal` that the test is over."""
        return self.out(DONE, 0).halt()

    def reset(self) -> Self:
        """End the machine in the proper way."""
        return self.set(0, _RESET).words(_HVC).halt()

    def access_by_unknown_instruction(self) -> Self:
        """Read from a device, at the label ``unknown``, by an instruction that KVM cannot do."""
        return self.set(0, NOWHERE).label("unknown").words(0xA940_4007)  # ldp x7, x16, [x0]

    def crash(self) -> Self:
        """End the machine against its will: Linux on Arm knows no triple fault."""
        return self.access_by_unknown_instruction()


def write_tables(memory: GuestMemory, code: Assembler) -> None:
    """Write the jump to a handler of interrupts."""
    if code.has("handler"):
        place = VECTORS + _IRQ_VECTOR
        distance = (code.address("handler") - place) // 4
        memory.write(place, struct.pack("<I", _B | distance & 0x3FF_FFFF))


def build_others_code(port: int, first: int) -> bytes:
    """Return code for ``OTHERS_CODE``, by which each vCPU writes the next number to a port.

    It reads the port behind the next six after that, which brings out what is coalesced.
    """
    code = ArmCode(OTHERS_CODE).load(OTHERS_DATA, 1).words(0x1100_0000 | first << 10)  # add w0, w0
    code.out(port).read_port(port + 7)
    code.load(OTHERS_DATA, 1).words(0x1100_0400).store(OTHERS_DATA, size=1)  # add w0, w0, #1
    return code.halt().build()


def build_others_crash() -> bytes:
    """Return code for ``OTHERS_CODE`` that crashes."""
    return ArmCode(OTHERS_CODE).crash().build()


def build_kernel(code: ArmCode) -> bytes:
    """Return the Image of a kernel that is ``code``."""
    jump = _B | HEADER_SIZE // 4
    data = code.build()
    size = max(len(data) + HEADER_SIZE, KERNEL_SIZE)
    header = _IMAGE_HEADER.pack(jump, 0, 0, size, _LITTLE_ENDIAN_4K_ANYWHERE, b"ARM\x64", 0)
    return header + data


def _encode(register: tuple[int, int, int, int, int]) -> int:
    """Return the fields of a system register in MSR and MRS."""
    op0, op1, crn, crm, op2 = register
    return (op0 - 2) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
