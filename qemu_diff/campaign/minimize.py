"""A finding made small: fewest instructions, one pass, one interrupt, and a campaign that shows it.

Instructions are taken out of the payload's source, and each candidate is judged by a real boot of
its own: what must stay is the signature, not just some failure. Where an interrupt is needed, its
place moves with the instructions that go; so each candidate is swept once around the place that was
known. A candidate that does not assemble, runs away, or ends in anything but the signature does not
reproduce.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qemu_diff.abi import OperationCode, RecordFlag, RecordKind, StepRecords
from qemu_diff.campaign.cell import ATTEMPTS, LEARNING_DELAY_NS
from qemu_diff.campaign.confirm import passes_showing, placements_of_pass
from qemu_diff.campaign.finding_directory import (
    PAYLOAD_SOURCE,
    SCRIPT,
    FindingRecord,
    StoredFinding,
)
from qemu_diff.campaign.fresh_boot import Bench, FreshBoot, fresh_boot
from qemu_diff.compare.decode import classify, program_of
from qemu_diff.compare.minimise import Minimised, minimise
from qemu_diff.compare.slices import pass_of_run
from qemu_diff.compare.verdict import judged_cell
from qemu_diff.config.schema import NAME_LENGTH
from qemu_diff.drive.in_guest import RECORDS
from qemu_diff.drive.job import Job, Routine, compiled, quiet_job, sweep_job
from qemu_diff.drive.script import parsed
from qemu_diff.errors import (
    CompileError,
    CorruptDataError,
    InfrastructureError,
    KilledGuestError,
    LostGuestError,
    QemuDiffError,
    ResultsError,
    UserError,
)
from qemu_diff.flood.placement import Sweep
from qemu_diff.guest.image import PAYLOADS, assemble
from qemu_diff.guest.payload_source import PayloadSource, payload_source_of
from qemu_diff.model import (
    CellResult,
    CellVerdict,
    DebianSource,
    ExceptionOrder,
    FloodSource,
    GitSource,
    MachineSpec,
    Payload,
    Placement,
    TreeSource,
)
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.records import read_records

MOST_CANDIDATES = 60
"""Boots of half a second to a second each: a minute is what one waits for."""

CANDIDATE_BUDGET_S = 15.0

ASSUMED_WIDTH_NS = 128
"""Where nothing is known of the window."""

ASSUMED_DELAY_NS = 4000
"""Where no interrupt was placed, but L1's own tick broke the step: the middle of what is swept."""

SWEEP_REACH_NS = 3000
"""How far the placement may move when instructions go."""

SWEEP_PASSES = 400
MOST_SETTLING_BOOTS = 24
SLACK_STEPS = 16

VERDICT = "expected-verdict.json"
CAMPAIGN = "campaign.toml"


MINIMISED = (FloodSource.HOST_TIMER, FloodSource.SIGNAL)
"""Sources that need nothing of L2: a payload that is cut down has no handler."""


@dataclass(frozen=True)
class Candidate:
    """A smaller payload that was seen to fail.

    :param delay_ns: the requested delay that does it; None without a flood.
    """

    source: PayloadSource
    payload: Payload
    delay_ns: int | None


@dataclass(frozen=True)
class Shrunk:
    """What minimising came to.

    :param before: instructions of the finding's stepping range.
    :param lines: the instructions that are left.
    :param passes: of the final boot.
    :param interrupts: placed interrupts and signals that came in it.
    :param boots: real boots that it took.
    """

    before: int
    lines: tuple[str, ...]
    minimal: bool
    steps: int
    passes: int
    interrupts: int
    boots: int


