"""Executed instructions and phantoms.

A vCPU that enters L2 in Active-pending makes TCG open a translation block at the next PC only to
raise the Software Step exception there (QEMU target/arm/tcg/translate-a64.c,
``aarch64_tr_translate_insn``: ``ss_active && !pstate_ss``). Plugins are told of an instruction that
never executes: a phantom. How it shows differs between QEMUs, so there are several rules, and a
self-test finds the one that holds for a given binary.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import StepState, TruthKind, TruthRecords


class PhantomRule(StrEnum):
    """What gives a phantom away."""

    INSN_SIZE = "insn-size"
    """No bytes were fetched: ``qemu_plugin_insn_size()`` is 0."""

    STEP_STATE = "step-state"
    """MDSCR_EL1.SS is 1 and PSTATE.SS is 0: the state is Active-pending (plugin API ≥ 2)."""


def phantoms(rule: PhantomRule, records: TruthRecords) -> NDArray[np.bool_]:
    """Which records are phantoms.

    :returns: shape (n,); False for everything that is not an instruction record.
    """
    instruction = records["kind"] == TruthKind.INSTRUCTION
    if rule is PhantomRule.INSN_SIZE:
        return np.asarray(instruction & (records["size"] == 0))
    return np.asarray(instruction & (records["step_state"] == StepState.ACTIVE_PENDING))


def applicable(rule: PhantomRule, records: TruthRecords) -> bool:
    """Whether the records hold what the rule looks at."""
    if rule is PhantomRule.INSN_SIZE:
        return True
    instruction = records["kind"] == TruthKind.INSTRUCTION
    return bool(np.all(records["step_state"][instruction] != StepState.UNKNOWN))
