"""Results of cells that came out in every way there is, for the tests of formats."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from qemu_diff.model import (
    Breakdown,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Change,
    ChangeKind,
    Confirmation,
    CostChange,
    Driver,
    Expectation,
    Finding,
    Flakiness,
    FloodSpec,
    Instruction,
    KernelIdentity,
    MachineSpec,
    Nights,
    PairOutcome,
    PairResult,
    PastCell,
    Provenance,
    SideBySide,
    Signature,
    SignatureGroup,
    StepCost,
    ViolationKind,
)

HVC = Instruction(0x5A5A_0008, "first_hvc", "hvc #0")
NOP = Instruction(0x5A5A_000C, "first_hvc+0x4", "nop")
NEXT = Instruction(0x5A5A_0010, "first_hvc+0x8", "mov x1, x0")
FINDING = Finding(
    kind=ViolationKind.LOST_STEP,
    boot="run",
    report=2,
    pass_number=0,
    previous_pc=HVC,
    reported_pc=NEXT,
    legal_pcs=(NOP,),
    executed=(HVC, NOP),
    missed=(NOP,),
    requested_ns=None,
    delivered_ns=None,
    attributed_to="no-interrupt",
    message="2 instructions ran for one reported step",
)
ROWS = SideBySide(((HVC, True, True), (NOP, False, True), (NEXT, True, True)))


def cell(kernel: str, expected: Expectation = Expectation.PASS) -> Cell:
    return Cell(
        id=f"{kernel}.hvc.vhe.quiet",
        kernel=kernel,
        payload="hvc",
        machine=MachineSpec(),
        flood=FloodSpec(),
        driver=Driver.IN_GUEST,
        seed=1,
        expected=(expected,),
    )


def passes(kernel: str = "patched", expected: Expectation = Expectation.PASS) -> CellResult:
    return CellResult(cell(kernel, expected), CellVerdict.PASS, steps=450, duration_s=1.5)


def fails(kernel: str = "unpatched", expected: Expectation = Expectation.PASS) -> CellResult:
    return CellResult(
        cell(kernel, expected),
        CellVerdict.FAIL,
        steps=350,
        violations=((ViolationKind.LOST_STEP, 50),),
        breakdown=(Breakdown(HVC, ViolationKind.LOST_STEP, broken=50, stepped=50),),
        findings=(FINDING,),
        reason="50 lost-step in 350 steps",
        duration_s=2.0,
    )


def lost(reason: str = "QEMU died (signal 9); it printed nothing") -> CellResult:
    return CellResult(cell("broken"), CellVerdict.LOST, reason=reason)


def skipped(kernel: str = "witness", expected: Expectation = Expectation.PASS) -> CellResult:
    return CellResult(cell(kernel, expected), CellVerdict.SKIPPED, reason="no such suite")


def pair(outcome: PairOutcome, rows: SideBySide | None = None, message: str = "m") -> PairResult:
    return PairResult(cell("unpatched"), cell("patched"), outcome, message, rows)


HANGS = CellResult(cell("k"), CellVerdict.HANG, reason="no return from KVM_RUN")
OOPSES = CellResult(cell("k"), CellVerdict.KERNEL_OOPS, reason="Kernel panic - not syncing: x")

SIGNATURE = Signature("step/tcg", "hvc", ViolationKind.LOST_STEP, "handle_hvc")
FINDING_ID = "unpatched.hvc.vhe.quiet.lost-step.first_hvc.handle_hvc"


def flaky(result: CellResult) -> CellResult:
    """The same with a signature that three of five fresh boots show."""
    confirmation = Confirmation(boots=5, reproduced=3)
    group = SignatureGroup(SIGNATURE, 50, finding_id=FINDING_ID, confirmation=confirmation)
    return replace(result, signatures=(group,))


PROVENANCE = Provenance(
    kernels=(
        KernelIdentity("patched", "6.1.192", "cafe" * 8, "debian linux-source-6.1 6.1.192-2"),
        KernelIdentity("unpatched", "6.1.192", "beef" * 8, f"git {'0f1a6c5c9784' * 3}0f1a (v6.1)"),
    ),
    qemu="QEMU emulator version 7.2.22",
    tool="0.1.0",
)

EVERYTHING = CampaignResult(
    "nightly",
    (
        passes(),
        replace(passes(), cell=replace(cell("patched"), id="patched.late.vhe.quiet"), attempts=2),
        flaky(fails(expected=Expectation.LOST_STEP)),
        flaky(replace(fails("regressing"), costs=(StepCost("hvc", 50, 4460, 4470, 4500),))),
        HANGS,
        replace(OOPSES, cell=replace(OOPSES.cell, id="k.hvc.nvhe.quiet")),
        replace(lost(), attempts=3, duration_s=4.0),
        replace(lost("patch does not apply"), cell=cell("unbuilt")),
        skipped(),
    ),
    (
        pair(PairOutcome.FIXED),
        replace(pair(PairOutcome.REGRESSED, ROWS), candidate=cell("regressing")),
        PairResult(cell("witness"), cell("patched"), PairOutcome.INCONCLUSIVE, "skipped"),
        PairResult(cell("broken"), cell("patched"), PairOutcome.INCONCLUSIVE, "lost"),
        PairResult(
            cell("patched"),
            cell("k"),
            PairOutcome.SAME,
            "both keep the step contract; a step of class hvc costs too much",
            costs=(CostChange("hvc", 4460, 5900, alarming=True),),
        ),
    ),
    complete=True,
    provenance=PROVENANCE,
    run="5eed" * 4,
    started="2026-11-22T02:00:00+00:00",
)
"""Every verdict, expected and not, and every way for a pair to matter."""


def _past(result: CellResult, verdict: CellVerdict, release: str) -> PastCell:
    return PastCell(
        run="0000",
        started="2026-11-21T02:00:00+00:00",
        id=result.cell.id,
        verdict=verdict,
        as_expected=verdict is CellVerdict.PASS,
        duration_s=1.0,
        release=release,
        kernel_key=("b" if verdict is CellVerdict.FAIL else "a") * 32,
        violations=(ViolationKind.LOST_STEP,) if verdict is CellVerdict.FAIL else (),
    )


_REGRESSED = fails("regressing")
NIGHTS = Nights(
    since="2026-11-21T02:00:00+00:00",
    changes=(
        Change(
            ChangeKind.BROKE,
            _REGRESSED.cell.id,
            _past(_REGRESSED, CellVerdict.PASS, "6.1.191"),
            _past(_REGRESSED, CellVerdict.FAIL, "6.1.192"),
        ),
        Change(ChangeKind.GONE, "old.hvc.vhe.quiet", _past(lost(), CellVerdict.LOST, ""), None),
    ),
    flaky=(Flakiness(passes().cell.id, "cafe" * 8, runs=17, unexpected=3),),
)

# Everything that `bytes.decode(errors="replace")` can give, and more.
anything = st.text(st.characters(exclude_categories=()), max_size=40)
console_text = anything | st.binary(max_size=40).map(lambda raw: raw.decode(errors="replace"))


def told(text: str) -> CampaignResult:
    """A result in which everything that somebody else may have written is this text."""
    finding = replace(FINDING, boot=text, executed=(replace(HVC, text=text),))
    signature = replace(SIGNATURE, function=text)
    group = SignatureGroup(signature, 1, confirmation=Confirmation(5, 3))
    return CampaignResult(
        "c",
        (
            lost(text),
            replace(
                fails(), reason=text, findings=(finding,), warnings=(text,), signatures=(group,)
            ),
            replace(passes(), warnings=(text,)),
            replace(HANGS, reason=text),
            replace(skipped(), reason=text),
        ),
        tuple(pair(outcome, message=text) for outcome in PairOutcome),
        complete=True,
        provenance=Provenance(
            (KernelIdentity("patched", text, "cafe", text),), qemu=text, tool=text
        ),
    )
