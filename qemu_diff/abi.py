"""The binary layouts that our C and our Python share.

``guest_images/include/step_abi.h`` and ``truth_abi.h`` are the C side; ``tests/unit/test_abi.py``
compiles them and compares every member's offset and size. All integers are little-endian.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

STEP_ABI_VERSION = 3
TRUTH_ABI_VERSION = 2

JOB_MAGIC = int.from_bytes(b"QDIFFJOB", "little")
SHARED_MAGIC = int.from_bytes(b"QDIFFSHM", "little")
TRUTH_MAGIC = int.from_bytes(b"QDIFFTRU", "little")

SHARED_HEADER_BYTES = 4096
TRUTH_HEADER_BYTES = 4096

JOB_HEADER = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("crc32", "<u4"),
        ("operations", "<u4"),
        ("placements", "<u4"),
        ("load_address", "<u8"),
        ("memory_bytes", "<u8"),
        ("stall_ns", "<u8"),
        ("counters", "<u8"),
        ("handler_begin", "<u8"),
        ("handler_end", "<u8"),
        ("cpu", "<u4"),
        ("reserved", "<u4"),
    ]
)

OPERATION = np.dtype([("code", "<u2"), ("kind", "<u2"), ("n", "<u4"), ("a", "<u8"), ("b", "<u8")])

PLACEMENT = np.dtype([("delay", "<u4"), ("kind", "<u4")])

GUEST_COUNTERS = np.dtype(
    [
        ("handled", "<u8", (10,)),
        ("sgis_sent", "<u8"),
        ("sgis_handled", "<u8"),
        ("spurious", "<u8"),
        ("nested", "<u8"),
    ]
)
"""What L2's handler counts (payloads/interrupts.inc); a GUEST record holds the last four."""

SHARED_HEADER = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("record_bytes", "<u4"),
        ("capacity", "<u8"),
        ("count", "<u8"),
        ("dropped", "<u8"),
        ("heartbeat", "<u8"),
        ("state", "<u4"),
        ("crc32", "<u4"),
        ("counter_hz", "<u8"),
        ("message", "S512"),
    ]
)

SHARED_SEAL = np.dtype(
    [
        ("count", "<u8"),
        ("dropped", "<u8"),
        ("heartbeat", "<u8"),
        ("counter_hz", "<u8"),
        ("state", "<u8"),
    ]
)

STEP_RECORD = np.dtype(
    [
        ("sequence", "<u4"),
        ("kind", "<u2"),
        ("operation", "<u2"),
        ("flags", "<u4"),
        ("exit_reason", "<u4"),
        ("pc", "<u8"),
        ("pstate", "<u8"),
        ("esr", "<u4"),
        ("error", "<i4"),
        ("far_", "<u8"),
        ("armed_at", "<u8"),
        ("entered_at", "<u8"),
        ("returned_at", "<u8"),
        ("delay_ns", "<u8"),
        ("branch_register", "<u8"),
        ("iteration", "<u8"),
        ("detail", "<u8", (4,)),
        ("acted_at", "<u8"),
        ("second_delay_ns", "<u4"),
        ("timer_kind", "<u4"),
    ]
)

TRUTH_HEADER = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("record_bytes", "<u4"),
        ("capacity", "<u8"),
        ("count", "<u8"),
        ("dropped", "<u8"),
        ("range_begin", "<u8"),
        ("range_end", "<u8"),
        ("sealed", "<u4"),
        ("crc32", "<u4"),
        ("api_min", "<u4"),
        ("api_current", "<u4"),
        ("reads_registers", "<u4"),
        ("reserved", "<u4"),
    ]
)

TRUTH_RECORD = np.dtype(
    [
        ("pc", "<u8"),
        ("detail", "<u4"),
        ("kind", "u1"),
        ("cpu", "u1"),
        ("size", "u1"),
        ("step_state", "u1"),
    ]
)

StepRecords = NDArray[np.void]
"""Shape (n,), dtype ``STEP_RECORD``."""

TruthRecords = NDArray[np.void]
"""Shape (n,), dtype ``TRUTH_RECORD``."""


class OperationCode(IntEnum):
    """``enum operation_code``."""

    SET_REG = 1
    GET_REG = 2
    DEBUG = 3
    KICK = 4
    STEP = 5
    RUN = 6
    TIMER_SWEEP = 7
    TIMER_TABLE = 8
    TIMER_OFF = 9
    REPEAT = 10
    ON = 11
    VCPU_INIT = 12
    WRITE = 13
    UNMAP = 14
    TIMER_SECOND = 15
    TIMER_BURST = 16
    TIMER_PERIODIC = 17
    CALL = 18
    INTERRUPTS = 19
    TIMER_TURNS = 20


class WriteKind(IntEnum):
    """``enum write_kind``: how SET_REG makes the register's new value."""

    VALUE = 0
    SET_BITS = 1
    CLEAR_BITS = 2


class ReadKind(IntEnum):
    """``enum read_kind``: whether the job knows what GET_REG reads."""

    ANY = 0
    EXPECTED = 1


