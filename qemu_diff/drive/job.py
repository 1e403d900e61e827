"""Jobs: what the step VMM is to do, as data (guest_images/include/step_abi.h)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import (
    JOB_HEADER,
    JOB_MAGIC,
    OPERATION,
    PSTATE_EL1H_MASKED,
    REGISTER_PC,
    REGISTER_PSTATE,
    STEP_ABI_VERSION,
    OperationCode,
    TimerKind,
)
from qemu_diff.flood.placement import Sweep
from qemu_diff.guest.image import MEMORY_BYTES
from qemu_diff.model import FloodSource, Payload

STALL_NS = 200_000_000
"""Virtual time in KVM_RUN without a return after which L2 counts as stalled."""

STEPS_PER_PASS = 1000
"""Reports after which a pass ends even if the payload's end was never reported."""


@dataclass(frozen=True)
class Operation:
    """One ``struct operation``."""

    code: OperationCode
    n: int = 0
    a: int = 0
    b: int = 0
    kind: TimerKind = TimerKind.INTERRUPT


TIMER_KINDS = {
    FloodSource.HOST_TIMER: TimerKind.INTERRUPT,
    FloodSource.SIGNAL: TimerKind.SIGNAL,
}


def _no_delays() -> NDArray[np.uint32]:
    return np.zeros(0, dtype=np.uint32)


@dataclass(frozen=True)
class Job:
    """Operations, and the table of delays (ns) that ``TIMER_TABLE`` reads."""

    operations: tuple[Operation, ...]
    delays: NDArray[np.uint32] = field(default_factory=_no_delays)

    def encode(self, payload: Payload) -> bytes:
        """The bytes of ``/job``."""
        rows = [(one.code, one.kind, one.n, one.a, one.b) for one in self.operations]
        body = np.array(rows, dtype=OPERATION).tobytes() + self.delays.astype("<u4").tobytes()
        header = np.zeros(1, JOB_HEADER)
        header["magic"] = JOB_MAGIC
        header["version"] = STEP_ABI_VERSION
        header["crc32"] = zlib.crc32(body)
        header["operations"] = len(self.operations)
        header["delays"] = len(self.delays)
        header["load_address"] = payload.load_address
        header["memory_bytes"] = MEMORY_BYTES
        header["stall_ns"] = STALL_NS
        return header.tobytes() + body


def quiet_job(payload: Payload, passes: int) -> Job:
    """Step through the payload without a flood.

    :param passes: how often, from its entry.
    """
    return Job((Operation(OperationCode.STEP_ON), *_repeated(payload, passes)))


def sweep_job(payload: Payload, source: FloodSource, sweep: Sweep) -> Job:
    """One pass for each placement; within a pass every step has the same requested delay."""
    flood = Operation(
        OperationCode.TIMER_SWEEP, a=sweep.first_ns, b=sweep.step_ns, kind=TIMER_KINDS[source]
    )
    return Job((Operation(OperationCode.STEP_ON), flood, *_repeated(payload, sweep.passes)))


def fill_job(payload: Payload, source: FloodSource, delays: Sequence[int]) -> Job:
    """One pass for each of the given delays (ns): placements that a sweep missed."""
    operations = [Operation(OperationCode.STEP_ON)]
    for delay in delays:
        kind = TIMER_KINDS[source]
        operations.append(Operation(OperationCode.TIMER_SWEEP, a=delay, kind=kind))
        operations.extend(_repeated(payload, 1))
    return Job(tuple(operations))


def table_job(
    payload: Payload, source: FloodSource, passes: int, delays: NDArray[np.uint32]
) -> Job:
    """Every step takes the next of ``delays`` (ns); after the last there is no flood."""
    flood = Operation(OperationCode.TIMER_TABLE, n=len(delays), kind=TIMER_KINDS[source])
    step_on = Operation(OperationCode.STEP_ON)
    return Job((step_on, flood, *_repeated(payload, passes)), delays)


def _repeated(payload: Payload, passes: int) -> tuple[Operation, ...]:
    one_pass = (
        Operation(OperationCode.SET_REG, a=REGISTER_PC, b=payload.entry),
        Operation(OperationCode.SET_REG, a=REGISTER_PSTATE, b=PSTATE_EL1H_MASKED),
        Operation(OperationCode.STEP, n=STEPS_PER_PASS, a=payload.end),
    )
    return (Operation(OperationCode.REPEAT, n=passes, a=len(one_pass)), *one_pass)
