"""Guests without an operating system for x86-64: an assembler of a few instructions.

They are in 64-bit mode from their first instruction on, as Slipway starts a kernel, with the first
4 GiB mapped onto themselves. What they have to say they write to ports and to memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from slipway.vmm.arch.x86_64 import boot, layout
from support.assembler import Assembler

if TYPE_CHECKING:
    from typing import Self

    from slipway.vmm.memory import GuestMemory

CODE = 0x10_0000  # where a kernel is at the earliest
KERNEL_SIZE = 0x1000  # of build_kernel's, as far as its header says
KERNEL_END = CODE + KERNEL_SIZE
DATA = 0x20_0000  # a guest's own, zeros when it starts
STACK = 0x30_0000  # grows down
IDT, IDT_POINTER, IDT_ENTRIES = 0x30_0000, 0x30_1000, 256
VECTOR = 0x40
OTHERS_CODE = 0x8000  # where the other vCPUs start, in 16-bit mode
NOWHERE = 0xD800_0000  # neither memory nor a device
DONE = 0xF4  # a write to this port ends a BareMetal
UNUSED_PORT = 0x80
COM1, COM2, KEYBOARD_COMMAND = layout.COM1, layout.COM2, 0x64
RAM, MEMORY_HOLE, VIRTIO = 0, layout.HOLE, layout.VIRTIO
OTHERS_DATA = 0x4000
CONSOLE_ARGUMENT = "console=ttyS0 "
# Verbs by which a VMM names accesses to ports.
PORT_WRITTEN, PORT_READ = "out", "in"
# What is said of a guest's crash, and the name of the register with its place.
CRASH, PLACE = "the guest crashed: a triple fault", "rip"

_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_OUT = {1: b"\xee", 2: b"\x66\xef", 4: b"\xef"}
_IN = {1: b"\xec", 2: b"\x66\xed", 4: b"\xed"}
_OUTS = {1: b"\xf3\x6e", 2: b"\x66\xf3\x6f", 4: b"\xf3\x6f"}
_INS = {1: b"\xf3\x6c", 2: b"\x66\xf3\x6d", 4: b"\xf3\x6d"}
_STORE = {1: b"\x88\x07", 2: b"\x66\x89\x07", 4: b"\x89\x07", 8: b"\x48\x89\x07"}
_LOAD = {1: b"\x8a\x07", 2: b"\x66\x8b\x07", 4: b"\x8b\x07", 8: b"\x48\x8b\x07"}
_INCREMENT = {1: b"\xfe\x07", 2: b"\x66\xff\x07", 4: b"\xff\x07", 8: b"\x48\xff\x07"}
_SPURIOUS, _END_OF_INTERRUPT, _ICR = 0xF0, 0xB0, 0x300  # registers of the local APIC
_INIT, _START = 0x4500, 0x4600
_GATE = struct.Struct("<HHBBHII")
_INTERRUPT_GATE = 0x8E

# After STI the next instruction, here HLT, runs before any interrupt. The lab's emulated processor
# forgets that when its own host interrupts it in between, and the guest would then sleep for good:
# an interrupt that finds HLT ahead of it steps over it.
#
# push rax; mov rax, [rsp+8]; cmp byte [rax], 0xf4; jne 1f; inc qword [rsp+8]; 1: pop rax
_STEP_OVER_HLT = bytes.fromhex("50 488b442408 8038f4 7505 48ff442408 58")

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_SEGMENT_OFFSET = 0x1000


class Code(Assembler):
    """Machine code for the address ``origin``; each method appends instructions.

    ``rax``, ``rcx``, ``rdx``, ``rsi`` and ``rdi`` are scratch; ``rbx`` counts repetitions and has a
    number to compare.
    """

    def __init__(self, origin: int = CODE) -> None:
        super().__init__(origin)

    def link(self, code: bytearray, at: int, target: int) -> None:
        struct.pack_into("<i", code, at, target - at - 4)

    def _jump(self, opcode: bytes, name: str) -> Self:
        return self.jump_by(opcode + bytes(4), len(opcode), name)

    def jump(self, name: str) -> Self:
        """Go on at a label."""
        return self._jump(b"\xe9", name)

    def jump_unless_zero(self, name: str) -> Self:
        """Go on at a label unless the last result was zero."""
        return self._jump(b"\x0f\x85", name)

    def set(self, register: str, value: int) -> Self:
        """Load a constant."""
        number = _REGISTERS.index(register)
        if value < 1 << 32:
            return self.raw(bytes((0xB8 + number,)) + struct.pack("<I", value))
        return self.raw(bytes((0x48, 0xB8 + number)) + struct.pack("<Q", value))

    def out(self, port: int, value: int | None = None, size: int = 1) -> Self:
        """Write ``value``, or what is in ``rax``, to a port."""
        if value is not None:
            self.set("rax", value)
        return self.set("rdx", port).raw(_OUT[size])

    def read_port(self, port: int, size: int = 1) -> Self:
        """Read a port to ``rax``."""
        return self.set("rax", 0).set("rdx", port).raw(_IN[size])

    def out_string(self, port: int, address: int, count: int, size: int = 1) -> Self:
        """``rep outs``: ``count`` units from memory to a port."""
        return self.set("rdx", port).set("rsi", address).set("rcx", count).raw(_OUTS[size])

    def in_string(self, port: int, address: int, count: int, size: int = 1) -> Self:
        """``rep ins``: ``count`` units from a port to memory."""
        return self.set("rdx", port).set("rdi", address).set("rcx", count).raw(_INS[size])

    def store(self, address: int, value: int | None = None, size: int = 8) -> Self:
        """Write ``value``, or what is in ``rax``, to an address."""
        if value is not None:
            self.set("rax", value)
        return self.set("rdi", address).raw(_STORE[size])

    def load(self, address: int, size: int = 8) -> Self:
        """Read from an address to ``rax``."""
        return self.set("rax", 0).set("rdi", address).raw(_LOAD[size])

    def out_command_line(self, port: int) -> Self:
        """Write the kernel's command line to a port, first of all."""
        # mov ebx, [rsi + cmd_line_ptr]; mov ecx, [rsi + cmdline_size]; mov esi, ebx
        self.raw(bytes.fromhex("8b9e28020000 8b8e38020000 89de"))
        return self.set("rdx", port).raw(_OUTS[1])

    def out_initramfs(self, port: int, count: int, memory_bytes: int) -> Self:
        """Write the first bytes of the initramfs to a port, first of all."""
        # mov ebx, [rsi + ramdisk_image]; mov esi, ebx
        self.raw(bytes.fromhex("8b9e18020000 89de"))
        return self.set("rdx", port).set("rcx", count).raw(_OUTS[1])

    def text(self, port: int, data: bytes) -> Self:
        """Write ``data`` to a port, byte by byte, ended by a read of the scratch register.

        That read is an exit, by which what is coalesced comes out.
        """
        self.set("rdx", port)
        for value in data:
            self.raw(bytes((0xB0, value, 0xEE)))
        return self.set("rdx", port + 7).raw(b"\xec")

    def repeat(self, count: int, name: str) -> Self:
        """Begin a loop with the counter ``rbx``; :meth:`until_zero` ends it."""
        return self.set("rbx", count).label(name)

    def until_zero(self, name: str) -> Self:
        """End what :meth:`repeat` began."""
        return self.raw(b"\xff\xcb").jump_unless_zero(name)

    def out_counter(self, port: int) -> Self:
        """Write the lowest byte of the loop's counter to a port."""
        return self.set("rdx", port).raw(b"\x88\xd8\xee")  # mov al, bl; out dx, al

    def exchange_for_ever(self, device: int, total: int = DATA) -> Self:
        """Write 1, 2, 3, ... to a device, and add the numbers that it reads to a total."""
        self.set("rdi", device).set("rsi", total).set("rbx", 0).label("exchange")
        # inc ebx; mov [rdi], ebx; mov eax, [rdi]; add [rsi], rax
        return self.raw(bytes.fromhex("ffc3 891f 8b07 480106")).jump("exchange")

    def count(self, address: int = DATA, size: int = 8) -> Self:
        """Add one to the number at an address."""
        return self.set("rdi", address).raw(_INCREMENT[size])

    def touch_each(self, address: int, count: int) -> Self:
        """Write a byte to each of ``count`` addresses."""
        self.set("rdi", address).repeat(count, "touch")
        return self.raw(b"\x88\x07\x48\xff\xc7").until_zero("touch")  # mov [rdi], al; inc rdi

    def jump_if_equal(self, address: int, other: int, name: str, size: int = 8) -> Self:
        """Go on at a label if the numbers at two addresses are equal."""
        self.load(address, size).raw(b"\x48\x89\xc3").load(other, size)  # mov rbx, rax
        return self.raw(b"\x48\x39\xd8")._jump(b"\x0f\x84", name)  # cmp rax, rbx

    def spin(self, address: int = DATA) -> Self:
        """Count for ever, without an exit."""
        return self.label("spin").count(address).jump("spin")

    def halt(self) -> Self:
        """Stand still for good."""
        return self.label("halt").raw(b"\xfa\xf4").jump("halt")

    def mask(self) -> Self:
        """Let no interrupt be served."""
        return self.raw(b"\xfa")  # cli

    def wait_for_interrupt(self) -> Self:
        """Wait for an interrupt, which is served before the next instruction."""
        return self.raw(b"\xfb\xf4\xfa")  # sti; hlt; cli

    def unmask(self) -> Self:
        """Let an interrupt be served that has come, and go on."""
        return self.raw(b"\xfb\x90\x90")  # sti

    def wait_for_byte(self, port: int) -> Self:
        """Loop until a serial port has a byte, and room for one."""
        name = f"wait {len(self._code)}"
        # and al, READY | THRE; cmp al, READY | THRE
        self.label(name).read_port(port + 5).raw(b"\x24\x21\x3c\x21")
        return self.jump_unless_zero(name)

    def keep(self) -> Self:
        """Remember what was read."""
        return self.raw(b"\x88\xc3")  # mov bl, al

    def jump_unless_kept_zero(self, name: str) -> Self:
        """Go on at a label unless what :meth:`keep` remembered is zero."""
        return self.raw(b"\x84\xdb").jump_unless_zero(name)  # test bl, bl

    def wait_for(self, value: int, address: int = DATA) -> Self:
        """Loop until the byte at an address is ``value``."""
        name = f"wait {len(self._code)}"
        self.label(name).load(address, 1).raw(bytes((0x3C, value)))
        return self.jump_unless_zero(name)

    def wake(self, number: int) -> Self:
        """Have another vCPU start at ``OTHERS_CODE``."""
        for command in (_INIT, _START | OTHERS_CODE >> 12):
            self.store(layout.LOCAL_APIC + _ICR + 0x10, number << 24, 4)
            self.store(layout.LOCAL_APIC + _ICR, command, 4)
        return self

    def interrupts(self, line: int) -> Self:
        """Have ``handler`` called for edges on a line, once interrupts are on (``sti``)."""
        apic, io_apic = layout.LOCAL_APIC, layout.IO_APIC
        self.set("rsp", STACK).set("rdi", IDT_POINTER).raw(b"\x0f\x01\x1f")  # lidt [rdi]
        self.out(0x21, 0xFF).out(0xA1, 0xFF)  # not by the old controllers, which have the line too
        self.store(apic + _SPURIOUS, 0x1FF, 4)
        for register, value in ((0x11, 0), (0x10, VECTOR)):
            self.store(io_apic, register + 2 * line, 4).store(io_apic + 0x10, value, 4)
        return self

    def handler(self) -> Self:
        """Count interrupts at ``DATA``."""
        self.label("handler").count(DATA).raw(_STEP_OVER_HLT)
        return self.store(layout.LOCAL_APIC + _END_OF_INTERRUPT, 0, 4).raw(b"\x48\xcf")

    def end_test(self) -> Self:
        """Tell :class:`BareMetal` that the test is over."""
        return self.out(DONE, 0).halt()

    def reset(self) -> Self:
        """End the machine in the proper way."""
        return self.out(KEYBOARD_COMMAND, 0xFE).halt()

    def access_by_unknown_instruction(self) -> Self:
        """Read from a device, at the label ``unknown``, by an instruction that KVM cannot do."""
        # fld tbyte [rdi], and two bytes that are never run
        return self.set("rdi", NOWHERE).label("unknown").raw(b"\xdb\x2f\x90\x90")

    def crash(self) -> Self:
        """Triple fault: there is no handler for an undefined instruction, nor for that."""
        return self.raw(b"\x0f\x0b")


