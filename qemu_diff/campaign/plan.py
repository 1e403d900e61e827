"""Campaign → matrix of cells, each with a stable id and seed. Pure.

A cell's id says what the cell is, and nothing about the campaign around it: the parts
``KERNEL.PAYLOAD.KVM_MODE.FLOOD``, and after them only what differs from the default; last the
seed, L0's QEMU and the driver, which the two sides of a pair may differ in.
``unpatched.trapped_sysreg.vhe.host_timer-sweep`` is a sweep of the whole step window at 1 ns,
``unpatched.hvc.vhe.job-kick.quiet`` runs another job, and
``unpatched.hvc.nvhe.quiet.cpu-cortex-a57`` has no flood and another CPU. Names hold no dots, and
each optional part begins in a way of its own, so different cells can't share an id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b

from qemu_diff.model import (
    ADAPTIVE_PROBES,
    ADAPTIVE_STEP_NS,
    DEFAULT_JOB,
    Campaign,
    Cell,
    Driver,
    ExceptionOrder,
    Exclusion,
    Expectation,
    FloodSpec,
    MachineSpec,
    PairOf,
    PairSpec,
    Placement,
    ScenarioSpec,
)

_SEED_BITS = 31
"""Seeds go to C on the other side of the job file: positive in a signed 32-bit word."""


def plan(campaign: Campaign) -> tuple[Cell, ...]:
    """The matrix, scenario by scenario, payload by payload, job or session by session, machine by
    machine.

    A point's kernels follow each other, in the order of the campaign file: a run that is cut off
    has both sides of each pair that it began, but for the last.
    """
    return tuple(
        _cell(
            campaign,
            scenario,
            kernel.name,
            payload=payload,
            job=job,
            session=session,
            machine=machine,
            seed=seed,
        )
        for scenario in campaign.scenarios
        for payload in scenario.payloads
        for job in scenario.jobs
        for session in scenario.sessions
        for machine in scenario.machines
        for seed in scenario.seeds or (campaign.seed,)
        for kernel in campaign.kernels
        if not scenario.kernels or kernel.name in scenario.kernels
    )


def pairs(campaign: Campaign, cells: Sequence[Cell]) -> tuple[tuple[Cell, Cell], ...]:
    """(baseline, candidate) for each pair of the campaign's and each point that ``cells`` has both
    of."""
    by_id = {cell.id: cell for cell in cells}
    return tuple(
        (cell, by_id[counterpart])
        for pair in campaign.pairs
        for cell in cells
        if (counterpart := _counterpart(pair, cell)) in by_id
    )


def _counterpart(pair: PairSpec, baseline: Cell) -> str:
    """The candidate's id; empty where the cell is no baseline of this pair."""
    if pair.of is PairOf.KERNEL:
        if baseline.kernel != pair.baseline:
            return ""
        return f"{pair.candidate}.{baseline.id.removeprefix(f'{baseline.kernel}.')}"
    by_driver = _driver_suffix(baseline.driver)
    if pair.of is PairOf.QEMU:
        if baseline.machine.qemu != pair.baseline:
            return ""
        point = baseline.id.removesuffix(_qemu_suffix(pair.baseline) + by_driver)
        return f"{point}{_qemu_suffix(pair.candidate)}{by_driver}"
    if baseline.driver != pair.baseline:
        return ""
    return f"{baseline.id.removesuffix(by_driver)}{_driver_suffix(Driver(pair.candidate))}"


def _qemu_suffix(name: str) -> str:
    return f".l0-{name}" if name else ""


def _driver_suffix(driver: Driver) -> str:
    return "" if driver is Driver.IN_GUEST else f".driver-{driver}"


