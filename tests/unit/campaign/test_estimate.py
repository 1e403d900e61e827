"""How long it will take: a cell's own past first, then that of cells with the same work; and what
is best begun first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.campaign.estimate import estimate, longest_first
from qemu_diff.campaign.ledger import PastDuration, workload
from qemu_diff.model import Cell, Driver, Expectation, FloodSpec, MachineSpec, Placement
from qemu_diff.report.history import estimate_sentence

from .past import cell

A, B, C = cell("a"), cell("b"), cell("c")


def took(name: str, *seconds: float) -> list[PastDuration]:
    one = cell(name)
    return [PastDuration(one.id, workload(one), each) for each in seconds]


def test_a_cell_takes_the_median_of_its_past() -> None:
    assert estimate([A], took("a", 2.0, 900.0, 3.0), 1).cells == {"k.a": 3.0}


def test_a_new_cell_takes_what_the_same_work_took() -> None:
    new = replace(A, id="other.a", kernel="other", machine=MachineSpec(cpu="cortex-a57"))
    assert estimate([new], took("a", 2.0, 4.0), 1).cells == {"other.a": 3.0}
    assert estimate([new, A], [*took("a", 2.0), *took("b", 9.0)], 1).unknown == 0


@pytest.mark.parametrize(
    "other",
    [
        replace(A, payload="x"),
        replace(A, job="x"),
        replace(A, session="x"),
        replace(A, driver=Driver.RSP),
        replace(A, flood=FloodSpec(count=2)),
    ],
)
def test_other_work_tells_nothing(other: object) -> None:
    new = replace(other, id="new")  # type: ignore[type-var]
    assert estimate([new], took("a", 2.0), 1).unknown == 1


def test_what_is_expected_makes_no_work() -> None:
    assert workload(replace(A, expected=(Expectation.HANG,), seed=9)) == workload(A)


def test_side_by_side() -> None:
    past = [*took("a", 10.0), *took("b", 20.0), *took("c", 30.0)]
    assert estimate([A, B, C], past, 1).duration_s == 60.0
    assert estimate([A, B, C], past, 2).duration_s == 30.0
    assert estimate([A, B, C], past, 64).duration_s == 30.0  # of the longest
    assert estimate([], past, 2).duration_s == 0.0


def test_what_is_excluded_takes_no_time() -> None:
    found = estimate([A, replace(B, excluded="slow")], took("a", 10.0), 1)
    assert (found.cells, found.unknown) == ({"k.a": 10.0}, 0)


@pytest.mark.parametrize(
    ("past", "sentence"),
    [
        ([], "No past run tells how long 3 cells will take"),
        (took("a", 40.0), "About 40 s with 1 boot at once, as past runs tell; 2 of 3 cells have "
         "no past"),
        (
            [*took("a", 400.0), *took("b", 400.0), *took("c", 400.0)],
            "About 20 min with 1 boot at once, as past runs tell",
        ),
        (
            [*took("a", 4000.0), *took("b", 4000.0), *took("c", 1000.0)],
            "About 2.5 h with 1 boot at once, as past runs tell",
        ),
    ],
)  # fmt: skip
def test_the_sentence(past: list[PastDuration], sentence: str) -> None:
    assert estimate_sentence(estimate([A, B, C], past, 1)) == sentence


# --- what begins first ---


def on(kernel: str, name: str) -> Cell:
    return replace(cell(name), id=f"{kernel}.{name}", kernel=kernel)


POINTS = [on(kernel, name) for name in ("a", "b", "c") for kernel in ("old", "new")]


def test_the_longest_point_begins_first_and_stays_together() -> None:
    expected_s = {"old.a": 1.0, "new.a": 2.0, "old.b": 0.5, "new.b": 9.0, "old.c": 3.0, "new.c": 3}
    found = [one.id for one in longest_first(POINTS, expected_s)]
    assert found == ["old.b", "new.b", "old.c", "new.c", "old.a", "new.a"]


def test_what_nothing_is_known_of_may_be_the_longest() -> None:
    expected_s = {"old.a": 1.0, "new.a": 2.0, "old.b": 0.5, "old.c": 3.0, "new.c": 3.0}
    assert [one.id for one in longest_first(POINTS, expected_s)][:2] == ["old.b", "new.b"]
    assert longest_first(POINTS, {}) == tuple(POINTS)


def test_where_no_past_tells_most_passes_come_first() -> None:
    floods = (
        FloodSpec(count=3),
        FloodSpec(placement=Placement.SWEEP, first_ns=100, last_ns=1100, step_ns=10),
        FloodSpec(placement=Placement.SWEEP, first_ns=1200),
        FloodSpec(count=50),
    )
    cells = [replace(cell(f"{number}"), flood=flood) for number, flood in enumerate(floods)]
    assert [one.payload for one in longest_first(cells, {})] == ["2", "1", "3", "0"]
    assert [one.payload for one in longest_first(cells, {"k.2": 9.0})] == ["1", "3", "0", "2"]


@given(st.dictionaries(st.sampled_from([one.id for one in POINTS]), st.floats(0, 1e6)))
def test_no_cell_is_lost_and_no_point_is_torn(expected_s: dict[str, float]) -> None:
    found = longest_first(POINTS, expected_s)
    assert sorted(one.id for one in found) == sorted(one.id for one in POINTS)
    assert all(old.payload == new.payload for old, new in zip(found[::2], found[1::2], strict=True))