def minimize(
    stored: StoredFinding,
    bench: Bench,
    out: Path,
    scratch: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> Shrunk | None:
    """Shrink a finding, and write the campaign that shows what is left.

    :param bench: what boots it.
    :param out: gets the campaign, its payload and the verdict; must not be there.
    :param scratch: for the boots.
    :returns: None where the finding does not come out at all.
    :raises UserError: ``out`` can't be made, or the flood is none that a sweep stands for.
    :raises ResultsError: the finding's source does not give its payload.
    :raises KilledGuestError: QEMU was killed, again and again.
    :raises InfrastructureError: QEMU can't be started, or the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; name another directory with --out")
    sources = stored.record.cell.flood.sources
    if len(sources) > 1 or any(one not in MINIMISED for one in sources):
        raise UserError(
            f"{stored.record.id}: of floods, {' and '.join(MINIMISED)} alone can be minimised"
        )
    minimizer = _Minimizer(stored, bench, scratch, progress)
    shrunk = minimizer.shrunk()
    if shrunk is None:
        return None
    found, search = shrunk
    settled = minimizer.settled(found)
    if settled is None:
        return None
    final, passes, boot = settled
    result = judged_cell(bench.cell, boot.observation, Listing(final.payload))
    if result.verdict is not CellVerdict.FAIL:  # a campaign of it would tell nothing
        return None
    source = FloodSource.NONE if final.delay_ns is None else minimizer.source
    _write(out, stored, final, flood_text(source, final.delay_ns, passes), result)
    return Shrunk(
        before=(bench.payload.end - bench.payload.begin) // 4,
        lines=tuple(" ".join(final.source.lines[one].split()) for one in final.source.instructions),
        minimal=search.minimal,
        steps=result.steps,
        passes=passes,
        interrupts=int(np.sum((boot.trace.records["flags"] & RecordFlag.TIMER_FIRED) != 0)),
        boots=minimizer.boots,
    )


class _Minimizer:
    def __init__(
        self, stored: StoredFinding, bench: Bench, scratch: Path, progress: Callable[[str], None]
    ) -> None:
        self._stored = stored
        self._record: FindingRecord = stored.record
        self._bench = replace(bench, budget_s=min(bench.budget_s, CANDIDATE_BUDGET_S))
        self._scratch = scratch
        self._progress = progress
        self._candidates: dict[str, Candidate] = {}
        self._text = (stored.directory / SCRIPT).read_text(encoding="utf-8", errors="replace")
        self._quiet = False
        self.source = next(iter(bench.cell.flood.sources), FloodSource.HOST_TIMER)
        records = read_records(stored.directory / RECORDS)
        self._steps = int(np.sum(records["kind"] == RecordKind.RUN))
        self._delay = self._record.finding.requested_ns or _delay_of(records, self._record)
        self.boots = 0

    def shrunk(self) -> tuple[Candidate, Minimised[int]] | None:
        """The smallest payload that fails, and how the search went."""
        source = payload_source_of(
            (self._stored.directory / PAYLOAD_SOURCE).read_text(encoding="utf-8", errors="replace")
        )
        whole = self._assembled(source)
        if whole is None or whole.blob != self._bench.payload.blob:
            raise ResultsError(
                f"{self._stored.directory}: this assembler does not make payload.bin of payload.S"
            )
        self._find_mode(source, whole)
        if self._judged(source) is None:
            return None
        units = (*source.instructions, *((source.tail[0],) if source.tail else ()))

        def fails(kept: tuple[int, ...]) -> bool:
            return self._judged(self._with(source, kept)) is not None

        search = minimise(
            units, fails, most_calls=MOST_CANDIDATES, guesses=self._guesses(source, whole)
        )
        return self._candidates[self._with(source, search.units).text], search

    def settled(self, found: Candidate) -> tuple[Candidate, int, FreshBoot] | None:
        """The placement that fails in a boot of one pass, or of two."""
        if found.delay_ns is None:
            done = self._booted(found.payload, quiet_job(self._routine(found.payload), 1))
            return (found, 1, done) if done else None
        tries = [(delay, 1) for delay in self._first_pass_delays(found.payload, found.delay_ns)]
        for delay, passes in (*tries[:MOST_SETTLING_BOOTS], (found.delay_ns, 2)):
            job = self._sweep(found.payload, Sweep(delay, 1, passes))
            if done := self._booted(found.payload, job):
                return replace(found, delay_ns=delay), passes, done
        return None

    def _first_pass_delays(self, payload: Payload, delay: int) -> Iterator[int]:
        """Where a delay of a later pass may lie in a boot's first one.

        There KVM prepares the vCPU and L2's first fetch faults, all of it before L2 runs.
        """
        yield delay
        quiet = Sweep(LEARNING_DELAY_NS, 0, 2)
        done = self._run(payload, self._sweep(payload, quiet))
        if done is None:
            return
        for extra in _extra_of_first_pass(done):
            for offset in (0, -self._width() // 3, self._width() // 3):
                yield max(1, delay + extra + offset)

    def _width(self) -> int:
        first, last = self._record.first_ns, self._record.last_ns
        return ASSUMED_WIDTH_NS if first is None or last is None else max(1, last - first)

    # --- candidates ---

    def _with(self, source: PayloadSource, kept: tuple[int, ...]) -> PayloadSource:
        """The source with these units alone."""
        tail = source.tail if source.tail and source.tail[0] not in kept else ()
        less = source.without({*source.instructions} - {*kept})
        if not tail:
            return less
        return payload_source_of("\n".join(less.lines[: less.tail[0]]) if less.tail else less.text)

    def _guesses(self, source: PayloadSource, whole: Payload) -> list[list[int]]:
        """The broken step's own instructions, where each line is one instruction."""
        if 4 * len(source.instructions) != whole.end - whole.begin:
            return []
        finding = self._record.finding
        executed = [finding.instruction, *finding.executed]
        places = {(one.address - whole.begin) // 4 for one in executed}
        first = (finding.instruction.address - whole.begin) // 4
        return [[first], [*places], [first, first + 1], [first - 1, *places]]

    def _find_mode(self, source: PayloadSource, whole: Payload) -> None:
        """A flood's cell may hold what needs no interrupt; a quiet cell, what L1's tick did."""
        done = self._booted(whole, quiet_job(self._routine(whole), 1))
        self._quiet = done is not None
        if done:
            self._candidates[source.text] = Candidate(source, whole, None)

    def _judged(self, source: PayloadSource) -> Candidate | None:
        """The candidate, if a boot shows the signature."""
        if source.text in self._candidates:
            return self._candidates[source.text]
        payload = self._assembled(source)
        if payload is None or payload.begin == payload.end:
            return None
        self._progress(f"{len(source.instructions)} instructions, boot {self.boots + 1}")
        try:
            routine = self._routine(payload)
        except QemuDiffError:  # the job needs a label that is gone
            return None
        stated = source.stating(payload.classes)
        if self._quiet:
            done = self._booted(payload, quiet_job(routine, 1))
            found = Candidate(stated, payload, None) if done else None
        else:
            found = self._swept(stated, payload)
        if found:
            self._candidates[source.text] = found
        return found

    def _swept(self, source: PayloadSource, payload: Payload) -> Candidate | None:
        """Sweep the window where it must be, coarsely; the middle of what fails is the delay."""
        requested = self._delay
        step = max(1, self._width() // 4)
        reach = min(SWEEP_REACH_NS, SWEEP_PASSES * step // 2)
        whole = Sweep(max(1, requested - reach), step, 2 * reach // step)
        done = self._booted(payload, self._sweep(payload, whole))
        if done is None:
            return None
        # The step that goes wrong may be the one after that in which the interrupt came.
        bench = replace(self._bench, payload=payload)
        passes = passes_showing(done.observation, done.trace, bench, self._record.signature)
        delays = [
            int(delay)
            for number in passes
            for delay in placements_of_pass(done.trace, number)["delay"][:1]
        ]
        if not delays:
            return None
        return Candidate(source, payload, sorted(delays)[len(delays) // 2])

    def _assembled(self, source: PayloadSource) -> Payload | None:
        """The payload, with its classes as they are; None where it is none."""
        path = self._scratch / f"{_name_of(self._record)}.S"
        path.write_text(source.text)
        try:
            payload = assemble(path, (self._stored.directory.absolute(),), self._scratch)
            payload = replace(payload, classes=_classes(payload))
            program_of(payload)
        except InfrastructureError:
            return None
        return payload

    # --- boots ---

    def _routine(self, payload: Payload) -> Routine:
        """The job for a payload, with no more steps than the finding took."""
        whole = compiled(parsed(self._text, self._stored.directory / SCRIPT), payload)
        most = self._steps + SLACK_STEPS
        bounded = tuple(
            replace(one, n=min(one.n, most)) if one.code is OperationCode.STEP else one
            for one in whole.each_pass
        )
        return replace(whole, each_pass=bounded)

    def _sweep(self, payload: Payload, sweep: Sweep) -> Job:
        return sweep_job(self._routine(payload), self.source, sweep)

    def _booted(self, payload: Payload, job: Job) -> FreshBoot | None:
        """A boot that shows the signature."""
        done = self._run(payload, job)
        wanted = self._record.signature
        return done if done and done.finding(self._bench.cell, payload, wanted) else None

    def _run(self, payload: Payload, job: Job) -> FreshBoot | None:
        """A boot that came to its end; None where the candidate runs away.

        :raises InfrastructureError: what came in between is no candidate's doing.
        """
        bench = replace(self._bench, payload=payload)
        for _ in range(ATTEMPTS):
            self.boots += 1
            directory = self._scratch / f"boot-{self.boots}"
            try:
                return fresh_boot(bench, job, directory)
            except KilledGuestError as error:
                killed = error
            except (LostGuestError, CorruptDataError, CompileError):
                return None
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        raise killed


def _extra_of_first_pass(done: FreshBoot) -> tuple[int, ...]:
    """By how much each step of the first pass is longer than that of the second, in ns."""
    records = done.trace.records
    runs, passes = records[records["kind"] == RecordKind.RUN], pass_of_run(records)
    length = (runs["returned_at"] - runs["armed_at"]).astype(np.int64)
    both = zip(length[passes == 0].tolist(), length[passes == 1].tolist(), strict=False)
    return tuple(dict.fromkeys(first - second for first, second in both))


def _delay_of(records: StepRecords, record: FindingRecord) -> int:
    """The delay (ns) that the finding's pass was given, where its step had no interrupt."""
    runs = records[records["kind"] == RecordKind.RUN]
    armed = (runs["flags"] & RecordFlag.TIMER_ARMED) != 0
    inside = runs[armed & (pass_of_run(records) == record.finding.pass_number)]
    return int(np.median(inside["delay_ns"])) if len(inside) else ASSUMED_DELAY_NS


def _classes(payload: Payload) -> tuple[str, ...]:
    """What the stepping range holds."""
    begin, end = (pc - payload.load_address for pc in (payload.begin, payload.end))
    words = np.frombuffer(payload.blob[begin:end], "<u4")
    return tuple(sorted({classify(int(word)).name for word in words}))


def _name_of(record: FindingRecord) -> str:
    return f"{record.cell.payload[: NAME_LENGTH - 4]}_min"


# --- the triple ----------------------------------------------------------------------------------


def _write(
    out: Path, stored: StoredFinding, final: Candidate, flood: str, result: CellResult
) -> None:
    """A directory that ``qemu-diff run campaign.toml`` takes as it is."""
    name = _name_of(stored.record)
    try:
        (out / PAYLOADS).mkdir(parents=True)
        (out / "jobs").mkdir()
        (out / PAYLOADS / f"{name}.S").write_text(final.source.text)
        shutil.copy(stored.directory / SCRIPT, out / "jobs" / f"{stored.record.cell.job}.job")
        for one in stored.files:
            if one.endswith(".inc"):
                shutil.copy(stored.directory / one, out / PAYLOADS / one)
        for patch in (*stored.record.kernel.patches, *stored.record.kernel.kconfig):
            shutil.copy(stored.directory / patch.file, out / patch.file)
        (out / CAMPAIGN).write_text(campaign_text(stored.record, flood, result))
        (out / VERDICT).write_text(_verdict_text(stored.record, result))
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}; name another directory with --out") from error


def _verdict_text(record: FindingRecord, result: CellResult) -> str:
    signature_of = record.signature
    return (
        json.dumps(
            {
                "kernel": record.kernel.name,
                "verdict": result.verdict,
                "violations": dict(result.violations),
                "steps": result.steps,
                "instruction": signature_of.instruction,
                "scenario": signature_of.scenario,
            },
            indent=2,
        )
        + "\n"
    )


def campaign_text(record: FindingRecord, flood: str, result: CellResult) -> str:
    """The campaign file.

    :param flood: as it stands there; see :func:`flood_text`.
    """
    kernel, cell, name = record.kernel, record.cell, _name_of(record)
    kinds = ", ".join(json.dumps(kind) for kind, _ in result.violations)
    lines = [
        f"# Made by qemu-diff minimize of {record.id}",
        "[campaign]",
        'name = "minimized"',
        f"seed = {cell.seed}",
        f"budget_s = {record.budget_s:g}",
        "",
        f"[kernels.{kernel.name}]",
        f"source = {_source_text(record)}",
    ]
    for key, stored in (("patches", kernel.patches), ("kconfig", kernel.kconfig)):
        if stored:
            lines.append(f"{key} = [{', '.join(json.dumps(one.file) for one in stored)}]")
    if kernel.reverts:
        lines.append(f"reverts = {json.dumps(kernel.reverts)}")
    lines += [
        "",
        "[[scenario]]",
        f"payload = {json.dumps(name)}",
        f"job = {json.dumps(cell.job)}",
        f"expect = {{ {kernel.name} = {{ {name} = [{kinds}] }} }}",
        f"machine = {_machine_text(cell.machine)}",
        f"flood = {flood}",
    ]
    return "\n".join(lines) + "\n"


def _source_text(record: FindingRecord) -> str:
    source = record.kernel.source
    if isinstance(source, DebianSource):
        if not source.suite:
            return json.dumps(f"debian:{source.package}")
        parts = {"debian": source.package, "suite": source.suite}
    elif isinstance(source, TreeSource):
        parts = {"tree": str(source.path)}
    elif isinstance(source, GitSource):
        parts = {"git": source.repository, "rev": source.rev}
    else:
        parts = {"image": str(source.image)}
        if source.vmlinux:
            parts["vmlinux"] = str(source.vmlinux)
    return _table(parts)


def _machine_text(machine: MachineSpec) -> str:
    parts: dict[str, object] = {"kvm_mode": machine.kvm_mode}
    for key in ("cpu", "memory_mib", "cpus", "gic_version", "page_kib", "qemu"):
        if (value := getattr(machine, key)) != getattr(MachineSpec, key):
            parts[key] = value
    if machine.exception_order is not ExceptionOrder.TCG:
        parts["exception_order"] = machine.exception_order
        parts["pending"] = machine.pending
        parts["redirects"] = machine.redirects
        if machine.redirect_at:
            parts["redirect_at"] = list(machine.redirect_at)
    return _table(parts)


def flood_text(source: FloodSource, delay_ns: int | None, passes: int) -> str:
    """A campaign's flood.

    :param delay_ns: the one placement; None without a flood.
    :param passes: over the payload.
    """
    if delay_ns is None:
        return _table({"source": "none", "count": passes})
    return _table(
        {
            "source": source,
            "placement": Placement.SWEEP,
            "first_ns": delay_ns,
            "last_ns": delay_ns + passes - 1,
        }
    )


def _table(parts: dict[str, object] | dict[str, str]) -> str:
    """An inline table of TOML; JSON's strings, numbers and arrays are TOML's."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in parts.items()) + " }"


def minimize_sentences(record: FindingRecord, done: Shrunk, out: Path) -> list[str]:
    """What minimising came to, in words."""
    left = f"{len(done.lines)} of {done.before} instructions"
    least = "none of them can go" if done.minimal else "the search was cut off: some may still go"
    size = ", ".join(
        f"{number} {name if number == 1 else plural}"
        for number, name, plural in (
            (done.passes, "pass", "passes"),
            (done.steps, "step reported", "steps reported"),
            (done.interrupts, "placed interrupt", "placed interrupts"),
        )
    )
    return [
        f"{record.id}: {left} are left, and {least}:",
        *(f"    {line}" for line in done.lines),
        f"  {size}; {done.boots} boots",
        f"  to see it: qemu-diff run {out / CAMPAIGN}",
    ]
