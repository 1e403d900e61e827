"""What a commit's cells say of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.campaign.bisect_verdict import (
    Shown,
    commit_verdict,
    later_symptoms,
    same_symptom,
    shown_by,
    sufficient_cells,
)
from qemu_diff.model import (
    Cell,
    CellResult,
    CellVerdict,
    CommitVerdict,
    Driver,
    Expectation,
    FloodSpec,
    MachineSpec,
    Signature,
    SignatureGroup,
    Symptom,
    ViolationKind,
)

LOST, LEAK = ViolationKind.LOST_STEP, ViolationKind.SS_LEAK
HVC = Symptom("lost-step", "step/tcg", "hvc", "handle_hvc")
READ = Symptom("lost-step", "step/tcg", "sysreg", "kvm_handle_sys_reg")


def cell(identity: str = "k.hvc", *expected: Expectation) -> Cell:
    return Cell(
        id=identity,
        kernel="k",
        payload="hvc",
        machine=MachineSpec(),
        flood=FloodSpec(),
        driver=Driver.IN_GUEST,
        seed=1,
        expected=expected or (Expectation.PASS,),
    )


def group(kind: ViolationKind, function: str = "handle_hvc") -> SignatureGroup:
    return SignatureGroup(Signature("step/tcg", "hvc", kind, function), 3)


def shown(
    verdict: CellVerdict, *symptoms: Symptom, identity: str = "k.hvc", duration_s: float = 1.0
) -> Shown:
    result = CellResult(cell(identity), verdict, reason="why", duration_s=duration_s)
    return Shown(result, frozenset(symptoms))


PASSES = shown(CellVerdict.PASS)
SHOWS = shown(CellVerdict.FAIL, HVC)


@pytest.mark.parametrize(
    ("result", "groups", "symptoms"),
    [
        (CellResult(cell(), CellVerdict.PASS), (), set()),
        (CellResult(cell(), CellVerdict.LOST, reason="QEMU died"), (), set()),
        (CellResult(cell(), CellVerdict.SKIPPED), (), set()),
        (CellResult(cell(), CellVerdict.FAIL, violations=((LOST, 3),)), (group(LOST),), {HVC}),
        # What nobody has an instruction for is told by its payload.
        (
            CellResult(cell(), CellVerdict.FAIL, violations=((LEAK, 3),)),
            (),
            {Symptom("ss-leak", "step/tcg", "hvc")},
        ),
        # A peer does not say how.
        (CellResult(cell(), CellVerdict.FAIL), (), {Symptom("fail", "step/tcg", "hvc")}),
        (CellResult(cell(), CellVerdict.HANG), (), {Symptom("hang", "step/tcg", "hvc")}),
        (
            CellResult(
                cell(),
                CellVerdict.KERNEL_OOPS,
                reason="Unable to handle kernel paging request at virtual address ffffffc0080a1234",
            ),
            (),
            {
                Symptom(
                    "kernel-oops",
                    "step/tcg",
                    "hvc",
                    "Unable to handle kernel paging request at virtual address …",
                )
            },
        ),
        (
            CellResult(
                cell(),
                CellVerdict.KERNEL_OOPS,
                reason="kernel BUG at arch/arm64/kvm/arm.c:335!",
            ),
            (),
            {Symptom("kernel-oops", "step/tcg", "hvc", "kernel BUG at arch/arm64/kvm/arm.c!")},
        ),
        # The control shows its bug, and nothing else.
        (
            CellResult(
                cell("k.hvc", Expectation.LOST_STEP), CellVerdict.FAIL, violations=((LOST, 3),)
            ),
            (group(LOST),),
            set(),
        ),
        (
            CellResult(
                cell("k.hvc", Expectation.LOST_STEP),
                CellVerdict.FAIL,
                violations=((LOST, 3), (LEAK, 1)),
            ),
            (group(LOST), group(LEAK, "")),
            {Symptom("ss-leak", "step/tcg", "hvc")},
        ),
        # What must be seen is not: that is what the commit which mended it shows.
        (
            CellResult(cell("k.hvc", Expectation.LOST_STEP), CellVerdict.PASS),
            (),
            {Symptom("no lost-step", "step/tcg", "hvc")},
        ),
    ],
)
def test_symptoms(
    result: CellResult, groups: tuple[SignatureGroup, ...], symptoms: set[Symptom]
) -> None:
    assert shown_by(result, groups).symptoms == symptoms


@pytest.mark.parametrize(
    ("other", "exactly", "any_function"),
    [
        (HVC, True, True),
        (Symptom("lost-step", "step/tcg", "hvc", "kvm_smccc_call_handler"), False, True),
        (Symptom("lost-step", "step/tcg", "hvc"), True, True),
        (Symptom("lost-step", "step/async_first", "hvc", "handle_hvc"), False, False),
        (Symptom("wrong-pc", "step/tcg", "hvc", "handle_hvc"), False, False),
        (Symptom("lost-step", "step/tcg", "smc", "handle_hvc"), False, False),
    ],
)
def test_what_is_the_same(other: Symptom, exactly: bool, any_function: bool) -> None:
    for one, two in ((HVC, other), (other, HVC)):
        assert same_symptom(one, two, any_function=False) is exactly
        assert same_symptom(one, two, any_function=True) is any_function


@pytest.mark.parametrize(
    ("cells", "verdict", "reason"),
    [
        ((PASSES,), "good", "as expected: k.hvc"),
        ((SHOWS,), "bad", "k.hvc: lost-step of hvc in step/tcg, served by handle_hvc"),
        ((PASSES, SHOWS), "bad", "k.hvc: lost-step of hvc"),
        ((shown(CellVerdict.LOST), SHOWS), "bad", "k.hvc: lost-step of hvc"),
        ((shown(CellVerdict.LOST), PASSES), "skip", "k.hvc: lost: why"),
        ((shown(CellVerdict.SKIPPED),), "skip", "k.hvc: skipped: why"),
        (
            (shown(CellVerdict.FAIL, READ),),
            "skip",
            "it fails in another way only: k.hvc: lost-step of sysreg",
        ),
        ((shown(CellVerdict.FAIL, READ, HVC),), "bad", "k.hvc: lost-step of hvc"),
    ],
)
def test_commit_verdict(cells: tuple[Shown, ...], verdict: str, reason: str) -> None:
    judged = commit_verdict(cells, [HVC], any_function=False)
    assert judged.verdict is CommitVerdict(verdict)
    assert judged.reason.startswith(reason)


def test_a_crash_is_bad_only_where_a_crash_is_looked_for() -> None:
    oops = Symptom("kernel-oops", "step/tcg", "hvc", "kernel BUG at arch/arm64/kvm/arm.c!")
    crashed = [shown(CellVerdict.KERNEL_OOPS, oops)]
    assert commit_verdict(crashed, [HVC], any_function=True).verdict is CommitVerdict.SKIP
    assert commit_verdict(crashed, [oops], any_function=False).verdict is CommitVerdict.BAD


def test_what_came_later_is_told() -> None:
    assert later_symptoms([SHOWS], [HVC, READ], any_function=False) == (READ,)
    assert later_symptoms([SHOWS], [HVC], any_function=False) == ()


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.frozensets(st.sampled_from("abcdef"))),
        max_size=12,
    )
)
def test_cells_are_sufficient_and_each_symptom_has_its_cheapest(
    drawn: list[tuple[int, frozenset[str]]],
) -> None:
    cells = [
        shown(
            CellVerdict.FAIL,
            *(Symptom(kind, "step/tcg", "hvc") for kind in kinds),
            identity=f"k.{number:02}",
            duration_s=float(duration_s),
        )
        for number, (duration_s, kinds) in enumerate(drawn)
    ]
    chosen = [one for one in cells if one.result.cell.id in sufficient_cells(cells)]
    everything = {symptom for one in cells for symptom in one.symptoms}
    assert {symptom for one in chosen for symptom in one.symptoms} == everything
    assert len(chosen) <= len(everything)
    for symptom in everything:
        having = [one.result.duration_s for one in cells if symptom in one.symptoms]
        assert min(having) in [one.result.duration_s for one in chosen if symptom in one.symptoms]
