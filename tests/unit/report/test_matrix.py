"""The table of a campaign: scenario and order of exceptions, kernel by kernel."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.model import (
    SELFTEST_PAYLOAD,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    ExceptionOrder,
    Expectation,
    FloodSource,
    FloodSpec,
    Instruction,
    KvmMode,
    MachineSpec,
    Pending,
    Placement,
    ViolationKind,
    Window,
)
from qemu_diff.report.matrix import NOTHING, Entry, Matrix, Row, markdown, matrix

ASYNC_FIRST = MachineSpec(exception_order=ExceptionOrder.ASYNC_FIRST)
SWEEP = FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP)
READ = Instruction(0x5A5A_0004, "trapped_read", "mrs x0, id_aa64pfr0_el1")
LOST_STEP, SS_LEAK = ViolationKind.LOST_STEP, ViolationKind.SS_LEAK


def cell(
    kernel: str = "unpatched",
    payload: str = "hvc",
    *,
    machine: MachineSpec | None = None,
    flood: FloodSpec | None = None,
    job: str = "step",
    driver: Driver = Driver.IN_GUEST,
    expected: Expectation = Expectation.PASS,
) -> Cell:
    return Cell(
        id=f"{kernel}.{payload}",
        kernel=kernel,
        payload=payload,
        machine=machine or MachineSpec(),
        flood=flood or FloodSpec(),
        driver=driver,
        seed=1,
        expected=(expected,),
        job=job,
    )


def passed(of: Cell, steps: int = 1234) -> CellResult:
    return CellResult(of, CellVerdict.PASS, steps=steps)


def failed(of: Cell, *kinds: tuple[ViolationKind, int], **more: object) -> CellResult:
    done = CellResult(of, CellVerdict.FAIL, steps=5678, violations=kinds)
    return replace(done, **more)  # type: ignore[arg-type]


def table(*cells: CellResult) -> Matrix:
    return matrix(CampaignResult("c", cells, (), complete=True))


def only_entry(one: CellResult) -> Entry:
    (row,) = table(one).rows
    (entry,) = row.entries
    assert entry is not None
    return entry


def only_row(one: Cell) -> Row:
    (row,) = table(passed(one)).rows
    return row


# --- rows and columns ----------------------------------------------------------------------------


def test_kernels_are_columns_and_all_else_of_a_cell_makes_a_row() -> None:
    shown = table(
        passed(cell("unpatched", "hvc")),
        passed(cell("patched", "hvc")),
        passed(cell("unpatched", "mixed")),
        passed(cell("patched", "mixed")),
    )
    assert shown.kernels == ("unpatched", "patched")
    assert [(row.scenario, len(row.entries)) for row in shown.rows] == [("hvc", 2), ("mixed", 2)]


def test_rows_and_columns_come_in_the_order_of_the_cells() -> None:
    shown = table(
        passed(cell("b", "z")), passed(cell("a", "z")), passed(cell("b", "y")), passed(cell("a"))
    )
    assert shown.kernels == ("b", "a")
    assert [row.scenario for row in shown.rows] == ["z", "y", "hvc"]


def test_a_kernel_that_has_no_such_cell_leaves_a_hole() -> None:
    shown = table(passed(cell("witness", "hvc")), passed(cell("patched", "mixed")))
    witness, patched = ([row.entries[column] for row in shown.rows] for column in (0, 1))
    assert [entry is None for entry in witness] == [False, True]
    assert [entry is None for entry in patched] == [True, False]


def test_no_cells_no_rows() -> None:
    assert table() == Matrix((), ())


@pytest.mark.parametrize(
    ("one", "scenario"),
    [
        (cell(payload="mixed"), "mixed"),
        (cell(payload="mixed", job="kick"), "mixed · kick"),
        (cell(payload="mixed", flood=SWEEP), "mixed · host_timer sweep"),
        (
            cell(flood=FloodSpec((FloodSource.SIGNAL,), Placement.RANDOM, count=9), job="toggle"),
            "hvc · toggle · signal random",
        ),
    ],
)
def test_a_row_says_payload_job_and_flood(one: Cell, scenario: str) -> None:
    assert only_row(one).scenario.startswith(scenario)


def test_a_row_says_the_mode_and_a_cpu_that_is_not_the_default() -> None:
    assert only_row(cell()).machine == "vhe"
    assert only_row(cell(machine=MachineSpec(KvmMode.NVHE, "cortex-a57"))).machine == (
        "nvhe cortex-a57"
    )


@pytest.mark.parametrize(
    ("machine", "order"),
    [
        (MachineSpec(), "tcg"),
        (ASYNC_FIRST, "async_first"),
        (replace(ASYNC_FIRST, pending=Pending.SPURIOUS), "async_first spurious"),
        (replace(ASYNC_FIRST, pending=Pending.FLOOD), "async_first flood"),
        (replace(ASYNC_FIRST, redirects=2), "async_first K=2"),
        (
            replace(ASYNC_FIRST, pending=Pending.SPI, redirects=2, redirect_at=("a", "b")),
            "async_first spi K=2 at a,b",
        ),
    ],
)
def test_a_row_says_the_order_and_what_is_not_its_default(machine: MachineSpec, order: str) -> None:
    assert only_row(cell(machine=machine)).order == order


# --- entries -------------------------------------------------------------------------------------


def test_a_pass_says_how_much_was_stepped() -> None:
    assert only_entry(passed(cell(), 12_345)) == Entry(
        ("pass", "12,345 steps"), as_expected=True, id="unpatched.hvc"
    )


def test_a_failure_says_how_and_how_often() -> None:
    kinds = ((LOST_STEP, 1_000), (SS_LEAK, 7))
    entry = only_entry(failed(cell(), *kinds))
    assert entry.lines[0] == "lost-step, ss-leak"
    assert entry.lines[1].startswith("1,000 of 5,678, 7 reads")
    assert not entry.as_expected


def test_a_failure_says_which_step_was_the_first() -> None:
    broken = failed(cell(), (LOST_STEP, 3), first_broken_step=1_002)
    assert "first: 1,002" in only_entry(broken).lines[1]
    # Nothing but registers was wrong.
    assert "first" not in only_entry(failed(cell(), (SS_LEAK, 3))).lines[1]


def test_a_sweep_says_where_its_widest_window_is() -> None:
    windows = (
        Window(READ, LOST_STEP, 10, 12, placements=3, complete=True),
        Window(READ, LOST_STEP, 3_158, 3_623, placements=466, complete=True),
        Window(READ, LOST_STEP, 5_000, 5_001, placements=2, complete=True),
    )
    swept = failed(cell(flood=SWEEP), (LOST_STEP, 471), windows=windows)
    assert only_entry(swept).lines[2:] == ("3,158 to 3,623 ns",)


def test_the_failure_that_is_expected_is_as_expected() -> None:
    assert only_entry(failed(cell(expected=Expectation.LOST_STEP), (LOST_STEP, 1))).as_expected
    assert not only_entry(passed(cell(expected=Expectation.LOST_STEP))).as_expected


@pytest.mark.parametrize(
    "verdict",
    [CellVerdict.SKIPPED, CellVerdict.LOST, CellVerdict.HANG, CellVerdict.KERNEL_OOPS],
)
@pytest.mark.parametrize("driver", Driver)
def test_what_was_not_stepped_to_the_end_has_no_numbers(
    verdict: CellVerdict, driver: Driver
) -> None:
    entry = only_entry(CellResult(cell(driver=driver), verdict, reason="why"))
    assert entry.lines[0] == verdict.value
    assert not any("steps" in line for line in entry.lines)
    assert not entry.as_expected


def test_an_exit_that_no_job_expects_is_a_failure_without_kinds() -> None:
    entry = only_entry(CellResult(cell(), CellVerdict.FAIL, reason="exit 17"))
    assert entry.lines[0] == "fail"
    assert not entry.as_expected


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (CellVerdict.PASS, "500 iterations were right after 120 ms of virtual time"),
        (CellVerdict.FAIL, "Unexpected pc 0x400a64 (expected 0x400a54)"),
    ],
)
def test_a_peer_is_quoted(verdict: CellVerdict, reason: str) -> None:
    expected = Expectation.FAIL if verdict is CellVerdict.FAIL else Expectation.PASS
    peer = cell(payload=SELFTEST_PAYLOAD, driver=Driver.SELFTEST, expected=expected)
    assert only_entry(CellResult(peer, verdict, reason=reason)) == Entry(
        (verdict.value, reason), as_expected=True, id=peer.id
    )


# --- Markdown ------------------------------------------------------------------------------------


def test_markdown_is_one_table() -> None:
    shown = table(
        failed(cell("unpatched", machine=ASYNC_FIRST), (LOST_STEP, 2)),
        passed(cell("patched", machine=ASYNC_FIRST), 30),
        passed(cell("patched", "mixed"), 40),
    )
    assert markdown(shown).splitlines() == [
        "| scenario | machine | order | unpatched | patched |",
        "| --- | --- | --- | --- | --- |",
        "| hvc | vhe | `async_first` | **lost-step** ✗<br>2 of 5,678 | **pass**<br>30 steps |",
        f"| mixed | vhe | `tcg` | {NOTHING} | **pass**<br>40 steps |",
    ]
    assert markdown(shown).endswith("|\n")


def test_markdown_marks_what_is_not_expected() -> None:
    lost = CellResult(cell("unpatched"), CellVerdict.LOST)
    control = failed(cell("patched", expected=Expectation.LOST_STEP), (LOST_STEP, 2))
    (*_, line) = markdown(table(lost, control)).splitlines()
    assert "| **lost** ✗ |" in line
    assert "| **lost-step**<br>" in line


# --- any campaign --------------------------------------------------------------------------------

machines = st.builds(
    MachineSpec,
    kvm_mode=st.sampled_from(KvmMode),
    cpu=st.sampled_from(["max", "cortex-a57"]),
) | st.builds(
    MachineSpec,
    kvm_mode=st.sampled_from(KvmMode),
    exception_order=st.just(ExceptionOrder.ASYNC_FIRST),
    pending=st.sampled_from(Pending),
    redirects=st.integers(1, 2),
    redirect_at=st.sampled_from([(), ("a",), ("a", "b")]),
)
floods = st.builds(FloodSpec) | st.builds(
    FloodSpec,
    st.sampled_from([(FloodSource.HOST_TIMER,), (FloodSource.SIGNAL,)]),
    st.sampled_from([Placement.SWEEP, Placement.RANDOM]),
)
cells = st.builds(
    cell,
    kernel=st.sampled_from(["unpatched", "v1", "patched"]),
    payload=st.sampled_from(["hvc", "mixed", SELFTEST_PAYLOAD]),
    machine=machines,
    flood=floods,
    job=st.sampled_from(["step", "kick"]),
)
results = st.builds(
    CellResult,
    cells,
    st.sampled_from(CellVerdict),
    steps=st.integers(0, 10**6),
    violations=st.sampled_from([(), ((LOST_STEP, 1),), ((LOST_STEP, 1), (SS_LEAK, 2))]),
)


def every_cell_shows_once(drawn: list[CellResult]) -> None:
    shown = table(*drawn)
    assert sorted(shown.kernels) == sorted({one.cell.kernel for one in drawn})
    assert {len(row.entries) for row in shown.rows} <= {len(shown.kernels)}
    entries = [entry for row in shown.rows for entry in row.entries if entry is not None]
    assert Counter(entries) == Counter(only_entry(one) for one in drawn)
    lines = markdown(shown).splitlines()
    assert len(lines) == 2 + len(shown.rows)
    unescaped = [line.replace("\\|", "") for line in lines]
    assert {line.count(" | ") for line in unescaped} == {2 + len(shown.kernels)}


# Time says nothing here: kernels may be building beside the tests.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(results, max_size=20, unique_by=lambda one: one.cell))
def test_whatever_the_cells_the_table_is_rectangular_and_shows_each_once(
    drawn: list[CellResult],
) -> None:
    every_cell_shows_once(drawn)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (cell(flood=FloodSpec(count=1)), cell(flood=FloodSpec(count=50))),
        (cell(flood=SWEEP), cell(flood=replace(SWEEP, step_ns=16))),
        (cell(flood=SWEEP), cell(flood=replace(SWEEP, first_ns=1200, last_ns=5000))),
        (cell(), cell(machine=MachineSpec(memory_mib=512))),
    ],
    ids=["count", "step", "interval", "memory"],
)
def test_cells_that_differ_in_little_are_two_rows(first: Cell, second: Cell) -> None:
    every_cell_shows_once([passed(first, 1), passed(second, 2)])


def test_what_a_peer_says_does_not_break_the_table() -> None:
    peer = cell(payload=SELFTEST_PAYLOAD, driver=Driver.SELFTEST)
    said = "errno=4 | Interrupted system call"
    every_cell_shows_once([CellResult(peer, CellVerdict.FAIL, reason=said)])


def test_what_a_peer_says_is_no_markup() -> None:
    peer = cell(payload=SELFTEST_PAYLOAD, driver=Driver.SELFTEST)
    said = "<img src=x onerror=alert(1)> [a](http://b) **c**"
    text = markdown(table(CellResult(peer, CellVerdict.FAIL, reason=said)))
    assert r"\<img src=x onerror=alert(1)\> \[a\](http://b) \*\*c\*\*" in text