def write_tables(memory: GuestMemory, code: Assembler) -> None:
    """Write the tables for 64-bit mode, and for a handler of interrupts."""
    boot.write_tables(memory)
    if code.has("handler"):
        entry = gate(code.address("handler"))
        memory.write(IDT + VECTOR * len(entry), entry)
        memory.write(IDT_POINTER, struct.pack("<HQ", IDT_ENTRIES * len(entry) - 1, IDT))


def build_kernel(code: Code) -> bytes:
    """Return the file of a kernel that is ``code``."""
    return vmlinux(code)


def build_others_code(port: int, first: int) -> bytes:
    """Return code for ``OTHERS_CODE``, by which each vCPU writes the next number to a port.

    It reads the port behind the next six after that, which brings out what is coalesced.
    """
    # mov al, [0x4000]; add al, first; mov dx, port; out dx, al; mov dx, port + 7; in al, dx;
    # inc byte [0x4000]; cli; hlt
    parts = b"\xa0\x00\x40\x04", bytes((first,)), struct.pack("<BHB", 0xBA, port, 0xEE)
    return b"".join(parts) + struct.pack("<BHB", 0xBA, port + 7, 0xEC) + b"\xfe\x06\x00\x40\xfa\xf4"


def build_others_crash() -> bytes:
    """Return code for ``OTHERS_CODE`` that crashes."""
    # lidt [0x4000], where there are zeros; ud2. That is a triple fault, but to a KVM that
    # interprets, which goes on to where it cannot.
    return bytes.fromhex("0f011e0040 0f0b")


def gate(handler: int) -> bytes:
    """An entry of a 64-bit IDT."""
    low, middle, high = handler & 0xFFFF, handler >> 16 & 0xFFFF, handler >> 32
    return _GATE.pack(low, boot.BOOT_CS, 0, _INTERRUPT_GATE, middle, high, 0)


def vmlinux(code: Code, *, address: int = CODE, memory_size: int = KERNEL_SIZE) -> bytes:
    """An ELF file as a kernel is one, with ``code`` as its only segment."""
    data = code.build()
    ident = b"\x7fELF\2\1\1"
    header = _ELF_HEADER.pack(ident, 2, 62, 1, address, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    sizes = len(data), max(len(data), memory_size)
    header += _PROGRAM_HEADER.pack(
        1, 7, _SEGMENT_OFFSET, _KERNEL_MAP | address & 0x7FFF_FFFF, address, *sizes, 0x1000
    )
    return header.ljust(_SEGMENT_OFFSET, b"\0") + data
