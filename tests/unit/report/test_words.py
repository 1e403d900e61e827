"""The sentences of every report, and how a terminal shows them."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from qemu_diff.model import (
    Breakdown,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Coverage,
    Driver,
    Expectation,
    Finding,
    FloodSource,
    FloodSpec,
    Instruction,
    InterruptCount,
    KernelIdentity,
    MachineSpec,
    Method,
    PairOutcome,
    PairResult,
    Placement,
    PlacementMap,
    Provenance,
    SideBySide,
    SourceCount,
    Span,
    ViolationKind,
    Window,
)
from qemu_diff.report.terminal import print_result
from qemu_diff.report.words import (
    breakdown_sentence,
    cell_sentences,
    closing_sentence,
    coverage_sentences,
    expectation_sentence,
    finding_lines,
    interrupt_sentences,
    side_by_side_lines,
    window_sentence,
)

LOST, SPURIOUS, WRONG = (
    ViolationKind.LOST_STEP,
    ViolationKind.SPURIOUS_STEP,
    ViolationKind.WRONG_PC,
)
SWEEP = FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP)

MRS = Instruction(0x5A5A_0004, "trapped_read", "mrs x0, id_aa64pfr0_el1")
NOP = Instruction(0x5A5A_0008, "trapped_read+0x4", "nop")
MOV = Instruction(0x5A5A_000C, "trapped_read+0x8", "mov x1, x0")


def cell(
    kernel: str = "unpatched",
    expected: Expectation = Expectation.PASS,
    flood: FloodSpec | None = None,
) -> Cell:
    return Cell(
        id=f"{kernel}.trapped_sysreg.vhe",
        kernel=kernel,
        payload="trapped_sysreg",
        machine=MachineSpec(),
        flood=flood or FloodSpec(),
        driver=Driver.IN_GUEST,
        seed=1,
        expected=(expected,),
    )


PASSED = CellResult(
    cell("patched"),
    CellVerdict.PASS,
    steps=18_208,
    active_pending_entries=4552,
    interrupted_steps=11_976,
    counted_steps=12_606,
)
WINDOW = Window(MRS, LOST, first_ns=3158, last_ns=3623, placements=466, complete=True)
AT_MRS = Breakdown(MRS, LOST, broken=468, stepped=4509)
FINDING = Finding(
    kind=LOST,
    boot="sweep-0",
    report=9273,
    pass_number=2318,
    previous_pc=MRS,
    reported_pc=MOV,
    legal_pcs=(NOP,),
    executed=(MRS, NOP),
    missed=(NOP,),
    requested_ns=3518,
    delivered_ns=3158,
    attributed_to="placement",
    message="2 instructions ran for one reported step",
)
FAILED = CellResult(
    cell(expected=Expectation.LOST_STEP, flood=SWEEP),
    CellVerdict.FAIL,
    steps=17_568,
    violations=((LOST, 468),),
    breakdown=(AT_MRS,),
    findings=(FINDING,),
    windows=(WINDOW,),
    reason="468 lost-step in 17568 steps",
)
UNFIXED = replace(FAILED, cell=cell(flood=SWEEP))
HUNG = CellResult(cell(), CellVerdict.HANG, reason="no return from KVM_RUN within 200000000 ns")
GONE = CellResult(cell(), CellVerdict.LOST, reason="QEMU died (signal 9); it printed nothing")
LEFT_OUT = CellResult(cell("witness"), CellVerdict.SKIPPED, reason="no such suite")
LEAK = replace(
    FINDING,
    kind=ViolationKind.SS_LEAK,
    executed=(),
    missed=(),
    legal_pcs=(),
    reported_pc=MRS,
    attributed_to="no-interrupt",
    register="PSTATE.SS",
    read_value=1,
    own_value=0,
    own_from="written before report 12",
    stepping=True,
)
ROWS = SideBySide(((MRS, True, True), (NOP, False, True), (MOV, True, True)))
FIXED = PairResult(FAILED.cell, PASSED.cell, PairOutcome.FIXED, "m", ROWS)


# --- one instruction ---


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (
            Breakdown(MRS, LOST, broken=4509, stepped=4509),
            "k loses the step at trapped_read (mrs x0, id_aa64pfr0_el1) every time: 4,509 of 4,509",
        ),
        (
            Breakdown(MRS, SPURIOUS, broken=1, stepped=4509),
            "k reports a step that never ran at trapped_read (mrs x0, id_aa64pfr0_el1) sometimes: "
            "1 of 4,509",
        ),
        (
            Breakdown(NOP, WRONG, broken=0, stepped=2),
            "k reports a wrong PC at trapped_read+0x4 (nop) sometimes: 0 of 2",
        ),
    ],
)
def test_how_often_a_step_is_broken(one: Breakdown, sentence: str) -> None:
    assert breakdown_sentence("k", one) == sentence


def test_where_the_placements_lie_that_break_a_step() -> None:
    begin = (
        "k loses the step at trapped_read (mrs x0, id_aa64pfr0_el1) whenever the interrupt is "
        "delivered 3,158 to 3,623 ns after the entry into KVM_RUN: 466 placements, "
    )
    assert (
        window_sentence("k", FloodSource.HOST_TIMER, WINDOW)
        == begin + "every ns inside and both edges tried"
    )
    incomplete = replace(WINDOW, complete=False)
    wide = replace(WINDOW, mixed=7)
    assert window_sentence("k", FloodSource.HOST_TIMER, wide).endswith(
        "every ns inside and both edges tried, 7 of them with both outcomes"
    )
    assert "whenever a signal is raised 3,158" in window_sentence("k", FloodSource.SIGNAL, WINDOW)
    assert window_sentence("k", FloodSource.HOST_TIMER, incomplete) == begin + "not every ns tried"
    sharp = replace(incomplete, sharp=True)
    assert window_sentence("k", FloodSource.HOST_TIMER, sharp) == (
        begin + "both edges to the ns, but not every ns inside tried"
    )


# --- one cell ---


def test_a_pass_says_how_much_it_means() -> None:
    assert cell_sentences(PASSED) == [
        "patched keeps the step contract: 18,208 steps, of which 12,606 count (4,552 entered in "
        "Active-pending, 11,976 interrupted)"
    ]


COVERED = replace(
    PASSED,
    cell=cell("patched", flood=SWEEP),
    l1_ticks=10,
    maps=(
        PlacementMap(MRS, 4732, (Span(852, 852, "ok", 1), Span(853, 4739, "ok", 3887))),
        PlacementMap(NOP, 3497, (Span(853, 3504, "ok", 2652),)),
    ),
    coverage=Coverage(Method.FULL, 1, tried=18_300, inside=11_999, missing=0, first_ns=853),
)


def covered(method: Method, placement: Placement, **coverage: int) -> CellResult:
    assert COVERED.coverage is not None
    return replace(
        COVERED,
        cell=cell("patched", flood=replace(SWEEP, placement=placement, step_ns=32, count=64)),
        coverage=replace(COVERED.coverage, method=method, **coverage),
    )


def test_a_full_grid_says_that_all_was_tried() -> None:
    (_, sentence) = cell_sentences(COVERED)
    assert sentence == (
        "patched: full grid: every ns of all step windows, from 853 ns after the entry into "
        "KVM_RUN on, for before that the timer is still being programmed: 6,540 distinct "
        "placements over 2 instructions; of 18,300 interrupts sent 11,999 came "
        "inside a step window; 10 interrupts were L1's own"
    )


@pytest.mark.parametrize(
    ("method", "placement", "says"),
    [
        (Method.GRID, Placement.SWEEP, "grid of 32 ns, resolution 1 ns"),
        (Method.GRID, Placement.PAIRS, "grid of 32 ns"),
        (Method.ADAPTIVE, Placement.ADAPTIVE, "a grid of 32 ns with 64 random placements between"),
        (Method.RANDOM, Placement.RANDOM, "random placements, resolution 1 ns"),
        (Method.RANDOM, Placement.BURST, "burst placements, resolution 1 ns"),
    ],
)
@pytest.mark.parametrize("missing", [0, 316])
def test_only_a_full_grid_says_so(
    method: Method, placement: Placement, says: str, missing: int
) -> None:
    sentences = coverage_sentences(covered(method, placement, missing=missing, untouched=1))
    assert says in sentences[0]
    words = {word.strip(",;:.").lower() for one in sentences for word in one.split()}
    assert not words & {"all", "every", "full", "complete", "completely"}


def test_what_was_left_out_is_said() -> None:
    some = covered(Method.GRID, Placement.SWEEP, missing=2_316, beyond_ns=316, untouched=1)
    assert coverage_sentences(some)[1] == (
        "patched: 2,316 ns of the step windows were left out, 316 of them after the last placement "
        "of their instruction; 1 instruction had no placement; a placement can reach a step from "
        "853 ns after the entry into KVM_RUN on"
    )


def test_without_placements_nothing_is_said_of_them() -> None:
    assert coverage_sentences(PASSED) == []
    assert coverage_sentences(replace(COVERED, verdict=CellVerdict.LOST)) == []


def test_a_window_says_more_than_a_count() -> None:
    spurious = Breakdown(NOP, SPURIOUS, broken=2, stepped=9)
    assert cell_sentences(replace(FAILED, breakdown=(AT_MRS, spurious))) == [
        window_sentence("unpatched", FloodSource.HOST_TIMER, WINDOW),
        breakdown_sentence("unpatched", spurious),
    ]


def test_without_a_window_each_instruction_is_counted() -> None:
    assert cell_sentences(replace(FAILED, windows=())) == [breakdown_sentence("unpatched", AT_MRS)]


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (HUNG, "unpatched: hang: no return from KVM_RUN within 200000000 ns"),
        (GONE, "unpatched: lost: QEMU died (signal 9); it printed nothing"),
        (
            replace(HUNG, verdict=CellVerdict.KERNEL_OOPS, reason="Kernel panic"),
            "unpatched: kernel-oops: Kernel panic",
        ),
        (
            replace(HUNG, verdict=CellVerdict.FAIL, reason="an exit that no job expects"),
            "unpatched: fail: an exit that no job expects",
        ),
    ],
)
def test_what_left_nothing_to_judge(result: CellResult, sentence: str) -> None:
    assert cell_sentences(result) == [sentence]


def test_a_kernel_s_warnings_are_told_beside_its_verdict() -> None:
    warned = replace(PASSED, warnings=("WARNING: CPU: 0 PID: 1 at arch/arm64/kvm/debug.c:1",))
    assert cell_sentences(warned)[1:] == [
        "patched warned: WARNING: CPU: 0 PID: 1 at arch/arm64/kvm/debug.c:1"
    ]


# --- expectations ---


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (PASSED, ""),
        (FAILED, ""),
        (
            UNFIXED,
            "unpatched.trapped_sysreg.vhe: fail, expected to pass: 468 lost-step in 17568 steps",
        ),
        (
            HUNG,
            "unpatched.trapped_sysreg.vhe: hang, expected to pass: "
            "no return from KVM_RUN within 200000000 ns",
        ),
        (
            GONE,
            "unpatched.trapped_sysreg.vhe: nothing was learnt: "
            "QEMU died (signal 9); it printed nothing",
        ),
        (
            replace(GONE, cell=cell(expected=Expectation.LOST_STEP)),
            "unpatched.trapped_sysreg.vhe: nothing was learnt: "
            "QEMU died (signal 9); it printed nothing",
        ),
        (
            replace(PASSED, cell=cell(expected=Expectation.LOST_STEP)),
            "unpatched.trapped_sysreg.vhe: the bug that must be seen here was not seen: expected "
            "lost-step, but all 18,208 steps were right; as long as unpatched does not show it, no "
            "other kernel's pass means anything",
        ),
        (
            replace(FAILED, cell=cell(expected=Expectation.WRONG_PC)),
            "unpatched.trapped_sysreg.vhe: expected wrong-pc, got 468 lost-step in 17568 steps",
        ),
        (
            replace(
                FAILED,
                cell=replace(cell(), expected=(Expectation.LOST_STEP, Expectation.SS_LEAK)),
            ),
            "unpatched.trapped_sysreg.vhe: expected lost-step and ss-leak, got 468 lost-step in "
            "17568 steps",
        ),
        (
            replace(HUNG, cell=cell(expected=Expectation.LOST_STEP), reason=""),
            "unpatched.trapped_sysreg.vhe: expected lost-step, got hang",
        ),
    ],
)
def test_why_a_cell_is_not_as_expected(result: CellResult, sentence: str) -> None:
    assert expectation_sentence(result) == sentence


# --- one finding, one pair ---


def test_a_finding_can_be_read_on_its_own() -> None:
    assert finding_lines(FINDING) == [
        "lost-step at report 9,273 of boot sweep-0 (pass 2,318, placement)",
        "  L2 stood at      0x5a5a0004  trapped_read: mrs x0, id_aa64pfr0_el1",
        "  then it ran      0x5a5a0004  trapped_read: mrs x0, id_aa64pfr0_el1",
        "  and also         0x5a5a0008  trapped_read+0x4: nop",
        "  reported         0x5a5a000c  trapped_read+0x8: mov x1, x0",
        "  due was          0x5a5a0008  trapped_read+0x4: nop",
        "  never reported   0x5a5a0008  trapped_read+0x4: nop",
        "  interrupt        3,158 ns after the entry into KVM_RUN "
        "(requested 3,518 ns after arming)",
    ]


def test_a_finding_says_what_is_not_known() -> None:
    unknown = replace(
        FINDING,
        kind=SPURIOUS,
        previous_pc=None,
        executed=(),
        missed=(),
        legal_pcs=(),
        delivered_ns=None,
        attributed_to="l1-tick",
    )
    assert finding_lines(unknown) == [
        "spurious-step at report 9,273 of boot sweep-0 (pass 2,318, l1-tick)",
        "  L2 stood at      nowhere that is known",
        "  reported         0x5a5a000c  trapped_read+0x8: mov x1, x0",
        "  due was          unknown",
    ]


def test_a_branch_has_two_legal_ways() -> None:
    (due,) = (
        line for line in finding_lines(replace(FINDING, legal_pcs=(MRS, NOP))) if "due" in line
    )
    assert due == (
        "  due was          0x5a5a0004  trapped_read: mrs x0, id_aa64pfr0_el1"
        " or 0x5a5a0008  trapped_read+0x4: nop"
    )


def test_both_kernels_pcs_stand_side_by_side() -> None:
    assert side_by_side_lines(ROWS, "unpatched", "patched-by-someone") == [
        f"{'':48} unpatched           patched-by-someone",
        f"{'  trapped_read: mrs x0, id_aa64pfr0_el1':48} 0x5a5a0004          0x5a5a0004",
        f"{'  trapped_read+0x4: nop':48} -                   0x5a5a0008",
        f"{'  trapped_read+0x8: mov x1, x0':48} 0x5a5a000c          0x5a5a000c",
    ]


def test_no_line_has_blanks_at_its_end() -> None:
    lines = side_by_side_lines(ROWS, "unpatched", "patched")
    assert [line for line in lines if line != line.rstrip()] == []


# --- the whole campaign ---


def campaign(
    *cells: CellResult, pairs: tuple[PairResult, ...] = (), complete: bool = True
) -> CampaignResult:
    return CampaignResult("quickstart", cells, pairs, complete)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (
            campaign(PASSED, FAILED, pairs=(FIXED,)),
            "Everything is as expected, the bugs that must be seen included.",
        ),
        (campaign(PASSED, UNFIXED, HUNG), "2 of 3 judged cells are not as expected."),
        (
            campaign(FAILED, PASSED, pairs=(replace(FIXED, outcome=PairOutcome.REGRESSED), FIXED)),
            "1 of 2 pairs regressed.",
        ),
        (
            campaign(PASSED, GONE),
            "1 of 2 cells were lost: nothing was learnt from them.",
        ),
        (
            campaign(PASSED, complete=False),
            "The run was cut off: these are the cells that had finished.",
        ),
        (
            campaign(UNFIXED, PASSED, GONE, complete=False),
            "1 of 2 judged cells are not as expected; 1 of 3 cells were lost: nothing was learnt "
            "from them; the run was cut off: these are the cells that had finished.",
        ),
        (
            campaign(PASSED, LEFT_OUT),
            "Everything is as expected, the bugs that must be seen included; 1 of 2 cells were "
            "skipped.",
        ),
        (
            campaign(PASSED, LEFT_OUT, UNFIXED),
            "1 of 2 judged cells are not as expected; 1 of 3 cells were skipped.",
        ),
        (campaign(LEFT_OUT), "Nothing was judged; 1 of 1 cells were skipped."),
    ],
)
def test_the_whole_in_one_sentence(result: CampaignResult, sentence: str) -> None:
    assert closing_sentence(result) == sentence


# --- on a terminal ---


def test_what_was_skipped_is_no_complaint() -> None:
    assert expectation_sentence(LEFT_OUT) == ""
    assert cell_sentences(LEFT_OUT) == ["witness: skipped: no such suite"]
    said = shown(campaign(PASSED, LEFT_OUT))
    assert "✗" not in said
    assert [line.split()[1::2][:3] for line in said.splitlines() if "skipped " in line] == [
        ["witness.trapped_sysreg.vhe", "skipped", "-"]
    ]


def shown(result: CampaignResult, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_result(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def test_a_terminal_says_what_each_kernel_was() -> None:
    words = "git 0f1a6c5c9784 (v6.1-rc3-12-g0f1a6c5c9784) + 2 patches"
    known = KernelIdentity("patched", "6.1.0", "0123456789abcdef0123", f"{words}\x1b[2J")
    unknown = KernelIdentity("unpatched", "6.0.0", "0123456789abcdef0124")
    text = shown(replace(campaign(PASSED), provenance=Provenance((known, unknown))))
    assert f"kernel patched: 6.1.0, {words}" in unwrapped(text)
    assert "kernel unpatched" not in text
    assert "\x1b[2J" not in text


def test_a_terminal_shows_cells_pairs_and_the_first_finding() -> None:
    text = shown(campaign(FAILED, PASSED, pairs=(FIXED,)))
    words = unwrapped(text)
    assert "quickstart: 2 cells" in words
    assert "trapped_sysreg.vhe: fixed (unpatched → patched)" in words
    for sentence in (*cell_sentences(FAILED), *cell_sentences(PASSED), *finding_lines(FINDING)):
        assert unwrapped(sentence) in words
    for line in side_by_side_lines(ROWS, "unpatched", "patched"):
        assert f"    {line}" in text.splitlines()
    assert words.endswith("Everything is as expected, the bugs that must be seen included.")


def test_a_terminal_shows_cells_that_are_in_no_pair() -> None:
    assert unwrapped(cell_sentences(PASSED)[0]) in unwrapped(shown(campaign(PASSED)))


def test_a_terminal_says_why_a_cell_is_not_as_expected() -> None:
    words = unwrapped(shown(campaign(UNFIXED, GONE)))
    for one in (UNFIXED, GONE):
        assert f"✗ {expectation_sentence(one)}" in words


MARKUP = ["[bold]", "[/]", "[/red]", "[red", "[link=x]", ":smile:"]


@pytest.mark.parametrize("odd", MARKUP)
def test_what_a_kernel_prints_is_no_markup(odd: str) -> None:
    gone = replace(
        GONE,
        cell=cell("broken"),
        reason=f"its last line: {odd} end",
        warnings=(f"WARNING: {odd} end",),
    )
    strange = replace(MRS, text=odd)
    finding = replace(FINDING, reported_pc=strange, boot=odd)
    failed = replace(
        FAILED, findings=(finding,), windows=(), breakdown=(Breakdown(strange, LOST, 1, 2),)
    )
    rows = SideBySide(((strange, True, False),))
    words = unwrapped(
        shown(campaign(gone, failed, PASSED, pairs=(replace(FIXED, side_by_side=rows),)))
    )
    assert f"✗ {gone.cell.id}: nothing was learnt: its last line: {odd} end" in words
    assert f"warned: WARNING: {odd} end" in words
    assert f"at trapped_read ({odd}) sometimes: 1 of 2" in words
    assert f"of boot {odd} (pass" in words
    assert f"reported 0x5a5a0004 trapped_read: {odd}" in words
    assert f"trapped_read: {odd} 0x5a5a0004 -" in words


@pytest.mark.parametrize("odd", MARKUP[:3])
def test_a_name_is_no_markup(odd: str) -> None:
    strange = replace(PASSED, cell=replace(PASSED.cell, id=f"k{odd}.hvc", kernel=f"k{odd}"))
    words = unwrapped(shown(replace(campaign(strange), name=f"c{odd}")))
    assert f"c{odd}: 1 cell" in words
    assert f"k{odd}.hvc" in words
    assert f"k{odd} keeps the step contract" in words


def test_a_wrong_register_in_full() -> None:
    assert finding_lines(LEAK) == [
        "ss-leak at report 9,273 of boot sweep-0 (pass 2,318, no-interrupt)",
        "  L2 stood at      0x5a5a0004  trapped_read: mrs x0, id_aa64pfr0_el1",
        "  stepping         on",
        "  PSTATE.SS        0x1",
        "  its own value    0x0, written before report 12",
    ]
    assert "  stepping         off" in finding_lines(replace(LEAK, stepping=False))


# --- sessions and witnesses ---

SESSION = replace(cell("patched"), driver=Driver.GDB, session="stepi_hvc")
TOLD = replace(
    FINDING,
    boot="session-1",
    report=3,
    pass_number=0,
    requested_ns=None,
    delivered_ns=None,
    attributed_to="stepi",
    message="stepi executed 2 instructions, and stopped at trapped_read+0x8",
    transcript=("(gdb) x/i $pc", "=> 0x5a5a0004", "(gdb) stepi", "0x5a5a000c in trapped_read ()"),
)


@pytest.mark.parametrize(
    ("steps", "commands"), [(0, "0 commands"), (1, "1 command"), (1234, "1,234 commands")]
)
def test_a_session_that_passed_counts_the_commands_that_ran_l2(steps: int, commands: str) -> None:
    result = CellResult(SESSION, CellVerdict.PASS, steps=steps)
    assert cell_sentences(result) == [
        f"patched: gdb's user was told the truth after each of {commands} that ran L2"
    ]


def test_a_session_that_failed_says_each_thing_that_was_not_so() -> None:
    other = replace(TOLD, message="continue ran over the breakpoint at function without stopping")
    result = CellResult(SESSION, CellVerdict.FAIL, steps=7, findings=(TOLD, other))
    assert cell_sentences(result) == [f"patched: {TOLD.message}", f"patched: {other.message}"]


def test_a_session_that_was_not_judged_says_why() -> None:
    result = CellResult(SESSION, CellVerdict.LOST, reason="gdb went away, after 7 stops")
    assert cell_sentences(result) == ["patched: lost: gdb went away, after 7 stops"]


def test_a_session_s_finding_shows_what_its_user_saw() -> None:
    lines = finding_lines(TOLD)
    assert lines[0] == "lost-step at report 3 of boot session-1 (pass 0, stepi)"
    assert lines[-5:] == [
        "  and gdb's user saw",
        "    (gdb) x/i $pc",
        "    => 0x5a5a0004",
        "    (gdb) stepi",
        "    0x5a5a000c in trapped_read ()",
    ]
    assert not any("interrupt" in line for line in lines)
    assert finding_lines(replace(TOLD, transcript=())) == lines[:-5]


SAME = "the same PC and PSTATE at each of"


@pytest.mark.parametrize(
    ("verdict", "witnessed", "on_the_way", "sentence"),
    [
        (CellVerdict.PASS, 1, 0, f"{SAME} 1 stop, and the truth says so, too"),
        (CellVerdict.PASS, 1234, 0, f"{SAME} 1,234 stops, and the truth says so, too"),
        (CellVerdict.FAIL, 270, 0, f"{SAME} 270 stops"),
        (
            CellVerdict.PASS,
            9,
            1,
            f"{SAME} 9 stops, and the truth says so, too; the monitor stopped 1 step on the way",
        ),
        (
            CellVerdict.FAIL,
            5000,
            1666,
            f"{SAME} 5,000 stops; the monitor stopped 1,666 steps on the way",
        ),
    ],
)
def test_a_witness_is_heard_but_only_the_truth_says_that_it_is_right(
    verdict: CellVerdict, witnessed: int, on_the_way: int, sentence: str
) -> None:
    result = CellResult(
        replace(cell(), driver=Driver.MONITOR),
        verdict,
        witnessed=witnessed,
        stopped_on_the_way=on_the_way,
        reason="3 lost-step in 9 steps",
    )
    assert cell_sentences(result)[1:] == [f"unpatched: gdbstub and monitor showed {sentence}"]


def test_without_a_witness_nothing_is_said_of_one() -> None:
    assert not any("gdbstub" in one for one in cell_sentences(PASSED))


def test_what_l1_took_is_said_only_where_somebody_counted() -> None:
    """A debugger's records have no /proc/interrupts."""
    sent = SourceCount(FloodSource.PPI, 1234, 5, 1230)
    result = CellResult(cell(), CellVerdict.PASS, sources=(sent,))
    (sentence,) = interrupt_sentences(result)
    assert sentence == "unpatched: interrupts sent/handled by L2: ppi 1,234/1,230"
    counted = replace(result, interrupts=(InterruptCount("arch_timer", 30, 4321),))
    assert interrupt_sentences(counted) == [f"{sentence}; L1 took arch_timer 4,321"]
