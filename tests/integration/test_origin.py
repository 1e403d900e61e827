"""The bug's own mail thread on real kernels: cells of configs/origin.toml, and the mutants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from integration.cli_run import ROOT, CliRun, run_campaign
from integration.conftest import WriteCampaign

from qemu_diff.config import load_campaign
from qemu_diff.kernels import build_kernel
from qemu_diff.model import Build, CellResult, CellVerdict, ViolationKind
from qemu_diff.report.results import read_results

pytestmark = pytest.mark.integration

ORIGIN, MUTANTS = (ROOT / "configs" / f"{name}.toml" for name in ("origin", "mutants"))
LOST, SPURIOUS = ViolationKind.LOST_STEP, ViolationKind.SPURIOUS_STEP
SS_LEAK, MISMATCH = ViolationKind.SS_LEAK, ViolationKind.STATE_MISMATCH

CAUGHT = {
    "skip-instr": {LOST},
    "flag-stuck": {SPURIOUS},
    "edge-twice": {ViolationKind.SPURIOUS_INTERRUPT},
    "lpi-dropped": {ViolationKind.LOST_INTERRUPT},
    "mmio-again": {ViolationKind.WRONG_PC},
}
"""One mutant of each kind; each of the others would be a kernel more to build."""

RunCells = Callable[[str], CliRun]
Cells = dict[str, CellResult]


@pytest.fixture(scope="module")
def variants(builds: dict[str, Build]) -> dict[str, Build]:
    """The kernels that are built of both campaigns, so that no cell has to wait for one."""
    mutants = [one for one in load_campaign(MUTANTS).kernels if one.name in CAUGHT]
    specs = (*load_campaign(ORIGIN).kernels, *mutants)
    others = {one.name: one for one in specs if one.name not in builds and not one.optional}
    return {**builds, **{name: build_kernel(spec) for name, spec in others.items()}}


@pytest.fixture(scope="module")
def run_cells(variants: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> RunCells:
    """Runs the cells of configs/origin.toml that a glob means; all must come out as expected."""
    assert {"unpatched", "v1", "patched"} <= variants.keys()

    def run(only: str) -> CliRun:
        results = tmp_path_factory.mktemp("origin") / "results"
        done = run_campaign(ORIGIN, results, "--only", only)
        assert done.status == 0, unexpected(done)
        return done

    return run


def unexpected(run: CliRun) -> list[str]:
    cells = read_results(run.results).cells
    return [f"{one.cell.id}: {one.verdict} {one.reason}" for one in cells if not one.as_expected]


def cells_of(run: CliRun) -> Cells:
    return {one.cell.id: one for one in read_results(run.results).cells}


def kinds(cell: CellResult) -> set[ViolationKind]:
    return {kind for kind, number in cell.violations if number}


def labels(cell: CellResult, kind: ViolationKind) -> set[str]:
    """Where steps were broken that way."""
    return {one.instruction.label for one in cell.breakdown if one.kind is kind}


def always(cell: CellResult) -> bool:
    """Whether each instruction whose step was ever broken had it broken every time."""
    return all(one.broken == one.stepped for one in cell.breakdown)


def outcomes(run: CliRun) -> set[str]:
    return {pair["outcome"] for pair in run.verdicts["pairs"]}


# --- async_first: the interrupt beats the Software Step exception --------------------------------

PLAIN = "[up]*.straightline.*.job-shifted.quiet.x10.async_first-s*[is]"
"""On unpatched and patched, in both modes: an SGI, or nothing, at each instruction."""


@pytest.fixture(scope="module")
def plain(run_cells: RunCells) -> CliRun:
    return run_cells(PLAIN)


@pytest.mark.parametrize("machine", ["vhe", "nvhe"])
def test_every_plain_instruction_loses_its_step(plain: CliRun, machine: str) -> None:
    """The thread's own scenario; and the merged fix loses none."""
    cells = cells_of(plain)
    at = f"straightline.{machine}.job-shifted.quiet.x10.async_first-sgi"
    unpatched, patched = cells[f"unpatched.{at}"], cells[f"patched.{at}"]

    assert unpatched.count(LOST) == unpatched.steps == unpatched.redirects > 100
    assert always(unpatched)
    for finding in unpatched.findings:
        _, second = finding.executed
        assert finding.missed == (second,)
        assert second.address in {one.address for one in finding.legal_pcs}
        assert finding.attributed_to == "redirect"
    assert patched.verdict is CellVerdict.PASS
    assert patched.steps == patched.redirects == patched.active_pending_entries
    # Two instructions for each report: half as many, or one more from an odd number of them.
    assert patched.steps // 2 <= unpatched.steps <= patched.steps // 2 + 10


@pytest.mark.parametrize("kernel", ["unpatched", "patched"])
def test_what_is_pending_makes_no_difference(plain: CliRun, kernel: str) -> None:
    cells = cells_of(plain)
    at = f"{kernel}.straightline.vhe.job-shifted.quiet.x10.async_first"
    sgi, spurious = cells[f"{at}-sgi"], cells[f"{at}-spurious"]
    for name in ("verdict", "steps", "redirects", "violations", "breakdown"):
        assert getattr(sgi, name) == getattr(spurious, name), name


