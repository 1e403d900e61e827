"""Results in sentences: what the terminal, JUnit and every other report say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from qemu_diff.model import (
    Breakdown,
    CampaignResult,
    CellResult,
    CellVerdict,
    Confirmation,
    CostChange,
    Coverage,
    Driver,
    Expectation,
    Finding,
    FloodSource,
    Instruction,
    Method,
    PairOutcome,
    PairResult,
    SideBySide,
    Signature,
    Symptom,
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
    edges = "both edges to the ns, but not every ns inside tried"
    every = edges if window.sharp else "not every ns tried"
    if window.complete:
        every = "every ns inside and both edges tried"
    if window.mixed:
        every += f", {window.mixed:,} of them with both outcomes"
    when = WHEN.get(source, f"{source} is sent")
    tried = _counted(window.placements, "placement")
    between = f"{window.first_ns:,} to {window.last_ns:,} ns"
    return (
        f"{kernel} {VERBS[window.kind]} at {place(window.instruction)} whenever {when} "
        f"{between} after the entry into KVM_RUN: {tried}, {every}"
    )


def cell_sentences(result: CellResult) -> list[str]:
    """What happened in one cell."""
    kernel = result.cell.kernel
    warned = [f"{kernel} warned: {warning}" for warning in result.warnings]
    return [
        *_verdict_sentences(result),
        *coverage_sentences(result),
        *interrupt_sentences(result),
        *_witness_sentences(result),
        *warned,
    ]


def _witness_sentences(result: CellResult) -> list[str]:
    """Whether a debugger's user was shown the same everywhere."""
    if not result.witnessed:
        return []
    kernel, stops = result.cell.kernel, _counted(result.witnessed, "stop")
    agreed = f"{kernel}: gdbstub and monitor showed the same PC and PSTATE at each of {stops}"
    if result.verdict is CellVerdict.PASS:
        agreed += ", and the truth says so, too"
    if result.stopped_on_the_way:
        on_the_way = _counted(result.stopped_on_the_way, "step")
        agreed += f"; the monitor stopped {on_the_way} on the way"
    if not result.stepping_s:
        return [agreed]
    rate = result.witnessed / result.stepping_s
    return [agreed, f"{kernel}: {rate:,.0f} stops a second by {result.cell.driver}"]


def interrupt_sentences(result: CellResult) -> list[str]:
    """What was sent from where, and what came of it."""
    kernel = result.cell.kernel
    sent = [
        f"{one.source} {one.sent:,}" + ("" if one.handled is None else f"/{one.handled:,}")
        for one in result.sources
    ]
    if not sent:
        return []
    l1 = ", ".join(f"{one.name} {one.count:,}" for one in result.interrupts)
    took = f"; L1 took {l1}" if l1 else ""
    sentences = [f"{kernel}: interrupts sent/handled by L2: {', '.join(sent)}{took}"]
    seen = result.excursions
    if seen is not None:
        storms = (
            f"; in {_counted(seen.unfinished, 'pass')} of {seen.passes:,} they left no time for "
            "the mainline's end, which is legal"
            if seen.unfinished
            else ""
        )
        sentences.append(
            f"{kernel}: L2's handler ran {seen.handled:,} times, {seen.nested:,} of them nested"
            f"{storms}"
        )
    return sentences


def _verdict_sentences(result: CellResult) -> list[str]:
    kernel = result.cell.kernel
    if result.cell.driver is Driver.SELFTEST and result.verdict.judged:
        return [f"{kernel}: its own selftest: {result.verdict}: {result.reason}"]
    if result.cell.session and result.verdict.judged:
        return _session_sentences(result)
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


def _session_sentences(result: CellResult) -> list[str]:
    """What gdb's user was told."""
    kernel, commands = result.cell.kernel, _counted(result.steps, "command")
    if not result.findings:
        return [f"{kernel}: gdb's user was told the truth after each of {commands} that ran L2"]
    return [f"{kernel}: {finding.message}" for finding in result.findings]


def signature_name(signature: Signature) -> str:
    """``lost-step of sysreg in step/tcg``."""
    served = f", served by {signature.function}" if signature.function else ""
    return f"{signature.kind} of {signature.instruction} in {signature.scenario}{served}"


def symptom_name(symptom: Symptom) -> str:
    """The same of what a bisection follows: ``hang of wait_hints in step/tcg``."""
    name = f"{symptom.kind} of {symptom.instruction} in {symptom.scenario}"
    if not symptom.detail:
        return name
    broken = symptom.kind in {*ViolationKind}
    return f"{name}, served by {symptom.detail}" if broken else f"{name}: {symptom.detail}"


