"""What was sent to L2 and what it handled: each boot's counts, and several boots' as one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import BASE, NOP, Stream, debug, executes, payload_of, phantom, sync, tables_of

from qemu_diff.abi import FROM_IPI, STEP_RECORD, RecordKind, StepRecords, TimerKind
from qemu_diff.compare.interrupts import (
    NOTHING_DELIVERED,
    SGI,
    Delivered,
    delivered,
    join_delivered,
)
from qemu_diff.compare.slices import executions, group_slices, slice_truth
from qemu_diff.model import Excursions, GuestInterrupts, InterruptCount, Payload, SourceCount

WORDS = (NOP,) * 8
HANDLER = BASE + 0x10, BASE + 0x18
VECTORS = BASE + 0x1000
QUIET = payload_of(WORDS)
INTERRUPTED = replace(QUIET, interrupts=GuestInterrupts(BASE, HANDLER, VECTORS, BASE + 0x2000))


def record(kind: RecordKind, *detail: int) -> StepRecords:
    one = np.zeros(1, STEP_RECORD)
    one["kind"] = kind
    one["detail"][0, : len(detail)] = detail
    return one


def source(kind: TimerKind, sent: int, held_back: int, handled: int) -> StepRecords:
    return record(RecordKind.SOURCE, kind, sent, held_back, handled)


def line(number: int, count: int, name: str) -> StepRecords:
    text = name.encode().ljust(16, b"\0")
    return record(RecordKind.INTERRUPT, number, count, *np.frombuffer(text, "<u8").tolist())


def told(*rows: StepRecords, stream: Stream | None = None, payload: Payload = QUIET) -> Delivered:
    stream = stream or Stream()
    records = np.concatenate([stream.records, *rows])
    program = tables_of(WORDS, None, payload.interrupts and payload.interrupts.vectors)
    slices = slice_truth(records, stream.truth, group_slices(records))
    done = executions(stream.truth, stream.phantom, slices, program)
    return delivered(records, done, payload, program)


# --- one boot ---


def test_a_boot_without_records_of_interrupts_has_none() -> None:
    assert told() == NOTHING_DELIVERED
    assert (NOTHING_DELIVERED.lost, NOTHING_DELIVERED.unsent) == (0, 0)


@pytest.mark.parametrize("kind", TimerKind)
def test_a_source_is_held_against_l2_s_count_if_l2_hears_of_it(kind: TimerKind) -> None:
    found = told(source(kind, 7, 2, 4))
    handled = 4 if kind.into_guest else None
    name = "host_timer" if kind is TimerKind.INTERRUPT else kind.name.lower()
    assert found.sources == (SourceCount(name, 7, 2, handled),)
    assert (found.lost, found.unsent) == (3 if kind.into_guest else 0, 0)


@pytest.mark.parametrize(
    ("sent", "handled", "lost", "unsent"), [(5, 5, 0, 0), (5, 3, 2, 0), (3, 5, 0, 2), (0, 0, 0, 0)]
)
def test_lost_and_unsent(sent: int, handled: int, lost: int, unsent: int) -> None:
    found = told(source(TimerKind.PPI, sent, 0, handled))
    assert (found.lost, found.unsent) == (lost, unsent)


def test_one_source_s_excess_makes_up_for_no_other_s_loss() -> None:
    found = told(source(TimerKind.PPI, 5, 0, 3), source(TimerKind.LPI, 3, 0, 5))
    assert (found.lost, found.unsent) == (2, 2)


def test_what_is_held_back_is_not_lost() -> None:
    assert told(source(TimerKind.LPI, 3, 9, 3)).lost == 0


def test_l2_s_own_interrupts_come_last_if_there_were_any() -> None:
    found = told(source(TimerKind.PPI, 1, 0, 1), record(RecordKind.GUEST, 4, 3, 2, 1))
    assert [one.source for one in found.sources] == ["ppi", SGI]
    assert found.sources[-1] == SourceCount(SGI, 4, 0, 3)
    assert (found.lost, found.spurious, found.unsent) == (1, 2, 2)
    assert told(record(RecordKind.GUEST, 0, 0, 2, 1)).sources == ()


def test_l1_s_interrupts_have_names_and_ipis_numbers_of_their_own() -> None:
    found = told(line(27, 1234, "arch_timer"), line(FROM_IPI + 1, 5, "Function call in"))
    assert found.l1 == (
        InterruptCount("arch_timer", 27, 1234),
        InterruptCount("Function call in", 1, 5),
    )


# --- excursions ---


def steps_to(*pcs: int) -> Stream:
    """One pass whose reports are at these PCs."""
    stream = Stream().step_on().note(RecordKind.PASS).set_pc(pcs[0])
    for pc, following in pairwise(pcs):
        stream.run(executes(pc), sync(), debug(following))
    return stream


@pytest.mark.parametrize(
    ("last", "unfinished"),
    [
        (BASE + 8, 0),
        (HANDLER[0] - 4, 0),
        (HANDLER[0], 1),
        (HANDLER[1] - 4, 1),
        (HANDLER[1], 0),
        (VECTORS + 0x280, 1),
        (VECTORS + 0x480, 1),
        (VECTORS + 0x284, 0),
    ],
)
def test_a_pass_that_ends_in_the_handler_is_unfinished(last: int, unfinished: int) -> None:
    found = told(stream=steps_to(BASE, last), payload=INTERRUPTED).excursions
    assert (found.passes, found.unfinished) == (1, unfinished)


def test_the_handler_runs_as_often_as_its_first_instruction() -> None:
    begin = HANDLER[0]
    stream = steps_to(BASE, begin, begin + 4, begin, begin + 4, BASE + 4)
    stream.run(phantom(begin), sync(), debug(begin))
    found = told(record(RecordKind.GUEST, 0, 0, 0, 1), stream=stream, payload=INTERRUPTED)
    assert found.excursions == Excursions(handled=2, nested=1, passes=1, unfinished=1)


def test_what_is_not_stepped_ends_no_pass() -> None:
    stream = steps_to(BASE, HANDLER[0]).step_off()
    stream.run(executes(HANDLER[0]), sync(), debug(BASE + 4))
    found = told(stream=stream, payload=INTERRUPTED).excursions
    assert (found.handled, found.passes, found.unfinished) == (1, 1, 1)


def test_a_payload_without_a_handler_has_no_excursions() -> None:
    found = told(record(RecordKind.GUEST, 0, 0, 0, 1), stream=steps_to(BASE, HANDLER[0]))
    assert found.excursions == Excursions(0, 0, 0, 0)


# --- several boots ---

counts = st.integers(0, 1000)
kinds = st.sampled_from([*TimerKind])


@st.composite
def boots(draw: st.DrawFn) -> Delivered:
    """Of one cell: each kind once at most, as the step VMM writes them."""
    chosen = sorted(draw(st.sets(kinds)))
    rows = [source(kind, draw(counts), draw(counts), draw(counts)) for kind in chosen]
    if draw(st.booleans()):
        rows.append(record(RecordKind.GUEST, *(draw(counts) for _ in range(4))))
    names = draw(st.dictionaries(st.tuples(st.integers(0, 40), st.sampled_from("ab")), counts))
    rows += [line(number, count, name) for (number, name), count in names.items()]
    return told(*rows, payload=INTERRUPTED) if rows else NOTHING_DELIVERED


@settings(deadline=None)
@given(st.lists(boots(), max_size=5))
def test_lost_and_unsent_are_never_negative_and_no_boot_makes_up_for_another(
    parts: list[Delivered],
) -> None:
    whole = join_delivered(parts)
    assert all(part.lost >= 0 and part.unsent >= part.spurious >= 0 for part in parts)
    assert whole.lost == sum(part.lost for part in parts)
    assert whole.unsent == sum(part.unsent for part in parts)


@settings(deadline=None)
@given(st.lists(boots(), max_size=5))
def test_several_boots_are_their_sums(parts: list[Delivered]) -> None:
    whole = join_delivered(parts)
    for name in {one.source for part in parts for one in part.sources}:
        of_boots = [one for part in parts for one in part.sources if one.source == name]
        (joined,) = [one for one in whole.sources if one.source == name]
        assert joined.sent == sum(one.sent for one in of_boots)
        assert joined.held_back == sum(one.held_back for one in of_boots)
        if joined.handled is None:
            assert {one.handled for one in of_boots} == {None}
        else:
            assert joined.handled == sum(one.handled or 0 for one in of_boots)
    assert sum(one.count for one in whole.l1) == sum(one.count for part in parts for one in part.l1)
    assert whole.excursions.nested == sum(part.excursions.nested for part in parts)
    assert whole.spurious == sum(part.spurious for part in parts)


@settings(deadline=None)
@given(boots(), boots(), boots())
def test_joining_is_associative_and_nothing_changes_nothing(
    one: Delivered, two: Delivered, three: Delivered
) -> None:
    left = join_delivered([join_delivered([one, two]), three])
    assert left == join_delivered([one, join_delivered([two, three])])
    assert left == join_delivered([one, two, three])
    assert join_delivered([one, NOTHING_DELIVERED]) == join_delivered([one]) == one
    assert join_delivered([NOTHING_DELIVERED, one]) == one


@settings(deadline=None)
@given(st.permutations([TimerKind.SPI_EDGE, TimerKind.PPI, TimerKind.SIGNAL]))
def test_sources_keep_their_order_whichever_boot_had_them_first(order: list[TimerKind]) -> None:
    sgis = record(RecordKind.GUEST, 1, 1, 0, 0)
    whole = join_delivered(told(source(kind, 1, 0, 1), sgis) for kind in order)
    assert [one.source for one in whole.sources] == ["signal", "spi_edge", "ppi", SGI]
