"""Results in sentences: what the terminal, JUnit and every other report say."""

from __future__ import annotations

from collections.abc import Iterator

from qemu_diff.model import (
    Breakdown,
    CampaignResult,
    CellResult,
    CellVerdict,
    Confirmation,
    Driver,
    Expectation,
    Finding,
    FloodSource,
    Instruction,
    PairOutcome,
    SideBySide,
    Signature,
    ViolationKind,
    Window,
)

VERBS = {
    ViolationKind.LOST_STEP: "loses the step",
    ViolationKind.SPURIOUS_STEP: "reports a step that never ran",
    ViolationKind.WRONG_PC: "reports a wrong PC",
    ViolationKind.SS_LEAK: "shows a PSTATE.SS that is not the guest's",
    ViolationKind.STATE_MISMATCH: "gives another state than was written",
}


def place(instruction: Instruction) -> str:
    """``trapped_read (mrs x0, id_aa64pfr0_el1)``."""
    return f"{instruction.label} ({instruction.text})"


def breakdown_sentence(kernel: str, one: Breakdown) -> str:
    """How often an instruction's step is broken."""
    often = "every time" if one.broken == one.stepped else "sometimes"
    return (
        f"{kernel} {VERBS[one.kind]} at {place(one.instruction)} {often}: "
        f"{one.broken:,} of {one.stepped:,}"
    )


WHEN: dict[str, str] = {
    FloodSource.HOST_TIMER: "the interrupt is delivered",
    FloodSource.SIGNAL: "a signal is raised",
}


def window_sentence(kernel: str, source: str, window: Window) -> str:
    """Where in virtual time the placements lie that break a step."""
    every = "every ns inside and both edges tried" if window.complete else "not every ns tried"
    if window.mixed:
        every += f", {window.mixed:,} of them with both outcomes"
    when = WHEN.get(source, f"{source} is sent")
    between = f"{window.first_ns:,} to {window.last_ns:,} ns"
    return (
        f"{kernel} {VERBS[window.kind]} at {place(window.instruction)} whenever {when} "
        f"{between} after the entry into KVM_RUN: {window.placements:,} placements, {every}"
    )


def cell_sentences(result: CellResult) -> list[str]:
    """What happened in one cell."""
    kernel = result.cell.kernel
    warned = [f"{kernel} warned: {warning}" for warning in result.warnings]
    return [*_verdict_sentences(result), *warned]


def _verdict_sentences(result: CellResult) -> list[str]:
    kernel = result.cell.kernel
    if result.cell.driver is Driver.SELFTEST and result.verdict.judged:
        return [f"{kernel}: its own selftest: {result.verdict}: {result.reason}"]
    if result.verdict is CellVerdict.PASS:
        return [_clean_sentence(result)]
    if result.verdict is not CellVerdict.FAIL or not result.breakdown:
        return [f"{kernel}: {result.verdict}: {result.reason}"]
    shown = {(window.instruction, window.kind) for window in result.windows}
    first = f"the first broken step is step {result.first_broken_step:,} of {result.steps:,}"
    return [
        *([f"{kernel}: {first}"] if result.first_broken_step else []),
        *(window_sentence(kernel, result.cell.flood.source, window) for window in result.windows),
        *(
            breakdown_sentence(kernel, one)
            for one in result.breakdown
            if (one.instruction, one.kind) not in shown
        ),
        *_signature_sentences(result),
    ]


def signature_name(signature: Signature) -> str:
    """``lost-step of sysreg in step/tcg``."""
    served = f", served by {signature.function}" if signature.function else ""
    return f"{signature.kind} of {signature.instruction} in {signature.scenario}{served}"


def _signature_sentences(result: CellResult) -> Iterator[str]:
    """What fresh boots made of each signature, and how many nobody tried."""
    for group in result.signatures:
        if group.confirmation is not None:
            name, often = signature_name(group.signature), confirmation_words(group.confirmation)
            where = f" (findings/{group.finding_id})" if group.finding_id else ""
            yield f"{result.cell.kernel}: {name}, {group.count:,} of them: {often}{where}"
    untried = sum(group.confirmation is None for group in result.signatures)
    if untried:
        yield f"{result.cell.kernel}: {untried} more signatures are not confirmed"


def confirmation_words(confirmation: Confirmation) -> str:
    """What fresh boots came to."""
    boots, reproduced = confirmation.boots, confirmation.reproduced
    if confirmation.in_batch and not boots:
        return "confirmed from a fresh boot of the whole batch"
    if confirmation.in_batch:
        return f"none of {boots} single passes shows it, the whole batch does, booted again"
    if not reproduced:
        return f"not reproduced from a fresh boot: 0 of {boots}"
    if confirmation.flaky:
        return f"flaky from a fresh boot: {reproduced} of {boots}"
    return "confirmed from a fresh boot, in one pass"


