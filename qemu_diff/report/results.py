"""``RESULTS/``: ``verdicts.json``, written as cells finish, and read back by ``show``."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from qemu_diff.compare.placement_map import OK
from qemu_diff.errors import InfrastructureError, ResultsError
from qemu_diff.model import (
    MIXED,
    CampaignResult,
    CellResult,
    PairResult,
    Provenance,
    ViolationKind,
)
from qemu_diff.regular_file import opened
from qemu_diff.truth.phantom import PhantomRule

SCHEMA_VERSION = 5
VERDICTS = "verdicts.json"
JOURNAL = "verdicts.jsonl"
JUNIT = "junit.xml"
REPORT = "report.html"
CELLS = "cells"
FINDINGS = "findings"
LOCK = ".lock"

OWN_NAMES = (VERDICTS, JOURNAL, JUNIT, REPORT, CELLS, FINDINGS)
"""What a run writes into its results directory."""

WHOLE_CELLS = 64
"""Cells and pairs up to which the whole file is written anew after each; then, whenever it has
grown by a quarter: what is written in all is a multiple of what there is at the end."""

_OUTCOMES = {OK, MIXED, *ViolationKind}

_CELL = TypeAdapter(CellResult)
_PAIR = TypeAdapter(PairResult)
_PROVENANCE = TypeAdapter(Provenance)
_CAMPAIGN = TypeAdapter(CampaignResult)


def check_results(directory: Path) -> None:
    """See that a results directory can be made and written, before anything else is done.

    :raises ResultsError: it can't.
    """
    if "%" in str(directory):
        # util/log.c: a log file's name is a template.
        raise ResultsError(f"{directory}: QEMU takes no log file with a % in its path; see --out")
    if directory == directory.parent:
        raise ResultsError(f"{directory}: has no room beside it for earlier results; see --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ResultsError(f"{directory}: {error.strerror}; name another with --out") from error


@contextmanager
def open_results(directory: Path, *, resume: bool = False) -> Iterator[None]:
    """Own a results directory; results that are there are kept in ``DIRECTORY.previous``.

    Only our own files are moved or removed, whatever else lies there.

    :param resume: results that are there stay; see :func:`set_aside`.
    :raises ResultsError: another run owns it, or it can't be written.
    """
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ResultsError(f"{directory}: another run writes its results here") from error
    except OSError as error:
        raise ResultsError(f"{directory}: {error.strerror}; name another with --out") from error
    with lock:
        try:
            if not resume:
                _keep_previous(directory)
        except OSError as error:
            raise ResultsError(f"{directory}: {error.strerror}; name another with --out") from error
        yield


def _keep_previous(directory: Path) -> None:
    if not (directory / VERDICTS).exists():
        return
    previous = _emptied_previous(directory)
    for name in OWN_NAMES:
        if (directory / name).exists():
            (directory / name).rename(previous / name)


def _emptied_previous(directory: Path) -> Path:
    previous = directory.with_name(directory.name + ".previous")
    previous.mkdir(exist_ok=True)
    for name in OWN_NAMES:
        _remove(previous / name)
    return previous


def set_aside(
    directory: Path, cells: Collection[str], findings: Collection[str], *, keep: bool
) -> None:
    """Leave nothing in a results directory but these cells and findings, and the verdicts.

    :param keep: whether the others were judged: they are then kept in ``DIRECTORY.previous``,
        beside a copy of the verdicts. What a cut left of a cell is no result.
    :raises ResultsError: it can't be written.
    """
    try:
        previous = _emptied_previous(directory) if keep else None
        if previous:
            for name in (VERDICTS, JOURNAL):
                if (directory / name).exists():
                    shutil.copyfile(directory / name, previous / name)
        for folder, stay in ((CELLS, cells), (FINDINGS, findings)):
            others = [one for one in sorted((directory / folder).glob("*")) if one.name not in stay]
            for one in others:
                if previous:
                    (previous / folder).mkdir(exist_ok=True)
                    one.rename(previous / folder / one.name)
                else:
                    _remove(one)
    except OSError as error:
        raise ResultsError(f"{directory}: {error.strerror}; name another with --out") from error


def write_results(result: CampaignResult, directory: Path) -> None:
    """Write ``verdicts.json`` once; see :meth:`VerdictsFile.write`."""
    VerdictsFile(directory).write(result)


class VerdictsFile:
    """``verdicts.json`` of a run, written as cells finish.

    A cell's and a pair's text is made once, and a long file is not written anew for each: what came
    since lies beside it, one line each, in ``verdicts.jsonl``. At the end there is one file.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / VERDICTS
        self._journal = directory / JOURNAL
        self._texts: dict[int, tuple[object, bytes]] = {}
        self._begin = b""
        self._of = b""
        self._whole = 0
        self._written: set[int] = set()

    def write(self, result: CampaignResult) -> None:
        """Write all that is known; at any moment the files are whole, but for a last line that was
        being written.

        :raises InfrastructureError: the disk is full, or the directory went away.
        """
        begin = _head(result)
        everything: tuple[CellResult | PairResult, ...] = (*result.cells, *result.pairs)
        new = [one for one in everything if id(one) not in self._written]
        only_more = len(everything) == len(self._written) + len(new)
        journal = len(self._written) - self._whole + len(new)
        fits = self._whole >= WHOLE_CELLS and journal <= self._whole // 4
        append = bool(new) and only_more and fits and begin == self._begin
        # What fails half-way is written whole the next time.
        self._begin = b""
        if append:
            self._append(new, first=len(self._written) == self._whole)
        else:
            self._write_whole(begin, result)
        self._begin = begin
        self._written = set(map(id, everything))

    def _write_whole(self, begin: bytes, result: CampaignResult) -> None:
        cells, pairs = (b",\n".join(map(self._text, ones)) for ones in (result.cells, result.pairs))
        parts = (begin, b',\n"cells": [\n', cells, b'\n],\n"pairs": [\n', pairs, b"\n]}\n")
        content = b"".join(parts)
        write_whole(self._path, content)
        with _told_as(self._journal):
            self._journal.unlink(missing_ok=True)
        self._of = _journal_of(content)
        self._whole = len(result.cells) + len(result.pairs)

    def _append(self, new: Sequence[CellResult | PairResult], *, first: bool) -> None:
        lines = [self._of] if first else []
        lines += [b'{"%b": %b}' % (_key(one), self._text(one)) for one in new]
        with _told_as(self._journal), self._journal.open("ab") as stream:
            stream.write(b"".join(line + b"\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())

    def _text(self, one: CellResult | PairResult) -> bytes:
        # Kept beside its text, an object's id stays its own.
        if id(one) not in self._texts:
            document = _cell_to_json(one) if isinstance(one, CellResult) else _pair_to_json(one)
            self._texts[id(one)] = one, json.dumps(document).encode()
        return self._texts[id(one)][1]


def _head(result: CampaignResult) -> bytes:
    head = {
        "schema_version": SCHEMA_VERSION,
        "campaign": result.name,
        "complete": result.complete,
        "run": result.run,
        "started": result.started,
        "only": result.only,
        "provenance": _PROVENANCE.dump_python(result.provenance, mode="json"),
    }
    return json.dumps(head).removesuffix("}").encode()


def _journal_of(verdicts: bytes) -> bytes:
    """A journal's first line: what it goes on with. One that was left behind has another."""
    return b'{"after": %d}' % zlib.crc32(verdicts)


def _key(one: CellResult | PairResult) -> bytes:
    return b"cell" if isinstance(one, CellResult) else b"pair"


@contextmanager
def _told_as(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfrastructureError(f"{path}: {error.strerror}") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part; also after the
    machine has lost power.

    :raises InfrastructureError: it can't be written, or is a pipe or a device, which a rename would
        replace.
    """
    scratch = path.with_name(path.name + ".new")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InfrastructureError(f"{path}: not a file")
    try:
        with _told_as(path):
            # One that was left by a cut, or laid there to lead us elsewhere.
            scratch.unlink(missing_ok=True)
            with scratch.open("xb") as stream:
                stream.write(content if isinstance(content, bytes) else content.encode())
                stream.flush()
                # A rename may reach the disk before what was written (fsync(2), rename(2)).
                os.fsync(stream.fileno())
            scratch.replace(path)
    finally:
        with suppress(OSError):
            scratch.unlink()


def in_directory(directory: Path, name: str) -> Path:
    """Where a file of that name goes; the directory is made.

    :raises ResultsError: it can't be made, or the name leads out of it.
    """
    if Path(name).name != name:
        raise ResultsError(f"{name!r} is no name of a file")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{directory}: {error.strerror}") from error
    return directory / name


def stored_findings(directory: Path) -> tuple[str, ...]:
    """Names of the findings that results keep to be replayed."""
    found = directory / "findings"
    try:
        return tuple(sorted(one.name for one in found.glob("[!.]*") if one.is_dir()))
    except OSError:
        return ()


def holds_results(directory: Path) -> bool:
    """Whether a run has left verdicts there, readable or not."""
    return os.path.lexists(directory / VERDICTS)


def read_results(directory: Path) -> CampaignResult:
    """Read ``verdicts.json`` back, and what a run that was cut off had still to write into it.

    :raises ResultsError: it is not there, can't be read, or is no results file of this version.
    """
    path = directory / VERDICTS
    content = _bytes_of(path)
    document = _json_of(content, str(path))
    found = document.get("schema_version") if isinstance(document, dict) else None
    if found != SCHEMA_VERSION:
        raise ResultsError(
            f"{path}: results of schema version {found!r}, this qemu-diff reads {SCHEMA_VERSION}"
        )
    journal = _journal(directory / JOURNAL, content)

    def later(key: str) -> Iterator[Any]:
        return (line[key] for line in journal if key in line)

    try:
        result = _CAMPAIGN.validate_python(
            {
                "name": document["campaign"],
                "cells": [cell["result"] for cell in (*document["cells"], *later("cell"))],
                "pairs": [pair["result"] for pair in (*document["pairs"], *later("pair"))],
                "complete": document["complete"],
                "run": document["run"],
                "started": document["started"],
                "only": document["only"],
                "provenance": document["provenance"],
            }
        )
    except (KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ResultsError(f"{path}: not a results file: {reason}") from error
    if reason := _contradiction(result):
        raise ResultsError(f"{path}: not a results file: {reason}")
    return result


def _contradiction(result: CampaignResult) -> str:
    """What its types don't tell, and who shows it relies on; or nothing."""
    held = {one.cell.id for one in result.cells}
    for side in (side.id for pair in result.pairs for side in (pair.baseline, pair.candidate)):
        if side not in held:
            return f"a pair of {side!r}, which is none of its cells"
    spans = (span for one in result.cells for placed in one.maps for span in placed.spans)
    for span in spans:
        if span.outcome not in _OUTCOMES:
            return f"the outcome {span.outcome!r} of a placement"
    rules = (result.provenance.phantom_rule, *dict(result.provenance.phantom_rules).values())
    for rule in filter(None, rules):
        if rule not in set(PhantomRule):
            return f"the phantom rule {rule!r}"
    try:
        if result.started:
            datetime.fromisoformat(result.started)
    except ValueError:
        return f"the time {result.started!r}"
    return ""


def _bytes_of(path: Path) -> bytes:
    try:
        with opened(path) as file:
            return file.read()
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error


def _json_of(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{where}: not JSON: {error}") from error


def _journal(path: Path, verdicts: bytes) -> list[dict[str, Any]]:
    """The lines of a journal that goes on with these verdicts; none of another."""
    if not path.exists():
        return []
    # A line that was cut off is none.
    lines = _bytes_of(path).split(b"\n")[:-1]
    if lines[:1] != [_journal_of(verdicts)]:
        return []
    found = [_json_of(line, f"{path}:{at}") for at, line in enumerate(lines[1:], 2)]
    for at, line in enumerate(found, 2):
        if not isinstance(line, dict):
            raise ResultsError(f"{path}:{at}: no cell, and no pair")
    return found


def _cell_to_json(result: CellResult) -> dict[str, Any]:
    """The flat keys are for scripts; ``result`` is the whole, for ``show``."""
    cell = result.cell
    flood = cell.flood
    return {
        "id": cell.id,
        "kernel": cell.kernel,
        "scenario": cell.payload,
        "job": cell.job,
        "session": cell.session,
        "machine": asdict(cell.machine),
        "flood": asdict(flood),
        "driver": cell.driver,
        "seed": cell.seed,
        "verdict": result.verdict,
        "expected": cell.expected,
        "as_expected": result.as_expected,
        "steps": result.steps,
        "counted_steps": result.counted_steps,
        "redirects": result.redirects,
        "lost_steps": result.count(ViolationKind.LOST_STEP),
        "spurious_steps": result.count(ViolationKind.SPURIOUS_STEP),
        "wrong_pcs": result.count(ViolationKind.WRONG_PC),
        "ss_leaks": result.count(ViolationKind.SS_LEAK),
        "state_mismatches": result.count(ViolationKind.STATE_MISMATCH),
        "lost_interrupts": result.count(ViolationKind.LOST_INTERRUPT),
        "spurious_interrupts": result.count(ViolationKind.SPURIOUS_INTERRUPT),
        "placements": result.placements,
        "witnessed": result.witnessed,
        "coverage": None if result.coverage is None else asdict(result.coverage),
        "sources": [asdict(one) for one in result.sources],
        "interrupts": [asdict(one) for one in result.interrupts],
        "excursions": None if result.excursions is None else asdict(result.excursions),
        "costs": [asdict(one) for one in result.costs],
        "signatures": [asdict(group) for group in result.signatures],
        "first_broken_step": result.first_broken_step,
        "fingerprint": result.fingerprint,
        "duration_s": result.duration_s,
        "findings": [finding.message for finding in result.findings],
        "result": _CELL.dump_python(result, mode="json"),
    }


def _pair_to_json(pair: PairResult) -> dict[str, Any]:
    return {
        "cell": pair.candidate.id.removeprefix(f"{pair.candidate.kernel}."),
        "baseline": pair.baseline.kernel,
        "candidate": pair.candidate.kernel,
        "drivers": [pair.baseline.driver, pair.candidate.driver],
        "outcome": pair.outcome,
        "costs": [asdict(one) for one in pair.costs],
        "message": pair.message,
        "result": _PAIR.dump_python(pair, mode="json"),
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
