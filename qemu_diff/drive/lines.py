"""Interrupts into L2 from the QEMU in L1: its GIC's input lines, raised through its qtest.

QEMU passes a line's level on with KVM_IRQ_LINE, as it does for its own devices
(hw/intc/arm_gicv3_kvm.c, ``kvm_arm_gicv3_set_irq()``). L2 stands still meanwhile: the interrupt is
pending when its next step begins, and L2's handler runs in the midst of the steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from socket import socket

import numpy as np

from qemu_diff.abi import GUEST_COUNTERS, TimerKind
from qemu_diff.drive.qtest import ask
from qemu_diff.errors import DebuggerError
from qemu_diff.flood.placement import TIMER_KINDS
from qemu_diff.guest.gdbstub import ANSWER_S
from qemu_diff.model import FloodSource, GuestInterrupts, Payload

GIC_TYPE = "kvm-arm-gicv3"

_SPIS = 256
"""QEMU include/hw/arm/virt.h, ``NUM_IRQS``; a CPU's PPIs follow, 32 lines by INTID."""

_FIRST_SPI = 32

LINES = {
    FloodSource.SPI_EDGE: 40 - _FIRST_SPI,
    FloodSource.SPI_LEVEL: 41 - _FIRST_SPI,
    FloodSource.PPI: _SPIS + 20,
}
"""GPIO inputs of the GIC, for the INTIDs of guest_images/payloads/interrupts.inc."""

ONE_IN, NESTED_ONE_IN = 3, 40
"""So many stops, on average, for each interrupt; and while L2's handler runs, which takes some 40
steps: sooner, and the mainline would get no further."""

ACKNOWLEDGED = "irq_count"
"""Where the handler has been to the device of a level-triggered interrupt, and is about to count it
(interrupts.inc). The stop there is one that a kernel may lose: the step before is MMIO."""


class Qtest:
    """The qtest of L1's QEMU, as far as lines need it."""

    def __init__(self, connection: socket, gic: str, *, answer_s: float = ANSWER_S) -> None:
        """
        :param gic: QOM path of L2's GIC.
        :param answer_s: seconds that one answer may take.
        """
        connection.settimeout(answer_s)
        self._connection = connection
        self._gic = gic

    def set_line(self, line: int, level: int) -> None:
        """
        :raises DebuggerError: qtest refuses, or does not answer.
        """
        try:
            ask(self._connection, f"set_irq_in {self._gic} unnamed-gpio-in {line} {level}")
        except OSError as error:
            raise DebuggerError(f"the qtest of L1's QEMU: {error.strerror or error}") from error


@dataclass
class _Line:
    source: FloodSource
    number: int
    sent: int = 0
    held_back: int = 0
    high: bool = False


@dataclass(frozen=True)
class Raised:
    """What became of one source.

    :param held_back: times when L2 had not handled the one before: the two would be one.
    :param handled: by L2's own count.
    """

    kind: TimerKind
    sent: int
    held_back: int
    handled: int


@dataclass
class Lines:
    """Raises lines between steps, at random, and lowers those that are level-triggered.

    :param read_memory: (address, size) → L2's memory.
    """

    qtest: Qtest
    payload: Payload
    read_memory: Callable[[int, int], bytes]
    draws: random.Random
    lines: list[_Line] = field(default_factory=list)

    def between(self, pc: int) -> None:
        """L2 stands at ``pc``.

        :raises DebuggerError: see :class:`Qtest`.
        """
        self._lower(pc)
        if not self._due(pc):
            return
        line = self.draws.choice(self.lines)
        if self._handled()[TIMER_KINDS[line.source]] != line.sent:
            line.held_back += 1
            return
        line.sent += 1
        self.qtest.set_line(line.number, 1)
        line.high = True
        if line.source is FloodSource.SPI_EDGE:
            self.qtest.set_line(line.number, 0)
            line.high = False

    def _due(self, pc: int) -> bool:
        # What comes at a pass's end is the next one's, which has its own.
        if not self.lines or pc == self.payload.end:
            return False
        begin, end = self._interrupts.handler
        return not self.draws.randrange(NESTED_ONE_IN if begin <= pc < end else ONE_IN)

    def _lower(self, pc: int) -> None:
        """A device takes its level back when the handler has been to it, and counted that. The
        handler has still to end the interrupt then: until it does, none of its number comes."""
        high = [line for line in self.lines if line.high]
        if not high or not self._acknowledged <= pc < self._interrupts.handler[1]:
            return
        handled = self._handled()
        for line in high:
            if handled[TIMER_KINDS[line.source]] == line.sent:
                self.qtest.set_line(line.number, 0)
                line.high = False

    @property
    def _acknowledged(self) -> int:
        return next(at for at, label in self.payload.labels if label == ACKNOWLEDGED)

    @property
    def _interrupts(self) -> GuestInterrupts:
        assert self.payload.interrupts is not None, "what is flooded is assembled with a handler"
        return self.payload.interrupts

    def _handled(self) -> list[int]:
        return [int(one) for one in self.counters()["handled"]]

    def counters(self) -> np.void:
        """L2's own, dtype ``GUEST_COUNTERS``."""
        raw = self.read_memory(self._interrupts.counters, GUEST_COUNTERS.itemsize)
        counters: np.void = np.frombuffer(raw, GUEST_COUNTERS, 1)[0]
        return counters

    def raised(self) -> tuple[Raised, ...]:
        """What was sent, and what L2 has handled of it."""
        handled = self._handled()
        return tuple(
            Raised(kind, line.sent, line.held_back, handled[kind])
            for line in self.lines
            for kind in (TIMER_KINDS[line.source],)
        )


def lines_for(sources: Iterable[FloodSource]) -> list[_Line]:
    """The lines of a flood's sources; those that have none are somebody else's."""
    return [_Line(one, LINES[one]) for one in sources if one in LINES]
