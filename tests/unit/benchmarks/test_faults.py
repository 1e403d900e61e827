"""What is kept of a walk over every point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.faults import Journal, Outcome
from faults.injection import Fault, Point

FAULT = Fault(Point("python write results/verdicts.json", 2))
OUTCOME = Outcome("SIGKILL", "verdicts", str(FAULT.point), fired=True, left=False, wrong=())


def test_a_walk_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).keep("run", OUTCOME)
    again = Journal(path)
    assert (again.earlier, again.of("run", FAULT)) == (1, OUTCOME)
    assert again.of("kernel", FAULT) is None
    assert again.of("run", replace(FAULT, error=28)) is None


def test_what_was_wrong_is_struck_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path)
    first.keep("run", OUTCOME)
    first.keep("run", replace(OUTCOME, wrong=("an orphan",)))
    assert first.of("run", FAULT) is None
    second = Journal(path)
    assert (second.earlier, second.of("run", FAULT)) == (0, None)
    second.keep("run", OUTCOME)
    assert Journal(path).of("run", FAULT) == OUTCOME


def test_nothing_need_be_kept() -> None:
    journal = Journal(None)
    journal.keep("run", OUTCOME)
    assert (journal.earlier, journal.of("run", FAULT)) == (0, OUTCOME)
