"""Runs that were, for tests of what is remembered of them."""

from __future__ import annotations

from itertools import pairwise

from qemu_diff.model import (
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Expectation,
    FloodSpec,
    KernelIdentity,
    MachineSpec,
    PairOutcome,
    PairResult,
    Provenance,
    Signature,
    SignatureGroup,
    StepCost,
    ViolationKind,
)

LOST_STEP = ViolationKind.LOST_STEP


def cell(name: str, *expected: Expectation) -> Cell:
    """A cell of kernel ``k``."""
    return Cell(
        f"k.{name}",
        "k",
        name,
        MachineSpec(),
        FloodSpec(),
        Driver.IN_GUEST,
        seed=1,
        expected=expected or (Expectation.PASS,),
    )


def outcome(
    name: str, verdict: CellVerdict = CellVerdict.PASS, *expected: Expectation
) -> CellResult:
    """What came of a cell; what fails loses a step."""
    lost = verdict is CellVerdict.FAIL
    return CellResult(
        cell(name, *expected),
        verdict,
        violations=((LOST_STEP, 3),) if lost else (),
        signatures=(SignatureGroup(Signature("step/tcg", "hvc", LOST_STEP), 3),) if lost else (),
        duration_s=2.5,
        costs=(StepCost("hvc", 4, 4400, 4460, 4500),),
        identity="i" * 32,
    )


def run_of(number: int, *cells: CellResult, key: str = "key", **more: object) -> CampaignResult:
    """The run of a night, with everything that a ledger keeps."""
    pairs = tuple(
        PairResult(one.cell, other.cell, PairOutcome.SAME, "") for one, other in pairwise(cells)
    )
    settings: dict[str, object] = {
        "complete": True,
        "run": f"{number:032x}",
        "started": f"2026-01-{number:02}T22:00:00Z",
        "provenance": Provenance(
            (KernelIdentity("k", "6.1.192", key, "debian linux-source-6.1"),),
            qemu="QEMU 7.2",
            qemu_identity="q",
            tool="0.1.0",
        ),
    }
    return CampaignResult("c", cells, pairs, **{**settings, **more})  # type: ignore[arg-type]
