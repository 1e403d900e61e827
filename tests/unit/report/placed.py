"""Results of cells that placed interrupts, for the tests of what draws them."""

from __future__ import annotations

from hypothesis import strategies as st

from qemu_diff.model import (
    MIXED,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Expectation,
    FloodSource,
    FloodSpec,
    Instruction,
    Landmark,
    MachineSpec,
    PairOutcome,
    PairResult,
    Placement,
    PlacementMap,
    Span,
    ViolationKind,
)

LOST = ViolationKind.LOST_STEP
READ = Instruction(0x5A5A_0004, "trapped_read", "mrs x0, id_aa64pfr0_el1")
NOP = Instruction(0x5A5A_0008, "trapped_read+0x4", "nop")
PATH = (
    Landmark(307, "kvm_arch_vcpu_ioctl_run"),
    Landmark(2399, "guest entry"),
    Landmark(2400, "guest exit"),
    Landmark(2710, "kvm_handle_sys_reg"),
    Landmark(3618, "guest entry"),
    Landmark(3619, "guest exit"),
    Landmark(3952, "kvm_arch_vcpu_put"),
)
BROKEN = (
    Span(853, 3158, "ok", 2306),
    Span(3159, 3624, LOST, 466),
    Span(3625, 4700, "ok", 1076),
)
WHOLE = (Span(853, 4739, "ok", 3887),)
OF_BOOTS = ViolationKind.LOST_INTERRUPT, ViolationKind.SPURIOUS_INTERRUPT
"""No step's: they are counted over a boot."""
OUTCOMES = ("ok", MIXED, *(kind for kind in ViolationKind if kind not in OF_BOOTS))


def cell(kernel: str, name: str = "trapped_sysreg.vhe") -> Cell:
    return Cell(
        id=f"{kernel}.{name}",
        kernel=kernel,
        payload="trapped_sysreg",
        machine=MachineSpec(),
        flood=FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP),
        driver=Driver.IN_GUEST,
        seed=1,
        expected=(Expectation.PASS if kernel == "patched" else Expectation.LOST_STEP,),
    )


def placed(kernel: str, *maps: PlacementMap, name: str = "trapped_sysreg.vhe") -> CellResult:
    broken = any(span.outcome == LOST for one in maps for span in one.spans)
    return CellResult(
        cell(kernel, name),
        CellVerdict.FAIL if broken else CellVerdict.PASS,
        steps=1000,
        violations=((LOST, 466),) if broken else (),
        maps=maps,
    )


def compared(*cells: CellResult) -> CampaignResult:
    """Every two that follow each other are a pair."""
    pairs = tuple(
        PairResult(baseline.cell, candidate.cell, PairOutcome.FIXED, "fixed")
        for baseline, candidate in zip(cells[::2], cells[1::2], strict=False)
    )
    return CampaignResult("quickstart", cells, pairs, complete=True)


QUICKSTART = compared(
    placed("unpatched", PlacementMap(READ, 4693, BROKEN, PATH), PlacementMap(NOP, 3474, WHOLE)),
    placed("patched", PlacementMap(READ, 4732, WHOLE, PATH), PlacementMap(NOP, 3497, WHOLE)),
)


@st.composite
def spans(draw: st.DrawFn, most: int = 8) -> tuple[Span, ...]:
    """Ascending, apart by any number of ns that were not tried."""
    made: list[Span] = []
    at_ns = 0
    for _ in range(draw(st.integers(0, most))):
        first = at_ns + draw(st.integers(0, 3000))
        length = draw(st.integers(1, 3000))
        tried = draw(st.integers(1, length))
        made.append(Span(first, first + length - 1, draw(st.sampled_from(OUTCOMES)), tried))
        at_ns = first + length
    return tuple(made)


HOSTILE = (
    "<script>alert(1)</script>",
    "\"' onmouseover='alert(1)",
    "</title></svg><img src=x onerror=alert(1)>",
    "\x1b[2J\x1b]0;pwned\x07",
    "\u202egnp.exe \ud800 \x00 {{ 7 * 7 }}",
    "]]>&amp;&#x3c;b&#x3e;",
)
