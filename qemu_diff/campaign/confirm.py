"""Findings are claimed when a fresh boot has shown them again, and kept so that anybody can.

A batch of thousands of passes shows a broken step in the midst of a long history. Here each
signature of a cell is booted anew with one pass: the job's begin, and the interrupts of one of the
passes that went wrong. Where the first does not show it, others of these passes are tried, and the
odds are part of the finding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qemu_diff.abi import PLACEMENT, RecordFlag, RecordKind
from qemu_diff.campaign.cell import ATTEMPTS, read_boot
from qemu_diff.campaign.finding_directory import (
    COLUMNS_TEXT,
    FORMAT_VERSION,
    JOB,
    PAYLOAD_BLOB,
    PAYLOAD_SOURCE,
    SCRIPT,
    STEPVMM,
    TRACE,
    FindingRecord,
    StoredKernel,
    StoredPatch,
    finding_id,
    tool_version,
    write_finding,
)
from qemu_diff.campaign.fresh_boot import Bench, FreshBoot, fresh_boot
from qemu_diff.compare.columns import Columns, column_lines, columns
from qemu_diff.compare.contract import Judged
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.observation import Observation, observe
from qemu_diff.compare.pair import pass_of_steps
from qemu_diff.compare.placement_map import violation_of
from qemu_diff.compare.placements import NOT_DELIVERED
from qemu_diff.compare.signature import grouped, signature, signature_of
from qemu_diff.compare.slices import pass_of_record, pass_of_run
from qemu_diff.drive.job import Job, Routine, quiet_job, table_job
from qemu_diff.drive.recorded_job import RecordedJob, recorded_job
from qemu_diff.errors import CorruptDataError, InfrastructureError, LostGuestError
from qemu_diff.flood.placement import Placements
from qemu_diff.guest.process import ARGV, CONSOLE
from qemu_diff.kernels.patch import Patch
from qemu_diff.model import (
    Build,
    Cell,
    CellResult,
    Confirmation,
    Finding,
    KernelSpec,
    Placement,
    Signature,
    SignatureGroup,
    ViolationKind,
)
from qemu_diff.scratch import scratch_directory
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace

MOST_SIGNATURES = 4
"""Of one cell, most frequent first: each takes one to seven boots."""

MOST_BOOTS = 5
"""Passes that are tried by themselves before a signature counts as one of the whole batch."""

_SOCKETS = re.compile(r"/[^ ,=]*/qemu-diff-[^/ ,]+/")
_INCLUDE = re.compile(r'^\s*\.include\s+"([A-Za-z0-9_][A-Za-z0-9_.-]*)"', re.MULTILINE)


@dataclass(frozen=True)
class FindingSources:
    """What a finding is kept with, so that it can be made again.

    :param payload: its source.
    :param includes: the files that it includes.
    :param script: the job's source.
    :param spec: the kernel's specification.
    :param patches: the kernel's, each by itself: a series may be one file, or a directory.
    :param pair: (kernel, build) of baseline and candidate, where the cell has a counterpart.
    """

    payload: Path
    includes: tuple[Path, ...]
    script: Path
    spec: KernelSpec
    patches: tuple[Patch, ...]
    pair: tuple[tuple[str, Build], ...]


@dataclass(frozen=True)
class Confirmer:
    """What confirming takes, besides the cell's result.

    :param boots: the cell's directory, with its boots.
    :param findings: gets a directory for each signature.
    """

    bench: Bench
    routine: Routine
    boots: Path
    findings: Path
    sources: FindingSources
    _latest: dict[str, tuple[Trace, Observation]] = field(default_factory=dict, init=False)

    def batch(self, boot: str) -> tuple[Trace, Observation]:
        """What one of the cell's boots left; signatures that are asked for one after the other are
        of the same boot, mostly.

        :raises InfrastructureError: it can't be read.
        """
        if boot not in self._latest:
            trace = read_boot(self.boots / boot, self.bench.tools)
            program, listing = program_of(self.bench.payload), Listing(self.bench.payload)
            self._latest.clear()
            self._latest[boot] = trace, observe(trace, program, listing, boot)
        return self._latest[boot]


def confirmed(result: CellResult, confirmer: Confirmer) -> CellResult:
    """The result with its signatures, each confirmed and kept as far as that could be done.

    :raises Cancelled: it was called off.
    """
    found = grouped(result, confirmer.bench.payload)
    tried = [_confirmed_if_possible(result, one, confirmer) for one in found[:MOST_SIGNATURES]]
    return replace(result, signatures=(*tried, *found[MOST_SIGNATURES:]))


def _confirmed_if_possible(
    result: CellResult, group: SignatureGroup, confirmer: Confirmer
) -> SignatureGroup:
    """What can't be tried takes nothing from the verdict: it stays unconfirmed."""
    with suppress(InfrastructureError, OSError):
        return _confirmed(result, group, confirmer)
    return group


