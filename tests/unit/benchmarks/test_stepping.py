"""The parts of the benchmarks of stepping that boot nothing."""

from __future__ import annotations

import re
from dataclasses import replace

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
    paces = interleaved(booted, (Way("a"), Way("b"), Way("c")), 3)
    assert "".join(booted.order) == "abcbcacab"
    assert [pace.steps for pace in paces["a"]] == [100, 600, 800]
    assert per_cpu_s(paces["a"]) == 300.0


def test_a_lever_is_held_against_the_defaults_of_its_round() -> None:
    def rounds(*rates: float) -> tuple[Pace, ...]:
        return tuple(Pace(int(100 * rate), 9.0, 1.0) for rate in rates)

    lever = levers.LEVERS[1]
    paces = {one.name: rounds(1.0, 2.0, 4.0) for one in levers.UNCHANGED}
    paces[levers.UNCHANGED[0].name] = rounds(9.0, 9.0, 9.0)
    paces[lever.way.name] = rounds(1.5, 2.2, 4.0)
    assert levers.gain(paces, lever) == pytest.approx(1.1)
    assert levers.gain(paces, replace(lever, kept=True)) == pytest.approx(1 / 1.1)


def test_the_defaults_are_spread_over_a_round() -> None:
    ways = tuple(Way(str(number)) for number in range(10))
    turns = [way.name for way in levers.in_turn(ways)]
    assert sorted(turns) == sorted([*map(str, range(10)), *(one.name for one in levers.UNCHANGED)])
    at = [turns.index(one.name) for one in levers.UNCHANGED]
    assert at == [0, 3, 7, 10]


def test_every_way_has_a_name_of_its_own_and_its_files() -> None:
    for ways in (
        (*levers.UNCHANGED, levers.PROTOTYPE, *(lever.way for lever in levers.LEVERS)),
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
