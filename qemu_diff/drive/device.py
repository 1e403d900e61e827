"""Interrupts of L1's devices, made pending in its GIC from outside while L2 is stepped.

They come when the host says, not when virtual time does: a run with them is not bit-exact, as a
real machine's is not. QEMU's qtest socket writes the distributor's GICD_ISPENDR1; it is served
beside TCG (QEMU softmmu/qtest.c).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socket import AF_UNIX, socket

from qemu_diff.drive.async_first import GIC_WRITES
from qemu_diff.drive.qtest import ask
from qemu_diff.model import Pending

SHORTEST_S, LONGEST_S = 0.0002, 0.002
"""From one interrupt to the next: one in a few steps."""

ANSWER_S = 10.0


class DevicePender:
    """Makes the interrupt pending again and again, in a thread of its own."""

    def __init__(
        self,
        wanted: bool,
        path: Path,
        seed: int,
        cancel: threading.Event,
        heartbeat: Callable[[], int],
    ) -> None:
        """
        :param wanted: False: there is nothing to do.
        :param path: where QEMU's qtest is to listen, a Unix socket.
        :param seed: of the waits between two interrupts.
        :param heartbeat: how often KVM_RUN has returned: nothing is sent while it stands still.
        """
        self._wanted = wanted
        self._path = path
        self._waits = random.Random(seed)
        self._cancel = cancel
        self._heartbeat = heartbeat
        self._begun = threading.Event()
        self._ended = threading.Event()
        self._error = ""
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self.sent = 0
        """Interrupts made pending so far."""
        self.held_back = 0
        """Times when the one before was still pending: the two would be one."""

    @property
    def listens_at(self) -> Path | None:
        """Where QEMU's qtest is to listen; None where none is needed."""
        return self._path if self._wanted else None

    def start(self) -> None:
        """Begin; nothing is sent before :meth:`stepping`."""
        if self._wanted:
            self._thread.start()

    def stepping(self) -> None:
        """L2 is stepped now."""
        self._begun.set()

    def finish(self) -> str:
        """Wait for its end; QEMU is gone. What went wrong, or nothing."""
        self._ended.set()
        self._begun.set()
        if self._wanted:
            self._thread.join()
        return self._error

    def _work(self) -> None:
        self._begun.wait()
        try:
            with socket(AF_UNIX) as connection:
                connection.settimeout(ANSWER_S)
                connection.connect(str(self._path))
                # QEMU goes away when the job is done: that is how this ends.
                with suppress(ConnectionError):
                    self._pend(connection)
        except OSError as error:
            self._error = f"qtest: {error.strerror or error}"

    def _pend(self, connection: socket) -> None:
        address, value = GIC_WRITES[Pending.SPI]
        seen = 0
        while not (self._ended.is_set() or self._cancel.is_set()):
            time.sleep(self._waits.uniform(SHORTEST_S, LONGEST_S))
            if (beat := self._heartbeat()) == seen:
                continue
            seen = beat
            if int(ask(connection, f"readl {address:#x}") or "0", 0) & value:
                self.held_back += 1
                continue
            ask(connection, f"writel {address:#x} {value:#x}")
            self.sent += 1