def _confirmed(result: CellResult, group: SignatureGroup, confirmer: Confirmer) -> SignatureGroup:
    bench, wanted = confirmer.bench, group.signature
    functions = dict(result.exit_functions)
    found = next(
        (
            one
            for one in result.findings
            if signature_of(
                bench.cell, bench.payload, one, functions.get(one.instruction.address, "")
            )
            == wanted
        ),
        None,
    )
    if found is None:
        return group
    confirmer.findings.mkdir(parents=True, exist_ok=True)
    with scratch_directory(confirmer.findings) as scratch:
        kept, confirmation = _tried(found, wanted, confirmer, scratch)
        done = replace(group, confirmation=confirmation)
        if kept is None:
            return done
        shown = kept.finding(bench.cell, bench.payload, wanted) or found
        name = finding_id(bench.cell, wanted, shown)
        with suppress(OSError):  # a full disk: the next to be written says so
            _keep(kept, replace(done, finding_id=name), confirmer)
            return replace(done, finding_id=name)
        return done


def _tried(
    found: Finding, wanted: Signature, confirmer: Confirmer, scratch: Path
) -> tuple[FreshBoot | None, Confirmation]:
    """The boot to keep, and what all of them came to."""
    bench = confirmer.bench
    shown: list[FreshBoot] = []

    def shows(job: Job | RecordedJob, name: str) -> bool:
        done = _attempt(bench, job, scratch / name)
        if done is None or done.finding(bench.cell, bench.payload, wanted) is None:
            return False
        shown.append(done)
        return True

    jobs = _jobs(found, wanted, confirmer)
    odds = odds_of(shows(job, f"{number}") for number, job in enumerate(jobs))
    if not odds.reproduced:
        batch = confirmer.boots / found.boot / JOB
        whole = recorded_job(batch.read_bytes(), str(batch))
        odds = replace(odds, in_batch=shows(whole, "batch"))
    return next(iter(shown), None), odds


def odds_of(outcomes: Iterable[bool]) -> Confirmation:
    """What boots came to, one after the other; none is asked for after a first that reproduced.

    :param outcomes: of each boot, whether it showed the signature.
    """
    boots = reproduced = 0
    for outcome in outcomes:
        boots, reproduced = boots + 1, reproduced + outcome
        if boots == reproduced == 1:
            break
    return Confirmation(boots, reproduced)


def _attempt(bench: Bench, job: Job | RecordedJob, directory: Path) -> FreshBoot | None:
    """A boot; None where there was none to judge, again and again: what befell one QEMU, a kill
    say, must not make a finding flaky.

    :raises InfrastructureError: it is not the guest's doing: the disk is full.
    """
    for _ in range(ATTEMPTS):
        with suppress(LostGuestError, CorruptDataError):
            return fresh_boot(bench, job, directory)
    return None


# --- one pass of a batch -------------------------------------------------------------------------


def _jobs(found: Finding, wanted: Signature, confirmer: Confirmer) -> Iterator[Job]:
    """Jobs of one pass each, as passes of the batch that showed the signature.

    What a pass met can be told from its records, but for a timer that goes on from pass to pass and
    for a second one; with these the batch is booted as a whole.
    """
    bench = confirmer.bench
    if bench.cell.flood.placement in (Placement.PERIODIC, Placement.PAIRS):
        return
    trace, observation = confirmer.batch(found.boot)
    for number in passes_to_try(observation, trace, bench, wanted):
        yield one_pass(confirmer.routine, bench.cell, placements_of_pass(trace, number))


