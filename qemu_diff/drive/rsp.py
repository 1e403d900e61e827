"""The driver ``rsp``: L2 is stepped by the packets themselves, without a gdb between.

A step is two round trips: the request and its stop, then all registers at once. gdb needs many
more, and a truth of its own about what they say.
"""

from __future__ import annotations

from collections.abc import Callable

from qemu_diff.drive.debugger import SIGTRAP, Position, Stop
from qemu_diff.errors import GdbStubError
from qemu_diff.guest.gdbstub import GdbStub
from qemu_diff.guest.packet import StopReply


class RspDebugger:
    """A :class:`~qemu_diff.drive.debugger.Debugger` that speaks the remote serial protocol itself.

    L2 must stand still when it is made: QEMU stops it when the gdbstub's chardev opens
    (gdbstub/softmmu.c, ``gdb_chr_event``), and ``-S`` keeps it from starting.
    """

    def __init__(self, stub: GdbStub, step_s: float = 30.0) -> None:
        """
        :param stub: started.
        :param step_s: seconds that L2 may take to stand still again.
        :raises DebuggerError: see :class:`GdbStub`.
        """
        self._stub = stub
        self._step_s = step_s
        self._threads = stub.threads()
        self._selected = 0
        self._select(0)

    def position(self, vcpu: int = 0) -> Position:
        """One round trip; one more where another vCPU was meant before."""
        self._select(vcpu)
        return Position(*self._stub.read_core_registers("pc", "cpsr"))

    def read_register(self, name: str) -> int:
        """See :meth:`Debugger.read_register`."""
        self._select(0)
        core = self._stub.core_registers.get(name)
        if core is None:
            return self._stub.read_system_register(name)
        return self._stub.read_register(core.number)

    def write_register(self, name: str, value: int) -> None:
        """See :meth:`Debugger.write_register`.

        ``P`` writes to QEMU's copy of the registers (gdbstub.c, ``handle_set_reg()``), and under
        KVM the copy counts only if it was read since L2 stopped (``cpu_synchronize_state()``):
        without a read before, the write is lost, and no error says so. gdb reads at each stop.
        """
        self.position()
        self._stub.write_core_register(name, value)

    def read_memory(self, address: int, size: int) -> bytes:
        """See :meth:`Debugger.read_memory`."""
        self._select(0)
        return self._stub.read_memory(address, size)

    def request_step(self, vcpu: int = 0) -> None:
        """Ask for one instruction of one vCPU; the others stand still meanwhile."""
        self._stub.request_step(self._thread(vcpu))

    def await_stop(self) -> Stop:
        """See :meth:`Debugger.await_stop`."""
        vcpu, signal = self.await_signal()
        return Stop(vcpu, signal, self.position(vcpu))

    def await_signal(self) -> tuple[int, int]:
        """:meth:`await_stop` without asking where: the vCPU that stopped, and its signal."""
        reply = self._stub.await_stop(self._step_s)
        return self._stopped_vcpu(reply), reply.signal

    def step(self, vcpu: int = 0) -> Stop:
        """See :meth:`Debugger.step`."""
        self.request_step(vcpu)
        return self.await_stop()

    def run_to(self, address: int) -> Stop:
        """See :meth:`Debugger.run_to`."""
        return self.run_to_with(address, self.await_stop)

    def run_to_with(self, address: int, await_stop: Callable[[], Stop]) -> Stop:
        """:meth:`run_to`, where somebody else says where L2 stopped."""
        self._stub.set_breakpoint(address)
        self._stub.request_continue()
        stop = await_stop()
        self._stub.clear_breakpoint(address)
        if stop.signal != SIGTRAP or stop.position.pc != address:
            found = f"at {stop.position.pc:#x} with signal {stop.signal}"
            raise GdbStubError(f"L2 stopped {found}, not at {address:#x}")
        return stop

    def interrupt(self) -> None:
        """Have L2 stopped that runs (Ctrl-C): :meth:`await_stop` has a ``SIGINT`` then."""
        self._stub.interrupt()

    def leave(self) -> None:
        """See :meth:`Debugger.leave`: nothing is sent. ``D`` would let L2 run (QEMU gdbstub.c,
        ``handle_detach``), and whoever made the connection closes it."""
        self._threads = []

    def _thread(self, vcpu: int) -> int:
        if not 0 <= vcpu < len(self._threads):
            raise GdbStubError(f"L2 has no vCPU {vcpu} for this debugger")
        return self._threads[vcpu]

    def _select(self, vcpu: int) -> None:
        thread = self._thread(vcpu)
        if thread != self._selected:
            self._stub.select_thread(thread)
            self._selected = thread

    def _stopped_vcpu(self, reply: StopReply) -> int:
        """A stop selects its thread (QEMU gdbstub, ``gdb_set_stop_cpu``)."""
        if reply.thread not in self._threads:
            raise GdbStubError(f"the gdbstub stopped thread {reply.thread}, which it does not list")
        self._selected = reply.thread
        return self._threads.index(reply.thread)
