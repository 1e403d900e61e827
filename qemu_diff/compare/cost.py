"""What a step costs: L1's instructions, counted by L0.

With ``-icount shift=0`` virtual time is the number of executed instructions, and the step VMM reads
it at each entry into KVM_RUN and at each return. So the length of a quiet step is exact, and the
same on any machine; what changes it is the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.placements import Placements
from qemu_diff.compare.signature import instruction_class
from qemu_diff.model import (
    Cell,
    CellResult,
    CostChange,
    Driver,
    ExceptionOrder,
    Payload,
    StepCost,
)


def costs_nothing_else(cell: Cell) -> bool:
    """Whether the lengths of a cell's steps are the kernel's alone: nobody interrupts, redirects or
    talks to the machine meanwhile."""
    quiet = not cell.flood.sources and cell.machine.exception_order is ExceptionOrder.TCG
    return quiet and cell.driver is Driver.IN_GUEST


def step_costs(steps: Steps, placements: Placements, payload: Payload) -> tuple[StepCost, ...]:
    """The cost of each class of instruction, ascending by class.

    Only steps of one executed instruction count, and only those in which no interrupt came, L1's
    own tick included.
    """
    alone = (steps.executed == 1) & (steps.outcome == Judged.OK)
    alone &= (steps.irq_exits == 0) & (placements.ticks == 0) & ~placements.delivered
    addresses, index = np.unique(steps.instruction[alone], return_inverse=True)
    classes = [instruction_class(payload, int(address)) for address in addresses]
    lengths = placements.length_ns[alone]
    costs = []
    for name in sorted({*classes}):
        own = lengths[np.isin(index, [at for at, one in enumerate(classes) if one == name])]
        # A median that no step had would be no count of anything.
        median = int(np.sort(own)[(len(own) - 1) // 2])
        costs.append(StepCost(name, len(own), int(own.min()), median, int(own.max())))
    return tuple(costs)


def cost_changes(
    baseline: CellResult, candidate: CellResult, most: float | None
) -> tuple[CostChange, ...]:
    """Candidate against baseline, of the classes that both have.

    :param most: see :attr:`~qemu_diff.model.Campaign.cost_change`.
    """
    return tuple(_changes(baseline, candidate, most))


def _changes(
    baseline: CellResult, candidate: CellResult, most: float | None
) -> Iterator[CostChange]:
    after = {one.instruction: one.median for one in candidate.costs}
    for one in baseline.costs:
        if one.instruction in after:
            change = CostChange(one.instruction, one.median, after[one.instruction])
            beyond = most is not None and abs(change.ratio - 1) > most
            yield CostChange(change.instruction, change.baseline, change.candidate, beyond)