def passes_to_try(
    observation: Observation, trace: Trace, bench: Bench, wanted: Signature
) -> tuple[int, ...]:
    """Passes that showed a signature, up to ``MOST_BOOTS``.

    The middle of a window comes first: in a boot of its own an interrupt may come some ns off.
    """
    times = passes_showing(observation, trace, bench, wanted)
    placed = [number for number, time in times.items() if time != NOT_DELIVERED]
    placed.sort(key=lambda number: times[number])
    in_order = [placed[index] for index in _spread(len(placed))]
    quiet = [number for number, time in times.items() if time == NOT_DELIVERED]
    return tuple(dict.fromkeys([*in_order, *quiet]))[:MOST_BOOTS]


def passes_showing(
    observation: Observation, trace: Trace, bench: Bench, wanted: Signature
) -> dict[int, int]:
    """Pass that showed a signature → when its interrupt was delivered, or ``NOT_DELIVERED``."""
    times: dict[int, int] = {}
    for number, address, kind, time in (
        *_broken_steps(observation, trace),
        *_broken_reads(observation, trace),
    ):
        found = signature(bench.cell, bench.payload, address, kind, wanted.function)
        if found == wanted:
            times.setdefault(number, time)
    return times


def _spread(number: int) -> list[int]:
    """Indexes of the middle, the quarters, and the ends."""
    if not number:
        return []
    last = number - 1
    return list(dict.fromkeys((last // 2, last // 4, 3 * last // 4, last, 0)))


_Broken = tuple[int, int, ViolationKind, int]
"""(pass, PC, kind, delivered time)."""


def _broken_steps(observation: Observation, trace: Trace) -> Iterator[_Broken]:
    """Those that only our interrupt was in come first."""
    steps, placements = observation.steps, observation.placements
    passes = pass_of_run(trace.records)
    wrong = np.flatnonzero(steps.outcome != Judged.OK)
    alone = placements.clean[wrong]
    for index in [*wrong[alone].tolist(), *wrong[~alone].tolist()]:
        time = int(placements.delivered_ns[index])
        time = time if placements.clean[index] else NOT_DELIVERED
        kind = violation_of(int(steps.outcome[index]))
        yield int(passes[steps.run[index]]), int(steps.instruction[index]), kind, time


def _broken_reads(observation: Observation, trace: Trace) -> Iterator[_Broken]:
    state, passes = observation.state, pass_of_record(trace.records)
    kinds = state.kinds(state.broken)
    for index, kind in zip(np.flatnonzero(state.broken).tolist(), kinds, strict=True):
        yield int(passes[state.record[index]]), int(state.pc[index]), kind, NOT_DELIVERED


def placements_of_pass(trace: Trace, number: int) -> Placements:
    """What was armed in one pass, one for each step that was given a placement."""
    runs = trace.records[trace.records["kind"] == RecordKind.RUN]
    inside = runs[pass_of_run(trace.records) == number]
    armed = inside[(inside["flags"] & RecordFlag.TIMER_ARMED) != 0]
    # A timer runs on through the exits of its step.
    first = np.append(True, armed["armed_at"][1:] != armed["armed_at"][:-1])[: len(armed)]
    placements = np.zeros(int(first.sum()), dtype=PLACEMENT)
    placements["delay"], placements["kind"] = armed["delay_ns"][first], armed["timer_kind"][first]
    return placements


def one_pass(routine: Routine, cell: Cell, placements: Placements) -> Job:
    """A job of one pass, with these placements."""
    if not len(placements):
        return quiet_job(routine, 1)
    flood = cell.flood
    return table_job(routine, 1, placements, burst=flood.burst, spacing_ns=flood.period_ns)


# --- the directory -------------------------------------------------------------------------------


def _keep(kept: FreshBoot, group: SignatureGroup, confirmer: Confirmer) -> None:
    bench, wanted, sources = confirmer.bench, group.signature, confirmer.sources
    finding = kept.finding(bench.cell, bench.payload, wanted)
    assert finding is not None, "what is kept shows the signature"
    assert group.confirmation is not None, "what is kept was tried"
    patches, patch_files = _copies("patch", [(one.name, one.content) for one in sources.patches])
    fragments, fragment_files = _copies(
        "kconfig", [(path.name, path.read_bytes()) for path in sources.spec.kconfig]
    )
    record = FindingRecord(
        format_version=FORMAT_VERSION,
        tool_version=tool_version(),
        id=group.finding_id,
        signature=wanted,
        count=group.count,
        first_ns=group.first_ns,
        last_ns=group.last_ns,
        confirmation=group.confirmation,
        finding=finding,
        cell=bench.cell,
        budget_s=bench.budget_s,
        payload=bench.payload,
        kernel=StoredKernel(
            name=sources.spec.name,
            release=bench.build.release,
            key=bench.build.key,
            source=sources.spec.source,
            patches=patches,
            kconfig=fragments,
            reverts=sources.spec.reverts,
        ),
        qemu=bench.tools.qemu.version,
        qemu_identity=bench.tools.qemu.identity,
        qemu_spec=bench.tools.qemu.spec,
        phantom_rule=bench.tools.plugin.rule.value,
        fingerprint=kept.fingerprint,
    )
    shown = _columns(kept, finding, confirmer)
    files: dict[str, bytes | Path] = {
        **{name: kept.directory / name for name in (JOB, CONSOLE, *TRACE)},
        ARGV: portable_argv((kept.directory / ARGV).read_text(), kept.directory, bench).encode(),
        STEPVMM: bench.tools.stepvmm.program,
        PAYLOAD_SOURCE: sources.payload,
        PAYLOAD_BLOB: bench.payload.blob,
        SCRIPT: sources.script,
        COLUMNS_TEXT: ("\n".join(column_lines(shown)) + "\n").encode(),
        **{path.name: path for path in sources.includes},
        **patch_files,
        **fragment_files,
    }
    write_finding(confirmer.findings / group.finding_id, record, files, shown)


def _copies(
    prefix: str, contents: Sequence[tuple[str, bytes]]
) -> tuple[tuple[StoredPatch, ...], dict[str, bytes | Path]]:
    """A kernel's patches, or its fragments: as they are listed, and the files."""
    stored: list[StoredPatch] = []
    files: dict[str, bytes | Path] = {}
    for number, (name, content) in enumerate(contents):
        file = f"{prefix}-{number}"
        stored.append(StoredPatch(file, name, hashlib.sha256(content).hexdigest()))
        files[file] = content
    return tuple(stored), files


def included(source: Path, folders: Sequence[Path]) -> tuple[Path, ...]:
    """The files that an assembly source includes, and those that they include.

    :param folders: where they are looked up, in this order.
    """
    files: dict[str, Path] = {}
    left = _INCLUDE.findall(source.read_text(errors="replace"))
    while left:
        name = left.pop()
        path = next((one / name for one in folders if (one / name).is_file()), None)
        if path is not None and name not in files:
            files[name] = path
            left += _INCLUDE.findall(path.read_text(errors="replace"))
    return tuple(files.values())


def portable_argv(command: str, directory: Path, bench: Bench) -> str:
    """QEMU's command line with names in the place of this machine's paths."""
    tools = bench.tools
    for path, name in (
        (f"{directory}/", ""),
        (str(bench.build.image), "Image"),
        (str(tools.plugin.library), "truth.so"),
        (str(tools.qemu.program), tools.qemu.program.name),
    ):
        command = command.replace(path, name)
    return _SOCKETS.sub("", command)


def _columns(kept: FreshBoot, finding: Finding, confirmer: Confirmer) -> Columns:
    """The pass as both kernels of the pair report it; the other one's takes a boot."""
    bench, number, sources = confirmer.bench, finding.pass_number, confirmer.sources
    program, listing = program_of(bench.payload), Listing(bench.payload)
    truth = pass_of_steps(kept.trace, program, number)
    reports = []
    for name, build in sources.pair or ((sources.spec.name, bench.build),):
        if name == sources.spec.name:
            reports.append((name, truth))
            continue
        job = recorded_job((kept.directory / JOB).read_bytes(), JOB)
        other = _attempt(replace(bench, build=build), job, kept.directory.with_name("other"))
        if other:
            reports.append((name, pass_of_steps(other.trace, program, number)))
    around = finding.missed[0] if finding.missed else finding.reported_pc
    return columns(truth, reports, around.address, listing)