class Occasion(IntEnum):
    """``enum occasion``: what a STEP operation may meet."""

    REPORT = 0
    EINTR = 1
    EXIT = 2


class DebugControl(IntFlag):
    """``kvm_guest_debug.control`` (Linux include/uapi/linux/kvm.h, arm64 asm/kvm.h)."""

    ENABLE = 1 << 0
    SINGLESTEP = 1 << 1
    USE_SW_BP = 1 << 16
    USE_HW = 1 << 17


STEPPING_CONTROL = int(DebugControl.ENABLE | DebugControl.SINGLESTEP)


class TimerKind(IntEnum):
    """``enum timer_kind``: what a timer does when it fires."""

    INTERRUPT = 0
    SIGNAL = 1
    SPI_EDGE = 2
    SPI_LEVEL = 3
    IRQFD = 4
    PPI = 5
    LPI = 6
    VTIMER = 7
    MEMSLOT = 8
    DIRTY_LOG = 9

    @property
    def into_guest(self) -> bool:
        """Whether L2's handler hears of it."""
        return TimerKind.SPI_EDGE <= self <= TimerKind.VTIMER


class SharedState(IntEnum):
    """``enum shared_state``: how far stepvmm is, and how it ended."""

    EMPTY = 0
    RUNNING = 1
    DONE = 2
    STALLED = 3
    FAILED = 4
    NO_KVM = 5
    UNEXPECTED = 6


class RecordKind(IntEnum):
    """``enum record_kind``."""

    RUN = 1
    REGISTER = 2
    SET_REGISTER = 3
    DEBUG_CONTROL = 4
    PASS = 5
    VCPU_INIT = 6
    WRITE = 7
    UNMAP = 8
    SOURCE = 9
    INTERRUPT = 10
    GUEST = 11


FROM_IPI = 1 << 32
"""In an INTERRUPT record: what an IPI's number is added to."""


class RecordFlag(IntFlag):
    """``enum record_flag``."""

    STEPPING = 1 << 0
    EINTR = 1 << 1
    TIMER_ARMED = 1 << 2
    TIMER_FIRED = 1 << 3
    UNEXPECTED = 1 << 4
    STALLED = 1 << 5
    BRANCH_REGISTER = 1 << 6
    KICKED = 1 << 7
    AT_VECTOR = 1 << 8
    PERIODIC = 1 << 9
    OTHER_CPU = 1 << 10
    UNTIMED = 1 << 11


class TruthKind(IntEnum):
    """``enum truth_kind``."""

    INSTRUCTION = 1
    EXIT = 2
    MARK = 3
    VECTOR = 4
    REDIRECT = 5
    LANDMARK = 6


class StepState(IntEnum):
    """``enum step_state``: the software step state before an instruction (DDI 0487, D2.12.3)."""

    UNKNOWN = 0
    INACTIVE = 1
    ACTIVE_NOT_PENDING = 2
    ACTIVE_PENDING = 3


class Mark(IntEnum):
    """The marks, in the order in which their addresses are given to the plugin."""

    RETURNED = 0
    JOB_BEGIN = 1
    JOB_END = 2


class VectorSlot(IntEnum):
    """Offset of an exception's vector from VBAR_EL2, modulo the AArch32 half.

    DDI 0487, D1.4.2, table D1-6: lower EL using AArch64 at 0x400, using AArch32 at 0x600.
    """

    SYNCHRONOUS = 0x400
    IRQ = 0x480
    FIQ = 0x500
    SERROR = 0x580


IRQ_SLOTS = (0x280, 0x480)
"""Offsets of an IRQ's vectors from VBAR_EL1: from EL1 with SP_EL1, from EL0 (DDI 0487, D1.4.2)."""

KVM_EXIT_DEBUG = 4
"""``kvm_run.exit_reason`` (Linux include/uapi/linux/kvm.h)."""


class ExceptionClass(IntEnum):
    """ESR_ELx.EC of the debug exceptions from a lower EL (DDI 0487, ESR_EL2)."""

    BREAKPOINT = 0x30
    SOFTWARE_STEP = 0x32
    WATCHPOINT = 0x34
    BRK = 0x3C


EC_SHIFT = 26
"""Of ESR_ELx.EC."""


PSTATE_EL1H_MASKED = 0x3C5
"""EL1h with D, A, I and F masked: how a payload starts."""


def core_register(index: int) -> int:
    """The KVM register id of a 64-bit core register.

    :param index: offset in ``struct kvm_regs`` in units of 4 bytes (KVM API, 4.68): X0 is 0,
        X1 is 2, … SP 62, PC 64, PSTATE 66.
    """
    return 0x6030_0000_0010_0000 | index


REGISTER_PC = core_register(64)
REGISTER_PSTATE = core_register(66)

PSTATE_SS = 1 << 21
"""PSTATE.SS in the layout of SPSR_ELx (DDI 0487, SPSR_EL2)."""


def system_register(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The KVM register id of a 64-bit system register (KVM API, 4.68)."""
    return 0x6030_0000_0013_0000 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


REGISTER_MDSCR_EL1 = system_register(2, 0, 0, 2, 2)