def _cell(
    campaign: Campaign,
    scenario: ScenarioSpec,
    kernel: str,
    *,
    payload: str,
    job: str,
    session: str,
    machine: MachineSpec,
    seed: int,
) -> Cell:
    does = f"session-{session}" if session else "" if job == DEFAULT_JOB else f"job-{job}"
    point = ".".join(_point_parts(payload, does, machine, scenario.flood))
    drawn = "" if seed == campaign.seed else f".seed-{seed}"
    id_ = f"{kernel}.{point}{drawn}{_qemu_suffix(machine.qemu)}{_driver_suffix(scenario.driver)}"
    return Cell(
        id=id_,
        kernel=kernel,
        payload=payload,
        machine=machine,
        flood=scenario.flood,
        driver=scenario.driver,
        # Without QEMU and driver: both sides of a pair are flooded alike.
        seed=_seed(seed, point),
        expected=_expected(scenario.expect, kernel, payload, session or job),
        job=job,
        session=session,
        excluded=excluded(campaign.exclusions, id_),
    )


def excluded(exclusions: Iterable[Exclusion], cell_id: str) -> str:
    """Why a cell is left out, or nothing."""
    return next((one.reason for one in exclusions if fnmatchcase(cell_id, one.cells)), "")


def _point_parts(payload: str, does: str, machine: MachineSpec, flood: FloodSpec) -> Iterator[str]:
    """
    :param does: the job, or the session; empty for the default.
    """
    yield payload
    yield machine.kvm_mode
    if does:
        yield does
    yield from _flood_parts(flood)
    if machine.cpu != MachineSpec.cpu:
        yield f"cpu-{machine.cpu}"
    if machine.cpus != MachineSpec.cpus:
        yield f"cpus-{machine.cpus}"
    if machine.memory_mib != MachineSpec.memory_mib:
        yield f"mem-{machine.memory_mib}"
    if machine.gic_version != MachineSpec.gic_version:
        yield f"gic-{machine.gic_version}"
    if machine.page_kib != MachineSpec.page_kib:
        yield f"page-{machine.page_kib}k"
    if machine.nested_qemu:
        yield f"qemu-{machine.nested_qemu}"
    if machine.exception_order is not ExceptionOrder.TCG:
        yield from _order_parts(machine)


def _order_parts(machine: MachineSpec) -> Iterator[str]:
    yield f"{machine.exception_order}-{machine.pending}"
    if machine.redirects != MachineSpec.redirects:
        yield f"redirects-{machine.redirects}"
    if machine.redirect_at:
        yield "at-" + "+".join(machine.redirect_at)


def _flood_parts(flood: FloodSpec) -> Iterator[str]:
    if not flood.sources:
        yield "quiet" if flood.count == FloodSpec.count else f"quiet.x{flood.count}"
        return
    yield f"{flood.source}-{flood.placement}"
    interval = f"{flood.first_ns}-{'end' if flood.last_ns is None else flood.last_ns}"
    if flood.placement in (Placement.SWEEP, Placement.PAIRS):
        if (flood.first_ns, flood.last_ns, flood.step_ns) != (0, None, 1):
            yield f"{interval}-{flood.step_ns}"
        return
    if flood.placement is Placement.ADAPTIVE:
        if (flood.first_ns, flood.last_ns, flood.step_ns) != (0, None, ADAPTIVE_STEP_NS):
            yield f"{interval}-{flood.step_ns}"
        if flood.count != ADAPTIVE_PROBES:
            yield f"x{flood.count}"
        return
    if (flood.first_ns, flood.last_ns) != (0, None):
        yield interval
    if flood.period_ns:
        yield f"each-{flood.period_ns}"
    if flood.burst != FloodSpec.burst:
        yield f"burst-{flood.burst}"
    yield f"x{flood.count}"


def _seed(campaign_seed: int, point: str) -> int:
    digest = blake2b(f"{campaign_seed}:{point}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> (64 - _SEED_BITS)


def _expected(
    expect: Iterable[tuple[str, str, tuple[Expectation, ...]]], kernel: str, payload: str, job: str
) -> tuple[Expectation, ...]:
    of_kernel = {what: expected for name, what, expected in expect if name == kernel}
    of_payload = of_kernel.get(payload, (Expectation.PASS,))
    return of_kernel.get(f"{payload}/{job}", of_payload)
