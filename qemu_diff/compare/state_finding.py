"""A register that showed a value that is not its own, as a finding that can be read by itself."""

from __future__ import annotations

import numpy as np

from qemu_diff.abi import RecordKind
from qemu_diff.compare.returns import instruction_at, return_name
from qemu_diff.compare.slices import UNKNOWN_PC, pass_of_record
from qemu_diff.compare.state import REGISTERS, StateReads
from qemu_diff.drive.registers import register_name
from qemu_diff.model import Finding
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace

ORIGINS: dict[int, str] = {
    RecordKind.SET_REGISTER: "written",
    RecordKind.REGISTER: "read",
    RecordKind.VCPU_INIT: "reset by KVM_ARM_VCPU_INIT",
}


def state_finding(
    state: StateReads, index: int, trace: Trace, listing: Listing, *, boot: str, attributed_to: str
) -> Finding:
    """One wrong read.

    :param boot: the boot's name.
    :param attributed_to: whose interrupt the step goes with in which it was read.
    """
    record, pc = int(state.record[index]), int(state.pc[index])
    register = int(state.register[index])
    read, own = int(state.read[index]), int(state.own[index])
    at = instruction_at(listing, pc)
    where = at.label if pc == UNKNOWN_PC else f"{pc:#x} {at.label}"
    stepping = bool(state.stepping[index])
    own_from = _own_from(trace, record, int(state.origin[index]))
    shown = "" if state.as_job_expects[index] else REGISTERS.get(register, "")
    name = shown or register_name(register).upper()
    (kind,) = state.kinds(slice(index, index + 1))
    return Finding(
        kind=kind,
        boot=boot,
        report=max(0, int(state.run[index])),
        pass_number=max(0, int(pass_of_record(trace.records)[record])),
        previous_pc=None,
        reported_pc=at,
        legal_pcs=(),
        executed=(),
        missed=(),
        requested_ns=None,
        delivered_ns=None,
        attributed_to=attributed_to,
        message=(
            f"user space reads {name} = {_shown(read)} at {where} "
            f"{_occasion(trace, record)}, while {'stepping' if stepping else 'not stepping'}; "
            f"its own value is {_shown(own)}, {own_from}"
        ),
        register=name,
        read_value=read,
        own_value=own,
        own_from=own_from,
        stepping=stepping,
    )


def _own_from(trace: Trace, record: int, origin: int) -> str:
    """Where a register's own value comes from."""
    if origin == record:
        return "which the job expects"
    kinds = trace.records["kind"]
    before = int(np.sum(kinds[:origin] == RecordKind.RUN))
    return f"{ORIGINS[int(kinds[origin])]} before report {before}"


def _occasion(trace: Trace, record: int) -> str:
    """When user space read a register."""
    one = trace.records[record]
    asked = one["kind"] != RecordKind.RUN
    return "when the job asks for it" if asked else f"after {return_name(one)}"


def _shown(value: int) -> str:
    return str(value) if value < 10 else f"{value:#x}"