def _signature_sentences(result: CellResult) -> Iterator[str]:
    """What fresh boots made of each signature, and how many nobody tried."""
    for group in result.signatures:
        if group.confirmation is not None:
            name, often = signature_name(group.signature), confirmation_words(group.confirmation)
            where = f" (findings/{group.finding_id})" if group.finding_id else ""
            yield f"{result.cell.kernel}: {name}, {group.count:,} of them: {often}{where}"
    untried = sum(group.confirmation is None for group in result.signatures)
    if untried:
        more = "signature is" if untried == 1 else "signatures are"
        yield f"{result.cell.kernel}: {untried} more {more} not confirmed"


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
    return (
        f"{result.cell.kernel} keeps the step contract: {result.steps:,} steps, of which "
        f"{result.counted_steps:,} count ({result.active_pending_entries:,} entered in "
        f"Active-pending, {result.interrupted_steps:,} interrupted)"
    )


def coverage_sentences(result: CellResult) -> list[str]:
    """How placements were chosen, and what of the step windows they reached."""
    done = result.coverage
    if done is None or not result.verdict.judged:
        return []
    distinct = sum(span.placements for one in result.maps for span in one.spans)
    return [
        f"{result.cell.kernel}: {_method(result, done)}: {distinct:,} distinct placements over "
        f"{len(result.maps)} instructions; of {done.tried:,} interrupts sent {done.inside:,} came "
        f"inside a step window{_rate(done.inside, result.duration_s)}; "
        f"{_own_interrupts(result.l1_ticks)}",
        *_left_out(result.cell.kernel, done),
    ]


def _rate(number: int, seconds: float) -> str:
    return f", {number / seconds:,.0f} a second of wall time" if seconds else ""


def _method(result: CellResult, done: Coverage) -> str:
    flood = result.cell.flood
    if done.method is Method.FULL:
        every = "every ns" if done.resolution_ns == 1 else f"every {done.resolution_ns} ns"
        return (
            f"full grid: {every} of all step windows, from {done.first_ns:,} ns after the entry "
            "into KVM_RUN on, for before that the timer is still being programmed"
        )
    finest = f"resolution {done.resolution_ns} ns"
    if done.method is Method.GRID:
        return f"grid of {flood.step_ns:,} ns, {finest}"
    if done.method is Method.ADAPTIVE:
        return (
            f"adaptive: a grid of {flood.step_ns:,} ns with {flood.count:,} random placements "
            f"between, each change of the outcome refined, {finest}"
        )
    return f"{flood.placement} placements, {finest}"


def _own_interrupts(number: int) -> str:
    """What the numbers of placements leave out."""
    return f"{_counted(number, 'interrupt')} {'was' if number == 1 else 'were'} L1's own"


def _counted(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _left_out(kernel: str, done: Coverage) -> list[str]:
    if done.method is Method.FULL or not (done.missing or done.untouched):
        return []
    beyond = f", {done.beyond_ns:,} of them after the last placement of their instruction"
    untouched = f"; {_counted(done.untouched, 'instruction')} had no placement"
    return [
        f"{kernel}: {done.missing:,} ns of the step windows were left out"
        f"{beyond if done.beyond_ns else ''}{untouched if done.untouched else ''}; a placement can "
        f"reach a step from {done.first_ns:,} ns after the entry into KVM_RUN on"
    ]


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
    if finding.transcript:
        lines += ["  and gdb's user saw", *(f"    {line}" for line in finding.transcript)]
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


def cost_sentences(result: CellResult) -> list[str]:
    """What a step costs L1, class by class."""
    costs = ", ".join(f"{one.instruction} {one.median:,}" for one in result.costs)
    return [f"{result.cell.kernel}: L1 instructions per step: {costs}"] if costs else []


def cost_change_sentences(pair: PairResult) -> list[str]:
    """``L1 instructions per step, unpatched → patched: hvc 4,460 → 4,712 (+5.7 %)``."""
    costs = ", ".join(
        f"{one.instruction} {one.baseline:,} → {one.candidate:,} ({ratio_words(one)})"
        for one in pair.costs
    )
    return [f"L1 instructions per step, {' → '.join(pair.sides)}: {costs}"] if costs else []


def ratio_words(one: CostChange) -> str:
    """``+5.7 %``."""
    return f"{(one.ratio - 1) * 100:+.1f} %" if one.candidate != one.baseline else "the same"


def closing_sentence(result: CampaignResult) -> str:
    """The whole campaign in one sentence."""
    judged = [cell for cell in result.cells if cell.verdict.judged]
    lost = sum(cell.verdict is CellVerdict.LOST for cell in result.cells)
    skipped = len(result.cells) - len(judged) - lost
    unmet = [cell for cell in judged if not cell.as_expected]
    alarming = Counter(pair.outcome for pair in result.pairs if pair.outcome.alarming)
    parts = []
    if unmet:
        parts.append(f"{len(unmet)} of {len(judged)} judged cells are not as expected")
    for outcome, number in sorted(alarming.items()):
        how = "regressed" if outcome is PairOutcome.REGRESSED else "differ"
        parts.append(f"{number} of {len(result.pairs)} pairs {how}")
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