def test_the_same_cells_again_are_byte_identical(plain: CliRun, run_cells: RunCells) -> None:
    """What a debugger does at L2's entry, and what is written over the vector, costs no bit."""
    again = run_cells(PLAIN)
    names = ("records.bin", "truth.bin", "timer.log", "job")
    first, second = plain.results / "cells", again.results / "cells"
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.name in names)
    assert len(files) == len(names) * len(plain.verdicts["cells"]) == len(names) * 6
    for path in files:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def test_right_pcs_hide_lost_steps_of_branches_to_themselves(run_cells: RunCells) -> None:
    cells = cells_of(run_cells("[up]*.self_branch.vhe.*.async_first-sgi"))
    unpatched, patched = cells.values()

    assert patched.verdict is CellVerdict.PASS
    branches = {"unconditional", "conditional"}
    assert branches <= labels(unpatched, LOST)
    assert always(unpatched)
    hidden = [one for one in unpatched.findings if one.instruction.label in branches]
    assert {one.instruction.label for one in hidden} == branches
    for finding in hidden:
        # A debugger can't see anything: the truth has two executions.
        assert finding.reported_pc in finding.legal_pcs
        assert finding.executed == (finding.reported_pc, finding.reported_pc)


def test_a_device_s_interrupt_at_a_chosen_instruction(run_cells: RunCells) -> None:
    cells = cells_of(run_cells("[up]*.trapped_sysreg.vhe.quiet.x3.async_first-?p?.at-*"))
    assert {one.cell.machine.pending for one in cells.values()} == {"spi", "ppi"}
    for cell in cells.values():
        passes = cell.cell.flood.count
        assert cell.redirects == passes
        if cell.cell.kernel == "unpatched":
            assert labels(cell, LOST) == {"trapped_read"}
            assert cell.count(LOST) == passes
        else:
            assert cell.verdict is CellVerdict.PASS


# --- the first version of the fix ----------------------------------------------------------------


def test_v1_takes_user_space_s_ss_for_its_own(run_cells: RunCells) -> None:
    """The review's case: after a signal in Active-pending, PSTATE.SS = 1 is written."""
    done = run_cells("[pv]*.hvc.vhe.job-eintr-ss-set.signal-sweep.1200-6000-120")
    v1, patched = cells_of(done).values()
    assert kinds(v1) == {LOST, SS_LEAK}
    assert labels(v1, LOST) == {"first_hvc", "second_hvc"}
    assert patched.verdict is CellVerdict.PASS
    assert outcomes(done) == {"fixed"}


def test_v1_leaves_its_own_ss_to_a_guest_that_steps_itself(run_cells: RunCells) -> None:
    done = run_cells("[pv]*.own_stepping.vhe.job-own-stepping.quiet.x5")
    v1, patched = cells_of(done).values()
    assert kinds(v1) == {MISMATCH}
    # One exception of the guest's too many, for it did not follow exactly one instruction.
    assert {(one.register, one.own_value, one.read_value) for one in v1.findings} == {
        ("X20", 6, 7),
        ("X22", 0, 1),
    }
    assert patched.verdict is CellVerdict.PASS
    assert outcomes(done) == {"fixed"}


# --- what is found on the merged fix -------------------------------------------------------------


def test_a_kick_costs_a_step_over_mmio(run_cells: RunCells) -> None:
    """docs/findings/0001: on both orders, whenever user space completes an exit by itself."""
    cells = cells_of(run_cells("patched.mixed.vhe.job-kick.quiet.x10*"))
    assert {one.cell.machine.exception_order for one in cells.values()} == {"tcg", "async_first"}
    for cell in cells.values():
        assert kinds(cell) == {LOST}
        assert labels(cell, LOST) == {"device_write", "device_read"}
        assert always(cell)


def test_a_spent_step_outlives_what_should_end_it(run_cells: RunCells) -> None:
    """docs/findings/0002 and 0003: a step is reported, and nothing ran."""
    cells = cells_of(run_cells("patched.hvc.vhe.job-[ei]n*-eintr.signal-sweep.1200-6000-120"))
    enable_only, init = cells.values()
    assert (enable_only.cell.job, init.cell.job) == ("enable-only-eintr", "init-eintr")
    for cell in (enable_only, init):
        assert kinds(cell) == {SPURIOUS}
        assert not any(finding.executed for finding in cell.findings)
    # A reset vCPU begins at its entry again, and there it is reported at once.
    assert labels(init, SPURIOUS) == {"entry"}


# --- the mutants ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("variants")
def test_each_mutant_is_caught_and_named(tmp_path: Path) -> None:
    only = [argument for name in (*CAUGHT, "patched") for argument in ("--only", f"{name}.*")]
    done = run_campaign(MUTANTS, tmp_path / "out", *only)
    assert done.status == 0, unexpected(done)
    cells = cells_of(done).values()
    ours = [one for one in cells if one.cell.driver == "in_guest"]
    found = {(one.cell.kernel, kind) for one in ours for kind in kinds(one)}
    assert found == {(name, kind) for name, caught in CAUGHT.items() for kind in caught}
    assert {one.verdict for one in cells if one.cell.kernel == "patched"} == {CellVerdict.PASS}
    assert outcomes(done) == {"same", "fixed"}


# --- kernels that no cell asks for ---------------------------------------------------------------


def test_only_the_kernels_of_the_chosen_cells_are_had(plain: CliRun) -> None:
    """origin.toml's witness is an image that would have to be fetched."""
    named = [one["name"] for one in plain.verdicts["provenance"]["kernels"]]
    assert named == ["unpatched", "patched"]


def test_a_kernel_without_a_cell_may_be_whatever_it_is(
    campaign_of: WriteCampaign, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    body = (
        '[kernels.no-kernel]\nsource = { tree = "empty" }\n'
        '[kernels.nowhere]\nsource = { debian = "linux-source-6.1", suite = "no-such-suite" }\n'
        '[[scenario]]\npayload = "hvc"\n'
    )
    campaign = campaign_of({"good": "patched"}, body)
    assert run_campaign(campaign, tmp_path / "all").status == 2
    done = run_campaign(campaign, tmp_path / "out", "--only", "good.*")
    assert done.status == 0, done.said
