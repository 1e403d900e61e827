"""The parts of the benchmarks of stepping that boot nothing."""

from __future__ import annotations

import re

import pytest
from benchmarks import floor, levers, profile
from benchmarks.stepping import Pace, Stepping, Way, interleaved, per_cpu_s, with_option

COMMAND = ["qemu", "-cpu", "max", "-icount", "shift=0", "-m", "256"]


class Booted(Stepping):
    """Ways with known paces; it remembers the order."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def pace(self, way: Way) -> Pace:
        self.order.append(way.name)
        return Pace(steps=100 * len(self.order), wall_s=9.0, cpu_s=2.0)


def test_an_option_is_replaced_or_left_out() -> None:
    assert with_option(COMMAND, "-cpu", "a57") == [*COMMAND[:2], "a57", *COMMAND[3:]]
    assert with_option(COMMAND, "-icount", None) == [*COMMAND[:3], *COMMAND[5:]]


def test_boots_are_interleaved_and_the_median_counts() -> None:
    booted = Booted()
    paces = interleaved(booted, (Way("a"), Way("b")), 3)
    assert booted.order == ["a", "b"] * 3
    assert [pace.steps for pace in paces["a"]] == [100, 300, 500]
    assert per_cpu_s(paces["a"]) == 150.0


def test_every_way_has_a_name_of_its_own_and_its_files() -> None:
    for ways in (
        (levers.DEFAULT, levers.PROTOTYPE, *(lever.way for lever in levers.LEVERS)),
        (*floor.FREE, *floor.COUNTED),
    ):
        assert len({way.name for way in ways}) == len(ways)
        assert all(path.is_file() for way in ways for path in way.kconfig)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("qht_lookup_custom", "looking up translated code, and entering it"),
        ("tcg_flush_jmp_cache", "flushes of the jump cache"),
        ("[truth.so]", "the truth plugin"),
        ("[libc.so.6]", profile.REST),
    ],
)
def test_functions_are_told_apart(name: str, group: str) -> None:
    assert profile.group_of(name) == group
    assert all(re.compile(pattern) for _, pattern in profile.GROUPS)
