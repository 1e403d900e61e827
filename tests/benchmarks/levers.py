"""What each lever on a step's cost gives, against the default.

About 11 minutes, and 4 more for each of its kernels that is not in the cache yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from statistics import median

from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Plot, Series, Table
from benchmarks.profile import profiled
from benchmarks.stepping import JIT_COUNTS, Pace, Stepping, Way, interleaved, per_cpu_s

from qemu_diff.errors import QemuDiffError
from qemu_diff.guest.machine import COUNTER_HZ, cpu_option, kernel_command_line
from qemu_diff.model import KvmMode, MachineSpec

ROUNDS = 7
DEFAULTS = 4
"""Boots of the default in each round: what they differ by is chance."""

PROFILED_PASSES = 1000
"""Many, so that the boot before them is little."""

PROTOTYPE_AIM = 2.0

DEFAULT = Way("default", plugin=True, icount=True)
"""As campaigns run it."""

UNCHANGED = tuple(replace(DEFAULT, name=f"default, {number + 1}") for number in range(DEFAULTS))

_KCONFIG = Path(__file__).with_name("kconfig")
_NEXT_SUITE = "bookworm-backports"
PROTOTYPE = Way(
    "the prototype",
    floor=True,
    icount=True,
    kconfig=(_KCONFIG / "prototype.config",),
    options=(
        ("-cpu", "max,pauth-impdef=on"),
        ("-append", "console=ttyAMA0 rdinit=/init quiet panic=-1"),
    ),
)


@dataclass(frozen=True)
class Lever:
    """One change, alone.

    :param way: the default with it; or without it, where it is ``kept``.
    :param kept: it is part of the default.
    :param remark: why, or why not.
    """

    name: str
    way: Way
    kept: bool
    remark: str


def _cpu(model: str) -> tuple[tuple[str, str], ...]:
    return (("-cpu", f"{model},cntfrq={COUNTER_HZ}"),)


def _lever(name: str, kept: bool, remark: str, way: Way) -> Lever:
    return Lever(name, replace(way, name=name), kept, remark)


def _with(name: str, remark: str, **changes: object) -> Lever:
    return _lever(name, False, remark, replace(DEFAULT, **changes))  # type: ignore[arg-type]


def _kept(name: str, remark: str, **undone: object) -> Lever:
    return _lever(name, True, remark, replace(DEFAULT, **undone))  # type: ignore[arg-type]


def _config(name: str) -> tuple[Path, ...]:
    return (_KCONFIG / f"{name}.config",)


_OTHER_CPU = "another CPU is another test: a campaign may name it (`machine.cpu`)"
_LESS_CPU = "L1 would lack what `max` has, and kernels of distributions use"
_NOTHING = "no gain"
_MAX = cpu_option("max").removesuffix(f",cntfrq={COUNTER_HZ}")

LEVERS = (
    _kept("`pauth-impdef=on`", "for kernels that sign pointers", options=_cpu("max")),
    _with("`sve=off`", _LESS_CPU, options=_cpu(f"{_MAX},sve=off")),
    _with("`sve=off,sme=off`", _LESS_CPU, options=_cpu(f"{_MAX},sve=off,sme=off")),
    _with("`sve-max-vq=1`", _LESS_CPU, options=_cpu(f"{_MAX},sve-max-vq=1")),
    _with("`pauth=off`", _LESS_CPU, options=_cpu("max,pauth=off")),
    _with("`lpa2=off`", _LESS_CPU, options=_cpu(f"{_MAX},lpa2=off")),
    _with("`cortex-a57`", _OTHER_CPU, options=_cpu("cortex-a57")),
    _with("`cortex-a72`", _OTHER_CPU, options=_cpu("cortex-a72")),
    _with("`cortex-a76`", _OTHER_CPU, options=_cpu("cortex-a76")),
    _with("`neoverse-n1`", _OTHER_CPU, options=_cpu("neoverse-n1")),
    _with("nVHE", "a machine of its own in campaigns", machine=MachineSpec(kvm_mode=KvmMode.NVHE)),
    _with(
        "protected nVHE", "likewise", machine=MachineSpec(kvm_mode=KvmMode.PROTECTED)
    ),
    _with("pages of 16 KiB", "likewise", machine=MachineSpec(page_kib=16)),
    _with("pages of 64 KiB", "likewise", machine=MachineSpec(page_kib=64)),
    _with("static keys, LSE atomics, stack not zeroed",
          "every kernel in every cache would be built again, and every ns would be another",
          kconfig=_config("static-keys")),
    _with("virtual addresses of 48 bits", _NOTHING, kconfig=_config("va-48")),
    _with("L1 compiled for size", _NOTHING, kconfig=_config("size")),
    _with("`mitigations=off`", "what is tested would be another path", options=(
        ("-append", kernel_command_line(MachineSpec(), "mitigations=off")),
    )),
    _with("128 MiB for L1", _NOTHING, machine=MachineSpec(memory_mib=128)),
    _with("1 GiB for L1", _NOTHING, machine=MachineSpec(memory_mib=1024)),
    _with("`tb-size=32`", _NOTHING, more=("-accel", "tcg,tb-size=32")),
    _with("`tb-size=1024`", _NOTHING, more=("-accel", "tcg,tb-size=1024")),
    _with("`-mem-prealloc`", "a longer start, and memory that L1 never touches",
          more=("-mem-prealloc",)),
    _with("a memfd behind L1's memory", _NOTHING, more=(
        "-object", f"memory-backend-memfd,id=ram,size={MachineSpec().memory_mib}M",
        "-machine", "memory-backend=ram",
    )),
    _with("one host CPU (`taskset`)", "the scheduler's business", around=("taskset", "-c", "0")),
    _with("one malloc arena", _NOTHING, around=("env", "MALLOC_ARENA_MAX=1")),
    _with("without icount", "a run would not repeat itself", icount=False),
    _with("without icount, `thread=single`", "likewise", icount=False,
          more=("-accel", "tcg,thread=single")),
    _with("without the truth plugin", "nothing would be known", plugin=False),
    _with(f"QEMU of {_NEXT_SUITE}", "a campaign may name it", suite=_NEXT_SUITE),
)  # fmt: skip


def measure() -> Measured:
    """Interleaved boots of the default, the prototype and each lever; then one that is profiled."""
    stepping = Stepping()
    levers = [lever for lever in LEVERS if _can_be_had(stepping, lever.way)]
    paces = interleaved(stepping, in_turn((PROTOTYPE, *(one.way for one in levers))), ROUNDS)
    against = 1 / _ratio(paces, PROTOTYPE)
    counted = stepping.counted(DEFAULT)
    shares = profiled(stepping, replace(DEFAULT, passes=PROFILED_PASSES))
    return Measured(
        name="levers",
        command="scripts/measure levers",
        conditions=conditions(stepping.qemu(DEFAULT), f"{ROUNDS} boots of each, interleaved"),
        claims=(_claim(against),),
        tables=(
            _levers_table(paces, levers),
            *((_shares_table(shares),) if shares else ()),
            _counts_table(counted),
        ),
        plots=(_plot(paces, levers),),
    )


def _can_be_had(stepping: Stepping, way: Way) -> bool:
    """Builds its kernel, fetches its QEMU."""
    try:
        stepping.prepare(way)
    except QemuDiffError as error:
        print(f"  left out: {way.name}: {error}", flush=True)
        return False
    return True


def in_turn(ways: tuple[Way, ...]) -> tuple[Way, ...]:
    """With a default before each fourth part of them."""
    cuts = [len(ways) * number // DEFAULTS for number in range(DEFAULTS + 1)]
    parts = zip(UNCHANGED, pairwise(cuts), strict=True)
    return tuple(chain.from_iterable((one, *ways[begin:end]) for one, (begin, end) in parts))


def _ratio(paces: dict[str, tuple[Pace, ...]], way: Way) -> float:
    """The median, over the rounds, of its pace to that round's defaults' median."""
    rounds = zip(*(paces[one.name] for one in UNCHANGED), strict=True)
    pairs = zip(paces[way.name], rounds, strict=True)
    return median(pace.per_cpu_s / per_cpu_s(defaults) for pace, defaults in pairs)


def gain(paces: dict[str, tuple[Pace, ...]], lever: Lever) -> float:
    """Steps/s with it, of those without it."""
    ratio = _ratio(paces, lever.way)
    return 1 / ratio if lever.kept else ratio


def _claim(against: float) -> Claim:
    reached = against >= PROTOTYPE_AIM
    why = (
        "Three of TCG's flushes of everything, and the lookups that follow them, are most of a "
        "step: KVM writes HCR_EL2 twice and TCR_EL1 once on its way through KVM_RUN, in the "
        "prototype as in ours, and they are the code under test. Ours does more in each step: "
        "it records, marks, and writes down the truth"
    )
    return Claim(
        "steps/s with records, marks, truth plugin and icount, against the bare loop of the "
        "prototype with its own kernel and options",
        f"{against:.2f}", f"at least {PROTOTYPE_AIM:g}", reached, "" if reached else why,
    )  # fmt: skip


def _levers_table(paces: dict[str, tuple[Pace, ...]], levers: list[Lever]) -> Table:
    rows = tuple(
        (
            lever.name,
            f"{gain(paces, lever):.2f}",
            "kept" if lever.kept else "not kept",
            lever.remark,
        )
        for lever in levers
    )
    defaults = [pace for one in UNCHANGED for pace in paces[one.name]]
    chance = [_ratio(paces, one) for one in UNCHANGED]
    note = (
        f"The default has {per_cpu_s(defaults):,.0f} steps for each second of QEMU's CPU time. "
        "Each lever alone: the median, over the rounds, of steps/s with it to steps/s without it, "
        f"which is the median of {DEFAULTS} boots of the default in that round. Held against it in "
        f"the same way, these themselves come to {min(chance):.2f} to {max(chance):.2f}: that much "
        "is chance."
    )
    return Table("Levers", ("lever", "steps/s, times", "", "why"), rows, note)


def _shares_table(shares: dict[str, float]) -> Table:
    rows = tuple((name, f"{share:.0%}") for name, share in shares.items())
    note = (
        "perf's samples of QEMU, of a whole boot of many steps; a static function counts with its "
        "source file."
    )
    return Table("Where L0's CPU time goes", ("what", "share"), rows, note)


def _counts_table(counted: dict[str, float]) -> Table:
    rows = tuple((name, f"{counted[name]:.1f}") for name in JIT_COUNTS)
    note = "QEMU's `info jit`, which counts each MMU index on its own."
    return Table("Flushes for each step", ("what", "count"), rows, note)


def _plot(paces: dict[str, tuple[Pace, ...]], levers: list[Lever]) -> Plot:
    return Plot(
        name="gain",
        title="Each lever alone: steps/s, times",
        x="",
        y="steps/s with it, of those without it",
        series=(Series("", tuple((x, gain(paces, one)) for x, one in enumerate(levers))),),
        bars=True,
        ticks=tuple(lever.name.replace("`", "") for lever in levers),
    )
