"""Going on: what stays, what is run again, and from what no run can go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qemu_diff.campaign.resume import check_resumable, new_start, resumed_start
from qemu_diff.errors import ResultsError
from qemu_diff.model import (
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Expectation,
    FloodSpec,
    MachineSpec,
    Signature,
    SignatureGroup,
    ViolationKind,
)
from qemu_diff.report.results import (
    CELLS,
    FINDINGS,
    VERDICTS,
    open_results,
    read_results,
    set_aside,
    write_results,
)

IDENTITIES = {"k.a": "1", "k.b": "2", "k.c": "3"}


def cell(name: str) -> Cell:
    return Cell(name, "k", "hvc", MachineSpec(), FloodSpec(), Driver.IN_GUEST, seed=1)


PLAN = tuple(map(cell, IDENTITIES))


def judged(name: str, verdict: CellVerdict = CellVerdict.PASS) -> CellResult:
    return CellResult(cell(name), verdict, identity=IDENTITIES[name])


def earlier(*results: CellResult) -> CampaignResult:
    return CampaignResult("c", results, (), False, run="r", started="2026-01-01T00:00:00Z")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in IDENTITIES:
        (tmp_path / CELLS / name).mkdir(parents=True)
    return tmp_path


def kept(directory: Path, *results: CellResult) -> set[str]:
    return {*resumed_start(earlier(*results), PLAN, (), IDENTITIES, directory).finished}


def test_what_was_judged_stays(directory: Path) -> None:
    verdicts = [CellVerdict.PASS, CellVerdict.FAIL, CellVerdict.HANG]
    results = map(judged, IDENTITIES, verdicts)
    assert kept(directory, *results) == set(IDENTITIES)


@pytest.mark.parametrize("verdict", [CellVerdict.LOST, CellVerdict.SKIPPED])
def test_what_was_not_is_run_again(directory: Path, verdict: CellVerdict) -> None:
    assert kept(directory, judged("k.a"), judged("k.b", verdict)) == {"k.a"}


def test_what_depends_on_something_new_is_run_again(directory: Path) -> None:
    assert kept(directory, judged("k.a"), replace(judged("k.b"), identity="0")) == {"k.a"}


def test_no_identity_is_none(directory: Path) -> None:
    """A kernel that is not there today has none; it is no match for results without one."""
    start = resumed_start(earlier(replace(judged("k.a"), identity="")), PLAN, (), {}, directory)
    assert not start.finished


def test_traces_that_are_gone_are_made_again(directory: Path) -> None:
    (directory / CELLS / "k.a").rmdir()
    assert kept(directory, judged("k.a"), judged("k.b")) == {"k.b"}


def test_findings_that_are_gone_are_made_again(directory: Path) -> None:
    group = SignatureGroup(
        Signature("step/tcg", "hvc", ViolationKind.LOST_STEP), 1, finding_id="k.a.lost-step"
    )
    found = replace(judged("k.a", CellVerdict.FAIL), signatures=(group,))
    assert kept(directory, found) == set()
    (directory / FINDINGS / "k.a.lost-step").mkdir(parents=True)
    assert kept(directory, found) == {"k.a"}


def test_today_s_expectations_hold(directory: Path) -> None:
    today = tuple(replace(one, expected=(Expectation.HANG,)) for one in PLAN)
    start = resumed_start(earlier(judged("k.a")), today, (), IDENTITIES, directory)
    assert start.finished["k.a"].cell.expected == (Expectation.HANG,)
    assert not start.finished["k.a"].as_expected


def test_the_run_stays_the_same(directory: Path) -> None:
    start = resumed_start(earlier(), PLAN, ("k.*",), IDENTITIES, directory)
    assert (start.run, start.started, start.only) == ("r", "2026-01-01T00:00:00Z", ("k.*",))
    assert new_start((), {}).run != new_start((), {}).run


def test_another_campaign_s_results_are_refused(directory: Path) -> None:
    with pytest.raises(ResultsError, match="results of campaign 'c', and this is 'd'"):
        check_resumable(earlier(), "d", PLAN, IDENTITIES, directory)


def test_measured_cells_are_not_left_out(directory: Path) -> None:
    results = earlier(judged("k.a"), judged("k.b"), judged("k.c", CellVerdict.LOST))
    check_resumable(results, "c", PLAN[:2], IDENTITIES, directory)
    with pytest.raises(ResultsError, match=r"k\.b, which --only leaves out"):
        check_resumable(results, "c", PLAN[:1], IDENTITIES, directory)
    # The campaign has no such cell any more: nobody can run it again.
    check_resumable(results, "c", PLAN[:1], {"k.a"}, directory)


# --- the directory ---


def test_what_a_cut_left_of_a_cell_goes(directory: Path) -> None:
    write_results(earlier(judged("k.a")), directory)
    (directory / CELLS / "k.b" / "run").mkdir()
    (directory / FINDINGS / ".scratch-x").mkdir(parents=True)
    with open_results(directory, resume=True):
        set_aside(directory, {"k.a"}, set(), keep=False)
    assert [one.name for one in (directory / CELLS).iterdir()] == ["k.a"]
    assert not list((directory / FINDINGS).iterdir())
    assert not directory.with_name(directory.name + ".previous").exists()
    assert read_results(directory) == earlier(judged("k.a"))


def test_what_was_judged_and_does_not_stay_is_kept_beside(directory: Path) -> None:
    results = earlier(judged("k.a"), judged("k.b"))
    write_results(results, directory)
    (directory / CELLS / "k.b" / "run").mkdir()
    set_aside(directory, {"k.a"}, set(), keep=True)
    previous = directory.with_name(directory.name + ".previous")
    assert read_results(previous) == results
    assert (previous / CELLS / "k.b" / "run").is_dir()
    assert (directory / VERDICTS).is_file()
    assert not (directory / CELLS / "k.b").exists()
