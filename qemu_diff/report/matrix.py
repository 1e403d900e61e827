"""The whole campaign as one table: scenario, order of exceptions, kernel.

A row is what kernels are compared in: everything of a cell but its kernel. An entry is the verdict,
how many steps were broken of how many and which was the first, and the widest window in virtual
time where a sweep found one. Wrong register reads are counted beside steps.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from qemu_diff.model import (
    DEFAULT_JOB,
    FROM_OUTSIDE,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    ExceptionOrder,
    FloodSpec,
    MachineSpec,
    Pending,
    ViolationKind,
    Window,
)
from qemu_diff.report.printable import markdown_text

NOTHING = "-"

READ_KINDS = (ViolationKind.SS_LEAK, ViolationKind.STATE_MISMATCH)
"""Violations that are wrong reads, not steps."""


@dataclass(frozen=True)
class Entry:
    """One cell of the table.

    :param lines: verdict first; then counts and windows.
    :param as_expected: whether the campaign expects it.
    :param id: the cell's.
    """

    lines: tuple[str, ...]
    as_expected: bool
    id: str


@dataclass(frozen=True)
class Row:
    """One scenario on one machine.

    :param entries: one for each kernel, in the order of the columns; None where there is no cell.
    """

    scenario: str
    machine: str
    order: str
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True)
class Matrix:
    """The table.

    :param kernels: the columns.
    """

    kernels: tuple[str, ...]
    rows: tuple[Row, ...]


def matrix(result: CampaignResult) -> Matrix:
    """The campaign's table; rows in the order of its cells."""
    kernels = tuple(dict.fromkeys(one.cell.kernel for one in result.cells))
    rows: dict[tuple[str, _Point], dict[str, Entry]] = {}
    for one in result.cells:
        # Cells that differ in what has no column are rows of their own: ids tell them apart.
        name = one.cell.id.removeprefix(f"{one.cell.kernel}.")
        rows.setdefault((name, _point(one.cell)), {})[one.cell.kernel] = _entry(one)
    points = [point for _, point in rows]
    alike = Counter(_names(point, "") for point in points)
    named = {point: _names(point, _details(point)) for point in points}
    return Matrix(
        kernels,
        tuple(
            Row(
                *(named[point] if alike[_names(point, "")] > 1 else _names(point, "")),
                tuple(entries.get(kernel) for kernel in kernels),
            )
            for (_, point), entries in rows.items()
        ),
    )


def markdown(table: Matrix) -> str:
    """The table in Markdown, for a README or the summary page of a CI job."""
    head = ("scenario", "machine", "order", *table.kernels)
    lines = [_line(head), _line(["---"] * len(head))]
    for row in table.rows:
        entries = (_marked(entry) for entry in row.entries)
        lines.append(_line((row.scenario, row.machine, f"`{row.order}`", *entries)))
    return "\n".join(lines) + "\n"


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(entry: Entry | None) -> str:
    if entry is None:
        return NOTHING
    first, *others = map(markdown_text, entry.lines)
    mark = "" if entry.as_expected else " ✗"
    return "<br>".join([f"**{first}**{mark}", *others])


_Point = tuple[str, str, FloodSpec, MachineSpec, Driver, int]
"""Payload, job or session, flood, machine, driver, seed: a cell without its kernel."""


def _point(cell: Cell) -> _Point:
    does = cell.session or cell.job
    return cell.payload, does, cell.flood, cell.machine, cell.driver, cell.seed


def _names(point: _Point, details: str) -> tuple[str, str, str]:
    """Scenario, machine and order in words.

    :param details: what sets the point apart from others of the same names.
    """
    payload, job, flood, machine, driver, _ = point
    flooded = "" if not flood.sources else f" · {flood.source} {flood.placement}"
    done = "" if job == DEFAULT_JOB else f" · {job}"
    by = f" by {driver}" if driver in FROM_OUTSIDE else ""
    return f"{payload}{done}{flooded}{by}{details}", _machine(machine), _order(machine)


def _details(point: _Point) -> str:
    _, _, flood, machine, driver, seed = point
    last = "end" if flood.last_ns is None else f"{flood.last_ns:,}"
    interval = f"{flood.first_ns:,} to {last} by {flood.step_ns:,} ns"
    memory = f"{machine.memory_mib} MiB"
    parts = [f"{driver}", f"x{flood.count:,}", interval, memory, f"seed {seed}"]
    return f" ({', '.join(parts)})"


def _machine(machine: MachineSpec) -> str:
    cpu = "" if machine.cpu == MachineSpec.cpu else f" {machine.cpu}"
    cpus = "" if machine.cpus == MachineSpec.cpus else f" x{machine.cpus}"
    gic = "" if machine.gic_version == MachineSpec.gic_version else f" GICv{machine.gic_version}"
    pages = "" if machine.page_kib == MachineSpec.page_kib else f" {machine.page_kib}K pages"
    nested_qemu = f" {machine.nested_qemu}" if machine.nested_qemu else ""
    qemu = f" QEMU {machine.qemu}" if machine.qemu else ""
    return f"{machine.kvm_mode}{cpu}{cpus}{gic}{pages}{nested_qemu}{qemu}"


def _order(machine: MachineSpec) -> str:
    if machine.exception_order is ExceptionOrder.TCG:
        return machine.exception_order.value
    parts = [machine.exception_order.value]
    if machine.pending is not Pending.SGI:
        parts.append(machine.pending.value)
    if machine.redirects != MachineSpec.redirects:
        parts.append(f"K={machine.redirects}")
    if machine.redirect_at:
        parts.append("at " + ",".join(machine.redirect_at))
    return " ".join(parts)


def _entry(one: CellResult) -> Entry:
    return Entry(tuple(_lines(one)), one.as_expected, one.cell.id)


def _lines(one: CellResult) -> list[str]:
    if one.cell.driver is Driver.SELFTEST and one.verdict.judged:
        return [one.verdict.value, one.reason]
    if one.verdict is CellVerdict.PASS:
        return ["pass", f"{one.steps:,} steps"]
    if one.verdict is not CellVerdict.FAIL or not one.violations:
        return [one.verdict.value]
    kinds = [kind.value for kind, _ in one.violations]
    return [", ".join(kinds), _counts(one), *map(_window, _widest(one))]


def _counts(one: CellResult) -> str:
    reads = sum(number for kind, number in one.violations if kind in READ_KINDS)
    steps = sum(number for kind, number in one.violations if kind not in READ_KINDS)
    if not steps:
        return f"{reads:,} reads in {one.steps:,} steps"
    also = f", {reads:,} reads" if reads else ""
    first = f", first: {one.first_broken_step:,}" if one.first_broken_step else ""
    return f"{steps:,} of {one.steps:,}{also}{first}"


def _widest(one: CellResult) -> list[Window]:
    """The widest window: the others, if any, are in the cell's sentences."""
    return sorted(one.windows, key=lambda window: -window.placements)[:1]


def _window(window: Window) -> str:
    return f"{window.first_ns:,} to {window.last_ns:,} ns"
