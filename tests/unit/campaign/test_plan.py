"""The matrix: which cells, in which order, under which ids and seeds."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.campaign.plan import pairs, plan
from qemu_diff.model import (
    ADAPTIVE_PROBES,
    ADAPTIVE_STEP_NS,
    Campaign,
    DebianSource,
    Driver,
    Exclusion,
    Expectation,
    FloodSource,
    FloodSpec,
    KernelSpec,
    KvmMode,
    MachineSpec,
    PairOf,
    PairSpec,
    Placement,
    ScenarioSpec,
)

SWEEP = FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP)
RANDOM = FloodSpec((FloodSource.HOST_TIMER,), Placement.RANDOM, count=200)


def campaign(*scenarios: ScenarioSpec, seed: int = 1) -> Campaign:
    kernels = (
        KernelSpec("unpatched", DebianSource("linux-source-6.1")),
        KernelSpec("patched", DebianSource("linux-source-6.1")),
    )
    return Campaign(
        path=Path("/c.toml"),
        name="c",
        seed=seed,
        budget_s=60,
        kernels=kernels,
        pairs=(PairSpec("unpatched", "patched"),),
        scenarios=scenarios,
    )


def scenario(
    payload: str = "hvc",
    flood: FloodSpec | None = None,
    machine: MachineSpec | None = None,
    expect: tuple[tuple[str, str, tuple[Expectation, ...]], ...] = (),
    jobs: tuple[str, ...] = ("step",),
) -> ScenarioSpec:
    return ScenarioSpec(
        (payload,), (machine or MachineSpec(),), flood or FloodSpec(), Driver.IN_GUEST, expect, jobs
    )


def only_id(one: ScenarioSpec) -> str:
    return plan(campaign(one))[0].id


def test_ids_say_what_the_cell_is() -> None:
    assert only_id(scenario("hvc")) == "unpatched.hvc.vhe.quiet"
    assert only_id(scenario("trapped_sysreg", SWEEP)) == (
        "unpatched.trapped_sysreg.vhe.host_timer-sweep"
    )
    assert only_id(scenario("hvc", RANDOM)) == "unpatched.hvc.vhe.host_timer-random.x200"


def test_ids_have_further_parts_only_for_what_differs_from_the_default() -> None:
    coarse = replace(SWEEP, step_ns=32)
    bounded = replace(SWEEP, first_ns=100, last_ns=900)
    drawn = replace(RANDOM, last_ns=900)
    other = MachineSpec(KvmMode.NVHE, cpu="cortex-a57", memory_mib=512)
    assert only_id(scenario(flood=coarse)) == "unpatched.hvc.vhe.host_timer-sweep.0-end-32"
    adaptive = replace(SWEEP, placement=Placement.ADAPTIVE, step_ns=32, count=64)
    assert only_id(scenario(flood=adaptive)) == "unpatched.hvc.vhe.host_timer-adaptive"
    wide = replace(adaptive, step_ns=100, count=9)
    assert only_id(scenario(flood=wide)) == "unpatched.hvc.vhe.host_timer-adaptive.0-end-100.x9"
    assert only_id(scenario(flood=bounded)) == "unpatched.hvc.vhe.host_timer-sweep.100-900-1"
    assert only_id(scenario(flood=drawn)) == "unpatched.hvc.vhe.host_timer-random.0-900.x200"
    assert only_id(scenario(machine=other)) == "unpatched.hvc.nvhe.quiet.cpu-cortex-a57.mem-512"
    assert only_id(scenario(jobs=("kick",))) == "unpatched.hvc.vhe.job-kick.quiet"
    assert only_id(scenario(flood=coarse, jobs=("kick",))) == (
        "unpatched.hvc.vhe.job-kick.host_timer-sweep.0-end-32"
    )


def test_ids_of_floods_name_their_sources_periods_bursts_and_the_machine_s_cpus() -> None:
    sources = FloodSource.PPI, FloodSource.SIGNAL
    mixed = FloodSpec(sources, Placement.RANDOM, count=9)
    burst = replace(mixed, placement=Placement.BURST, period_ns=700, burst=4)
    periodic = FloodSpec(sources[:1], Placement.PERIODIC, count=9, period_ns=20_000)
    pairs_of_one = FloodSpec(sources[:1], Placement.PAIRS)
    coarse = replace(pairs_of_one, first_ns=5, last_ns=95, step_ns=10)
    ids = {
        "ppi+signal-random.x9": mixed,
        "ppi+signal-burst.each-700.burst-4.x9": burst,
        "ppi-periodic.each-20000.x9": periodic,
        "ppi-pairs": pairs_of_one,
        "ppi-pairs.5-95-10": coarse,
    }
    for name, flood in ids.items():
        assert only_id(scenario(flood=flood)) == f"unpatched.hvc.vhe.{name}"
    two = MachineSpec(cpus=2)
    assert only_id(scenario(machine=two)) == "unpatched.hvc.vhe.quiet.cpus-2"


def test_ids_name_gic_pages_qemu_and_seed_where_they_are_not_the_usual_ones() -> None:
    other = MachineSpec(KvmMode.PROTECTED, gic_version=2, page_kib=64, qemu="new")
    assert only_id(scenario(machine=other)) == (
        "unpatched.hvc.protected.quiet.gic-2.page-64k.l0-new"
    )
    seeded = replace(scenario(machine=other), seeds=(3,), driver=Driver.GDB)
    assert only_id(seeded) == (
        "unpatched.hvc.protected.quiet.gic-2.page-64k.seed-3.l0-new.driver-gdb"
    )
    assert only_id(replace(scenario(), seeds=(1,))) == "unpatched.hvc.vhe.quiet"


def test_cells_come_in_the_order_of_the_file_with_kernels_together() -> None:
    both_modes = ScenarioSpec(
        ("straightline", "hvc"),
        (MachineSpec(KvmMode.VHE), MachineSpec(KvmMode.NVHE)),
        FloodSpec(),
        Driver.IN_GUEST,
    )
    ids = [cell.id for cell in plan(campaign(both_modes, scenario("hvc", SWEEP)))]
    assert ids == [
        "unpatched.straightline.vhe.quiet",
        "patched.straightline.vhe.quiet",
        "unpatched.straightline.nvhe.quiet",
        "patched.straightline.nvhe.quiet",
        "unpatched.hvc.vhe.quiet",
        "patched.hvc.vhe.quiet",
        "unpatched.hvc.nvhe.quiet",
        "patched.hvc.nvhe.quiet",
        "unpatched.hvc.vhe.host_timer-sweep",
        "patched.hvc.vhe.host_timer-sweep",
    ]


def test_a_cell_is_the_same_whatever_else_the_campaign_holds() -> None:
    alone = plan(campaign(scenario("hvc", RANDOM)))
    among = plan(campaign(scenario("straightline"), scenario("hvc", RANDOM)))
    assert set(alone) <= set(among)


def test_expectations_are_for_one_kernel_and_payload() -> None:
    expect = (("unpatched", "hvc", (Expectation.LOST_STEP,)),)
    unpatched, patched = plan(campaign(scenario("hvc", expect=expect)))
    assert unpatched.expected == (Expectation.LOST_STEP,)
    assert patched.expected == (Expectation.PASS,)


def test_an_expectation_for_a_job_wins_over_the_payload_s() -> None:
    expect = (
        ("unpatched", "hvc/kick", (Expectation.PASS,)),
        ("unpatched", "hvc", (Expectation.LOST_STEP, Expectation.SS_LEAK)),
        ("patched", "hvc/kick", (Expectation.SS_LEAK,)),
    )
    cells = plan(campaign(scenario("hvc", expect=expect, jobs=("step", "kick"))))
    assert [(cell.kernel, cell.job, cell.expected) for cell in cells] == [
        ("unpatched", "step", (Expectation.LOST_STEP, Expectation.SS_LEAK)),
        ("patched", "step", (Expectation.PASS,)),
        ("unpatched", "kick", (Expectation.PASS,)),
        ("patched", "kick", (Expectation.SS_LEAK,)),
    ]


def test_both_kernels_of_a_pair_get_the_same_seed() -> None:
    for baseline, candidate in pairs(
        campaign(scenario("hvc", RANDOM)), plan(campaign(scenario("hvc", RANDOM)))
    ):
        assert baseline.seed == candidate.seed


def test_seeds_are_stable_31_bit_and_of_the_campaign_and_the_point() -> None:
    first = plan(campaign(scenario("hvc", RANDOM), seed=1))[0]
    assert first.seed == 823076008
    others = (
        plan(campaign(scenario("hvc", RANDOM), seed=2))[0],
        plan(campaign(scenario("straightline", RANDOM), seed=1))[0],
    )
    assert first.seed not in {cell.seed for cell in others}
    assert all(0 <= cell.seed < 2**31 for cell in (first, *others))


def test_a_scenario_for_some_kernels_has_cells_of_these_in_the_order_of_the_campaign() -> None:
    some = replace(scenario("hvc"), kernels=("patched",))
    both = replace(scenario("mixed"), kernels=("patched", "unpatched"))
    assert [cell.id for cell in plan(campaign(some, both))] == [
        "patched.hvc.vhe.quiet",
        "unpatched.mixed.vhe.quiet",
        "patched.mixed.vhe.quiet",
    ]


def test_a_scenario_for_one_kernel_has_no_pair_and_the_same_cells() -> None:
    some = campaign(replace(scenario("hvc", RANDOM), kernels=("patched",)))
    assert pairs(some, plan(some)) == ()
    assert {*plan(some)} < {*plan(campaign(scenario("hvc", RANDOM)))}


def test_pairs_hold_kernels_against_each_other_point_by_point() -> None:
    whole = campaign(scenario("hvc"), scenario("trapped_sysreg", SWEEP))
    assert [(left.id, right.id) for left, right in pairs(whole, plan(whole))] == [
        ("unpatched.hvc.vhe.quiet", "patched.hvc.vhe.quiet"),
        (
            "unpatched.trapped_sysreg.vhe.host_timer-sweep",
            "patched.trapped_sysreg.vhe.host_timer-sweep",
        ),
    ]


def test_a_pair_needs_both_of_its_cells() -> None:
    whole = campaign(scenario("hvc"))
    unpatched, patched = plan(whole)
    assert pairs(whole, [unpatched]) == ()
    assert pairs(whole, [patched]) == ()


# --- seeds, QEMUs, exclusions ---


def test_each_seed_has_cells_of_its_own_and_the_campaign_s_are_the_usual_ones() -> None:
    seeded = replace(scenario("hvc", RANDOM), seeds=(1, 2), kernels=("patched",))
    usual, other = plan(campaign(seeded))
    assert usual in plan(campaign(scenario("hvc", RANDOM)))
    assert other.id == f"{usual.id}.seed-2"
    assert other.seed == plan(campaign(scenario("hvc", RANDOM), seed=2))[0].seed != usual.seed


def test_two_qemus_are_held_against_each_other_with_the_same_seed() -> None:
    machines = tuple(MachineSpec(qemu=name) for name in ("", "new", "old"))
    drivers = (Driver.IN_GUEST, Driver.RSP)
    scenarios = (
        replace(scenario("hvc", RANDOM), machines=machines, driver=driver) for driver in drivers
    )
    of = (PairSpec("", "new", PairOf.QEMU), PairSpec("new", "old", PairOf.QEMU))
    whole = replace(campaign(*scenarios), pairs=of)
    both = pairs(whole, plan(whole))
    assert [(left.id, right.id) for left, right in both if left.kernel == "patched"] == [
        ("patched.hvc.vhe.host_timer-random.x200", "patched.hvc.vhe.host_timer-random.x200.l0-new"),
        (
            "patched.hvc.vhe.host_timer-random.x200.driver-rsp",
            "patched.hvc.vhe.host_timer-random.x200.l0-new.driver-rsp",
        ),
        (
            "patched.hvc.vhe.host_timer-random.x200.l0-new",
            "patched.hvc.vhe.host_timer-random.x200.l0-old",
        ),
        (
            "patched.hvc.vhe.host_timer-random.x200.l0-new.driver-rsp",
            "patched.hvc.vhe.host_timer-random.x200.l0-old.driver-rsp",
        ),
    ]
    assert all(left.seed == right.seed for left, right in both)


def test_the_first_exclusion_that_matches_gives_the_reason() -> None:
    exclusions = (Exclusion("unpatched.*", "known"), Exclusion("*.hvc.*", "too slow"))
    whole = replace(campaign(scenario("hvc"), scenario("mixed")), exclusions=exclusions)
    assert [cell.excluded for cell in plan(whole)] == ["known", "too slow", "known", ""]


# --- drivers and sessions ---


def by(*drivers: Driver, flood: FloodSpec | None = None) -> tuple[ScenarioSpec, ...]:
    return tuple(replace(scenario("hvc", flood), driver=driver) for driver in drivers)


def test_a_driver_is_the_id_s_end_unless_it_is_ours() -> None:
    machine = MachineSpec(cpus=2)
    ids = [only_id(replace(scenario(machine=machine), driver=driver)) for driver in Driver]
    usual = "unpatched.hvc.vhe.quiet.cpus-2"
    others = ("gdb", "rsp", "monitor", "selftest")
    assert ids == [usual, *(f"{usual}.driver-{driver}" for driver in others)]


def test_a_session_takes_the_place_of_the_job() -> None:
    one = replace(by(Driver.GDB)[0], sessions=("walk", "watch"))
    assert [(cell.id, cell.session, cell.job) for cell in plan(campaign(one))[::2]] == [
        ("unpatched.hvc.vhe.session-walk.quiet.driver-gdb", "walk", "step"),
        ("unpatched.hvc.vhe.session-watch.quiet.driver-gdb", "watch", "step"),
    ]


def test_an_expectation_for_a_session_wins_over_the_payload_s() -> None:
    expect = (
        ("unpatched", "hvc/walk", (Expectation.LOST_STEP,)),
        ("unpatched", "hvc", (Expectation.SS_LEAK,)),
    )
    one = replace(scenario(expect=expect), sessions=("walk", "watch"), kernels=("unpatched",))
    assert [cell.expected for cell in plan(campaign(one))] == [
        (Expectation.LOST_STEP,),
        (Expectation.SS_LEAK,),
    ]


def test_all_drivers_of_a_point_get_the_seed_that_it_has_without_one() -> None:
    cells = plan(campaign(*by(*Driver, flood=RANDOM)))
    assert {cell.seed for cell in cells} == {823076008}


def paired(baseline: str, candidate: str, *drivers: Driver) -> list[tuple[str, str]]:
    pair = PairSpec(baseline, candidate, PairOf.DRIVER)
    whole = replace(campaign(*by(*drivers)), pairs=(pair,))
    return [(left.id, right.id) for left, right in pairs(whole, plan(whole))]


def test_drivers_are_held_against_each_other_kernel_by_kernel() -> None:
    three = (Driver.IN_GUEST, Driver.RSP, Driver.GDB)
    point = "hvc.vhe.quiet"
    kernels = ("unpatched", "patched")
    assert paired("in_guest", "gdb", *three) == [
        (f"{kernel}.{point}", f"{kernel}.{point}.driver-gdb") for kernel in kernels
    ]
    assert paired("gdb", "in_guest", *three) == [
        (f"{kernel}.{point}.driver-gdb", f"{kernel}.{point}") for kernel in kernels
    ]
    assert paired("rsp", "gdb", *three) == [
        (f"{kernel}.{point}.driver-rsp", f"{kernel}.{point}.driver-gdb") for kernel in kernels
    ]


def test_a_pair_of_drivers_needs_both() -> None:
    assert paired("in_guest", "monitor", Driver.IN_GUEST, Driver.GDB) == []


def test_a_pair_of_kernels_is_of_one_driver() -> None:
    whole = campaign(*by(Driver.IN_GUEST, Driver.GDB))
    assert [(left.id, right.id) for left, right in pairs(whole, plan(whole))] == [
        ("unpatched.hvc.vhe.quiet", "patched.hvc.vhe.quiet"),
        ("unpatched.hvc.vhe.quiet.driver-gdb", "patched.hvc.vhe.quiet.driver-gdb"),
    ]


Point = tuple[str, MachineSpec, FloodSpec, str, Driver, int]

names = st.text("ab-_x0", min_size=1, max_size=3)
machines = st.builds(
    MachineSpec,
    kvm_mode=st.sampled_from(KvmMode),
    cpu=st.sampled_from(["max", "mem-512", "cortex-a57", "cpu-", "x1"]),
    memory_mib=st.sampled_from([256, 512]),
    cpus=st.sampled_from([1, 2]),
    gic_version=st.sampled_from([2, 3]),
    page_kib=st.sampled_from([4, 16, 64]),
    qemu=st.sampled_from(["", "seed-2", "l0-new", "driver-gdb", "new"]),
)
grids = {
    "first_ns": st.integers(0, 2),
    "last_ns": st.none() | st.integers(2, 3),
    "step_ns": st.integers(1, 2),
}
floods = (
    st.builds(FloodSpec, count=st.integers(1, 3))
    | st.builds(FloodSpec, st.just((FloodSource.HOST_TIMER,)), st.just(Placement.SWEEP), **grids)
    | st.builds(
        FloodSpec,
        st.just((FloodSource.HOST_TIMER,)),
        st.just(Placement.RANDOM),
        grids["first_ns"],
        grids["last_ns"],
        count=st.integers(1, 2),
    )
    | st.builds(
        FloodSpec,
        st.just((FloodSource.HOST_TIMER,)),
        st.just(Placement.ADAPTIVE),
        grids["first_ns"],
        grids["last_ns"],
        st.sampled_from([2, ADAPTIVE_STEP_NS]),
        st.sampled_from([2, ADAPTIVE_PROBES]),
    )
)
jobs = st.sampled_from(["step", "quiet", "kick", "host_timer-sweep"])
drivers = st.sampled_from([Driver.IN_GUEST, Driver.GDB, Driver.RSP])
points = st.lists(
    st.tuples(names, machines, floods, jobs, drivers, st.integers(0, 3)),
    min_size=1,
    max_size=30,
    unique=True,
)


def scenarios_of(drawn: Iterable[Point]) -> tuple[ScenarioSpec, ...]:
    return tuple(
        replace(scenario(payload, flood, machine, jobs=(job,)), driver=driver, seeds=(seed,))
        for payload, machine, flood, job, driver, seed in drawn
    )


# Time says nothing here: kernels may be building beside the tests.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(points, st.lists(names, min_size=1, max_size=4, unique=True))
def test_different_cells_have_different_filesystem_safe_ids(
    drawn: list[Point], kernels: list[str]
) -> None:
    whole = replace(
        campaign(*scenarios_of(drawn)),
        kernels=tuple(KernelSpec(name, DebianSource("linux-source-6.1")) for name in kernels),
    )
    ids = [cell.id for cell in plan(whole)]
    assert len(set(ids)) == len(ids) == len(drawn) * len(kernels)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", name) for name in ids)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(points, st.randoms(use_true_random=False))
def test_cells_are_the_same_in_whatever_order_a_campaign_names_them(
    drawn: list[Point], order: Random
) -> None:
    shuffled = list(drawn)
    order.shuffle(shuffled)
    usual = campaign(*scenarios_of(drawn))
    other = replace(campaign(*scenarios_of(shuffled)), kernels=usual.kernels[::-1])
    assert {*plan(usual)} == {*plan(other)}


def test_five_hundred_cells_are_planned_in_no_time() -> None:
    machines = tuple(
        MachineSpec(mode, gic_version=gic, page_kib=pages)
        for mode in KvmMode
        for gic in (2, 3)
        for pages in (4, 16, 64)
    )
    one = replace(scenario("hvc", RANDOM), machines=machines, seeds=tuple(range(14)))
    began = time.process_time()
    cells = plan(replace(campaign(one), exclusions=(Exclusion("*.nvhe.*", "why"),) * 20))
    took = time.process_time() - began
    assert len(cells) == 504
    assert took < 0.5
