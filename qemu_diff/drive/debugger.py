"""What a debugger of L2 offers, whatever it is: the drivers ``rsp``, ``gdb`` and ``monitor``.

L2 runs under an unmodified QEMU in L1. All three reach that QEMU from outside, over ports of a
virtio-serial device: its gdbstub, its monitor (HMP) and its QMP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SIGINT, SIGTRAP = 2, 5
"""Signal numbers of the remote serial protocol (GDB include/gdb/signals.def): a vCPU was stopped by
somebody, or by itself."""


@dataclass(frozen=True)
class Position:
    """Where a vCPU stands, as somebody shows it to a user.

    :param pstate: in the layout of SPSR_EL1 (DDI 0487).
    """

    pc: int
    pstate: int


@dataclass(frozen=True)
class Stop:
    """A stop of L2.

    :param vcpu: of L2, from 0.
    :param signal: ``SIGTRAP`` for a step or a breakpoint, ``SIGINT`` where it was stopped from
        outside.
    """

    vcpu: int
    signal: int
    position: Position


class Debugger(Protocol):
    """A debugger that is connected to L2's QEMU; L2 stands still but for its steps and runs.

    Every method raises :class:`~qemu_diff.errors.DebuggerError` where the debugger, or what it is
    connected to, refuses, says what makes no sense, falls silent until the deadline, or goes away.
    """

    def position(self, vcpu: int = 0) -> Position:
        """Where L2 stands."""

    def read_register(self, name: str) -> int:
        """A register of vCPU 0 by gdb's name: ``x0`` … ``x30``, ``sp``, ``pc``, ``cpsr``,
        ``ELR_EL1``, ``SPSR_EL1``; 64 bits or fewer."""

    def write_register(self, name: str, value: int) -> None:
        """A general register, ``sp``, ``pc`` or ``cpsr`` of vCPU 0."""

    def read_memory(self, address: int, size: int) -> bytes:
        """L2's memory; its MMU is off."""

    def request_step(self) -> None:
        """Ask for one instruction; it is done when :meth:`await_stop` returns."""

    def await_stop(self) -> Stop:
        """Wait for L2 to stand still again."""

    def step(self) -> Stop:
        """:meth:`request_step`, :meth:`await_stop`."""

    def run_to(self, address: int) -> Stop:
        """Let L2 run until it is about to execute an address (a hardware breakpoint)."""

    def leave(self) -> None:
        """Disconnect, and leave L2 as it stands; gdb's ``kill`` would end it."""