def _clean_sentence(result: CellResult) -> str:
    grid = sum(grid.placements for grid in result.grids)
    missing = sum(grid.missing for grid in result.grids)
    swept = ""
    if result.cell.flood.placement == "sweep":
        left = f", {missing:,} ns left out" if missing else ", no ns left out"
        swept = f"; {grid:,} distinct placements over {len(result.grids)} instructions{left}"
    return (
        f"{result.cell.kernel} keeps the step contract: {result.steps:,} steps, of which "
        f"{result.counted_steps:,} count ({result.active_pending_entries:,} entered in "
        f"Active-pending, {result.interrupted_steps:,} interrupted){swept}"
    )


def expectation_sentence(result: CellResult) -> str:
    """Why a cell is not as expected; empty where it is, or was skipped."""
    cell = result.cell
    if result.as_expected or result.verdict is CellVerdict.SKIPPED:
        return ""
    if result.verdict is CellVerdict.LOST:
        return f"{cell.id}: nothing was learnt: {result.reason}"
    expected = " and ".join(cell.expected)
    if cell.expected == (Expectation.PASS,):
        return f"{cell.id}: {result.verdict}, expected to pass: {result.reason}"
    if result.verdict is CellVerdict.PASS:
        return (
            f"{cell.id}: the bug that must be seen here was not seen: expected {expected}, "
            f"but all {result.steps:,} steps were right; as long as {cell.kernel} does not show "
            "it, no other kernel's pass means anything"
        )
    return f"{cell.id}: expected {expected}, got {result.reason or result.verdict}"


def finding_lines(finding: Finding) -> list[str]:
    """One broken step, or one wrong register, whole."""
    return _register_lines(finding) if finding.register else _step_lines(finding)


def _register_lines(finding: Finding) -> list[str]:
    return [
        _title(finding),
        f"  L2 stood at      {_at(finding.reported_pc)}",
        f"  stepping         {'on' if finding.stepping else 'off'}",
        f"  {finding.register:<16} {finding.read_value:#x}",
        f"  its own value    {finding.own_value:#x}, {finding.own_from}",
    ]


def _step_lines(finding: Finding) -> list[str]:
    where = "nowhere that is known" if finding.previous_pc is None else _at(finding.previous_pc)
    lines = [
        _title(finding),
        f"  L2 stood at      {where}",
        *(
            f"  {'then it ran' if index == 0 else 'and also'}{'':<{5 if index == 0 else 8}} "
            f"{_at(one)}"
            for index, one in enumerate(finding.executed)
        ),
        f"  reported         {_at(finding.reported_pc)}",
        f"  due was          {' or '.join(_at(one) for one in finding.legal_pcs) or 'unknown'}",
    ]
    lines.extend(f"  never reported   {_at(one)}" for one in finding.missed)
    if finding.delivered_ns is not None:
        lines.append(
            f"  interrupt        {finding.delivered_ns:,} ns after the entry into KVM_RUN "
            f"(requested {finding.requested_ns:,} ns after arming)"
        )
    return lines


def _title(finding: Finding) -> str:
    return (
        f"{finding.kind} at report {finding.report:,} of boot {finding.boot} "
        f"(pass {finding.pass_number:,}, {finding.attributed_to})"
    )


def side_by_side_lines(rows: SideBySide, baseline: str, candidate: str) -> list[str]:
    """Both kernels' reported PCs, in the order in which L2 executed."""
    width = max(len(baseline), len(candidate), 10)
    lines = [f"  {'':<46} {baseline:<{width}}  {candidate}"]
    for instruction, first, second in rows.rows:
        cells = [f"{instruction.address:#x}" if seen else "-" for seen in (first, second)]
        name = f"{instruction.label}: {instruction.text}"
        lines.append(f"  {name:<46} {cells[0]:<{width}}  {cells[1]:<{width}}".rstrip())
    return lines


def closing_sentence(result: CampaignResult) -> str:
    """The whole campaign in one sentence."""
    judged = [cell for cell in result.cells if cell.verdict.judged]
    lost = sum(cell.verdict is CellVerdict.LOST for cell in result.cells)
    skipped = len(result.cells) - len(judged) - lost
    unmet = [cell for cell in judged if not cell.as_expected]
    regressed = [pair for pair in result.pairs if pair.outcome is PairOutcome.REGRESSED]
    parts = []
    if unmet:
        parts.append(f"{len(unmet)} of {len(judged)} judged cells are not as expected")
    if regressed:
        parts.append(f"{len(regressed)} of {len(result.pairs)} pairs regressed")
    if lost:
        parts.append(f"{lost} of {len(result.cells)} cells were lost: nothing was learnt from them")
    if not result.complete:
        parts.append("the run was cut off: these are the cells that had finished")
    left_out = f"; {skipped} of {len(result.cells)} cells were skipped" if skipped else ""
    if not parts and judged:
        return f"Everything is as expected, the bugs that must be seen included{left_out}."
    return ("; ".join(parts) or "nothing was judged").capitalize() + f"{left_out}."


def _at(instruction: Instruction) -> str:
    return f"{instruction.address:#x}  {instruction.label}: {instruction.text}"
