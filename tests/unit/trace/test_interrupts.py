"""Timer interrupts from QEMU's log of the generic timers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.errors import CorruptDataError, LostGuestError
from qemu_diff.guest.shared import seal_log, seal_of
from qemu_diff.trace.interrupts import deliveries, read_deliveries

VIRTUAL, HYP = 1, 2
"""Numbers of QEMU's generic timers (QEMU target/arm/gtimer.h)."""


def waits(timer: int, at: int) -> bytes:
    """The timer waits for a counter value."""
    return b"arm_gt_recalc gt recalc: timer %d irqstate 0 next tick 0x%x" % (timer, at)


def fires(timer: int) -> bytes:
    """The counter has reached it: there is no next tick."""
    return b"arm_gt_recalc gt recalc: timer %d irqstate 1 next tick 0x%x" % (timer, (1 << 64) - 1)


def masked(timer: int) -> bytes:
    """The same once the kernel has masked its interrupt."""
    return b"arm_gt_recalc gt recalc: timer %d irqstate 0 next tick 0x%x" % (timer, (1 << 64) - 1)


def off(timer: int) -> bytes:
    """The timer is disabled."""
    return b"arm_gt_recalc_disabled gt recalc: timer %d irqstate 0 timer disabled" % timer


def delivered(*lines: bytes) -> list[int]:
    """Counter values at which something fired."""
    return [int(at) for at in deliveries(list(lines), "log")]


def test_a_timer_fires_at_its_compare_value() -> None:
    assert delivered(waits(VIRTUAL, 1000), fires(VIRTUAL)) == [1000]


def test_a_timer_that_waits_has_not_fired() -> None:
    assert delivered(waits(VIRTUAL, 1000)) == []


def test_the_last_compare_value_counts() -> None:
    assert delivered(waits(VIRTUAL, 1000), waits(VIRTUAL, 500), fires(VIRTUAL)) == [500]


def test_a_timer_fires_once() -> None:
    lines = (waits(VIRTUAL, 1000), fires(VIRTUAL), masked(VIRTUAL), fires(VIRTUAL))

    assert delivered(*lines) == [1000]


def test_a_disabled_timer_does_not_fire() -> None:
    assert delivered(waits(VIRTUAL, 1000), off(VIRTUAL), fires(VIRTUAL)) == []


def test_a_timer_may_be_disabled_that_never_waited() -> None:
    assert delivered(off(VIRTUAL), off(HYP)) == []


def test_timers_are_apart() -> None:
    lines = (waits(VIRTUAL, 1000), waits(HYP, 400), off(VIRTUAL), fires(HYP), fires(VIRTUAL))

    assert delivered(*lines) == [400]


def test_what_was_delivered_ascends() -> None:
    lines = (waits(VIRTUAL, 900), waits(HYP, 400), fires(VIRTUAL), fires(HYP))

    assert delivered(*lines) == [400, 900]


def test_compare_values_have_64_bits() -> None:
    highest = (1 << 64) - 2

    assert delivered(waits(VIRTUAL, highest), fires(VIRTUAL)) == [highest]


def test_a_log_prefix_is_passed_over() -> None:
    prefix = b"4711@1700000000.123456:"

    assert delivered(prefix + waits(VIRTUAL, 1000), prefix + fires(VIRTUAL)) == [1000]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"arm_gt_recalc",
        b"arm_gt_recalc gt recalc: timer 1 irqstate 0 next tick",
        b"arm_gt_recalc gt recalc: timer x irqstate 0 next tick 0x10",
        b"qemu-system-aarch64: terminating on signal 15",
    ],
)
def test_another_line_is_corrupt(line: bytes) -> None:
    with pytest.raises(CorruptDataError, match=r"^log:2: not a timer event"):
        delivered(waits(VIRTUAL, 1000), line)


def test_a_line_that_was_cut_is_corrupt() -> None:
    whole = fires(VIRTUAL)

    with pytest.raises(CorruptDataError):
        delivered(waits(VIRTUAL, 1000), whole[: whole.index(b"0x") + 1])


def test_an_empty_log_delivers_nothing(tmp_path: Path) -> None:
    log = tmp_path / "timer.log"
    log.write_bytes(b"")
    seal_log(log)

    found = read_deliveries(log)

    assert found.shape == (0,)
    assert found.dtype == np.uint64


def test_a_log_is_read_from_its_file(tmp_path: Path) -> None:
    log = tmp_path / "timer.log"
    log.write_bytes(b"\n".join([waits(HYP, 7), fires(HYP), waits(HYP, 9), fires(HYP)]) + b"\n")
    seal_log(log)

    assert read_deliveries(log).tolist() == [7, 9]


def test_a_mistake_in_a_file_is_named_by_line(tmp_path: Path) -> None:
    log = tmp_path / "timer.log"
    log.write_bytes(waits(HYP, 7) + b"\nnoise\n")
    seal_log(log)

    with pytest.raises(CorruptDataError, match=rf"{log}:2: "):
        read_deliveries(log)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([VIRTUAL, HYP]), st.integers(0, 99) | st.sampled_from(["fire", "off"])
    )
)


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_each_timer_by_itself_gives_the_same(events: list[tuple[int, int | str]]) -> None:
    alone = [fired_alone(timer, events) for timer in (VIRTUAL, HYP)]

    assert delivered(*map(line, events)) == sorted(alone[0] + alone[1])


def line(event: tuple[int, int | str]) -> bytes:
    """An event as QEMU logs it."""
    timer, what = event
    if isinstance(what, int):
        return waits(timer, what)
    return fires(timer) if what == "fire" else off(timer)


def fired_alone(timer: int, events: list[tuple[int, int | str]]) -> list[int]:
    """What one timer delivered."""
    fired, waiting = [], None
    for one, what in events:
        if one != timer:
            continue
        if what == "fire" and waiting is not None:
            fired.append(waiting)
        waiting = what if isinstance(what, int) else None
    return fired


def test_a_log_without_a_seal_is_lost(tmp_path: Path) -> None:
    log = tmp_path / "timer.log"
    log.write_bytes(waits(HYP, 7) + b"\n")

    with pytest.raises(LostGuestError):
        read_deliveries(log)


@pytest.mark.parametrize("changed", [b"", b"1", b"\n"])
def test_a_log_that_was_changed_since_is_refused(tmp_path: Path, changed: bytes) -> None:
    log = tmp_path / "timer.log"
    log.write_bytes(waits(HYP, 7) + b"\n")
    seal_log(log)
    log.write_bytes(waits(HYP, 8) + changed)

    with pytest.raises(CorruptDataError):
        read_deliveries(log)


def test_a_seal_of_whatever_bytes_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "timer.log"
    log.write_bytes(waits(HYP, 7) + b"\n")
    seal_of(log).write_bytes(b"\xff\xfe" * 40_000)

    with pytest.raises(CorruptDataError):
        read_deliveries(log)


def test_a_log_that_has_grown_is_refused_unread(tmp_path: Path) -> None:
    log = tmp_path / "timer.log"
    log.write_bytes(b"")
    seal_log(log)
    os.truncate(log, 1 << 40)

    with pytest.raises(CorruptDataError, match="1099511627776 bytes"):
        read_deliveries(log)
