"""What our steps cost beside the least that a step can cost: floor.c. About 4 minutes."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Plot, Series, Table
from benchmarks.stepping import FIRST_STEPS, Pace, Stepping, Way, interleaved, per_cpu_s

ROUNDS = 9
RECORDING_AIM, PLUGIN_AIM = 0.95, 0.85

FLOOR = Way("floor", floor=True)
FLOOR_OF_BOTH = Way("floor that reads PSTATE, too", floor=True, pstate=True)
RECORDING = Way("records and marks")
PLUGIN = Way("records, marks, truth plugin", plugin=True)
FREE = (FLOOR, FLOOR_OF_BOTH, RECORDING, PLUGIN)
COUNTED = tuple(replace(way, name=f"{way.name}, icount", icount=True) for way in FREE)

WHY_RECORDING = (
    "A record holds PSTATE, too, which the oracle judges after each step: a second "
    "KVM_GET_ONE_REG, which the floor does not have. What is left beside a floor that has it, two "
    "reads of the counter and the pages of the records, is two lines below"
)


def measure() -> Measured:
    """Interleaved boots of all ways, without icount and with it."""
    stepping = Stepping()
    paces = interleaved(stepping, (*FREE, *COUNTED), ROUNDS)
    recording, plugin = (_ratio(paces, way, FLOOR) for way in (RECORDING, PLUGIN))
    counted_floor, _, counted_recording, counted = COUNTED
    return Measured(
        name="floor",
        command="scripts/measure floor",
        conditions=conditions(stepping.qemu(FLOOR), f"{ROUNDS} boots of each, interleaved"),
        claims=(
            _held("with records and marks", recording, RECORDING_AIM, WHY_RECORDING),
            _held("with the truth plugin as well", plugin, PLUGIN_AIM, WHY_RECORDING),
            _told(
                "with records and marks, beside a floor that reads PSTATE, too",
                _ratio(paces, RECORDING, FLOOR_OF_BOTH),
            ),
            _told(
                "with the truth plugin as well, beside a floor that reads PSTATE, too",
                _ratio(paces, PLUGIN, FLOOR_OF_BOTH),
            ),
            _told("the floor itself with icount", _ratio(paces, counted_floor, FLOOR)),
            _told(
                "with icount, beside the floor with icount: records and marks",
                _ratio(paces, counted_recording, counted_floor),
            ),
            _told(
                "with icount, beside the floor with icount: and the truth plugin",
                _ratio(paces, counted, counted_floor),
            ),
            _told(
                "with icount and all, as campaigns run it, beside the floor without icount",
                _ratio(paces, counted, FLOOR),
            ),
        ),
        tables=(_table(paces),),
        plots=(_plot(paces),),
    )


def _ratio(paces: dict[str, tuple[Pace, ...]], way: Way, floor: Way) -> float:
    """The median of the rounds' ratios."""
    pairs = zip(paces[way.name], paces[floor.name], strict=True)
    return median(ours.per_cpu_s / least.per_cpu_s for ours, least in pairs)


def _held(what: str, ratio: float, aim: float, why: str) -> Claim:
    reached = ratio >= aim
    return Claim(
        f"steps/s of the floor's, {what}", f"{ratio:.2f}", f"at least {aim}", reached,
        "" if reached else why,
    )  # fmt: skip


def _told(what: str, ratio: float) -> Claim:
    return Claim(f"steps/s of the floor's: {what}", f"{ratio:.2f}")


def _table(paces: dict[str, tuple[Pace, ...]]) -> Table:
    rows = tuple(
        (
            name,
            f"{per_cpu_s(those):,.0f}",
            f"{max(pace.per_cpu_s for pace in those):,.0f}",
            f"{median(pace.steps / pace.wall_s for pace in those):,.0f}",
        )
        for name, those in paces.items()
    )
    columns = ("what steps", "steps per CPU second", "the fastest boot", "steps per second of wall")
    note = f"Without the first {FIRST_STEPS} steps of each boot, which translate L1's code."
    return Table("Steps, the median boot of each", columns, rows, note)


def _plot(paces: dict[str, tuple[Pace, ...]]) -> Plot:
    series = tuple(
        Series(name, tuple((x, per_cpu_s(paces[way.name])) for x, way in enumerate(ways)))
        for name, ways in (("without icount", FREE), ("with icount", COUNTED))
    )
    return Plot(
        name="steps",
        title="Steps for each second of QEMU's CPU time",
        x="",
        y="steps per CPU second",
        series=series,
        bars=True,
        ticks=tuple(way.name for way in FREE),
    )
