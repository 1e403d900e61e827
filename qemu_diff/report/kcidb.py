"""KCIDB, schema 5.0: kernels as checkouts and builds, cells and pairs as tests, bugs as issues.

An object's id begins with the name of the CI system that submits it, its *origin*. A positive
control whose bug is seen is a PASS, and an incident tells that the bug is there. What was lost is
ERROR where it was booted, else MISS.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from qemu_diff.model import (
    CampaignResult,
    CellResult,
    CellVerdict,
    KernelIdentity,
    PairResult,
    Signature,
)
from qemu_diff.report.cases import Case, Outcome, grouped, started_at
from qemu_diff.report.printable import printable
from qemu_diff.report.words import signature_name

SCHEMA = {"major": 5, "minor": 0}
ORIGIN = "qemu_diff"
ORIGIN_PATTERN = re.compile("[a-z0-9_]+")
EXCERPT_CHARACTERS = 16_384
"""What the schema allows of a log."""

ISSUE_VERSION = 1

_NOT_IN_PATH = re.compile("[^A-Za-z0-9_-]+")
_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")
_STATUSES = {Outcome.PASS: "PASS", Outcome.FAILURE: "FAIL", Outcome.SKIPPED: "SKIP"}

_Object = dict[str, Any]


def kcidb(result: CampaignResult, origin: str = ORIGIN) -> str:
    """The result as a KCIDB report, JSON.

    :param origin: matches ``ORIGIN_PATTERN``.
    """
    return json.dumps(_Report(result, origin).whole(), indent=1) + "\n"


class _Report:
    def __init__(self, result: CampaignResult, origin: str) -> None:
        self._result = result
        self._origin = origin
        self._kernels = {one.name: one for one in result.provenance.kernels}
        self._cells = {one.cell.id: one for one in result.cells}
        self._cases = {
            case.name: case for group in grouped(result) if group.kernel for case in group.cases
        }

    def whole(self) -> _Object:
        names = tuple(dict.fromkeys(one.cell.kernel for one in self._result.cells))
        pairs = next((one.cases for one in grouped(self._result) if not one.kernel), ())
        return {
            "version": SCHEMA,
            "checkouts": [self._checkout(name) for name in names],
            "builds": [self._build(name) for name in names],
            "tests": [
                *(self._cell(one) for one in self._result.cells),
                *map(self._pair, self._result.pairs, pairs),
            ],
            "issues": list(self._issues()),
            "incidents": list(self._incidents()),
        }

    def _object(self, *identity: str) -> _Object:
        return {"id": f"{self._origin}:{_line('/'.join(identity))}", "origin": self._origin}

    def _start(self) -> _Object:
        started = started_at(self._result)
        return {"start_time": started.isoformat()} if started else {}

    # --- kernels ---

    def _identity(self, kernel: str) -> str:
        """A kernel's content; of one that was not built, its name in this run."""
        known = self._kernels.get(kernel)
        return f"{kernel}/{known.key if known else self._run}"

    @property
    def _run(self) -> str:
        return self._result.run or self._result.name

    def _checkout(self, kernel: str) -> _Object:
        known = self._kernels.get(kernel)
        made = {**self._object(self._identity(kernel)), **self._start()}
        if known is None:
            return {**made, "comment": _line(kernel)}
        commit = _COMMIT.search(known.source)
        return {
            **made,
            **({"git_commit_hash": commit[0]} if commit else {}),
            "comment": _line(known.source or f"Linux {known.release}"),
            "valid": True,
            "misc": _of_kernel(known),
        }

    def _build(self, kernel: str) -> _Object:
        known = self._kernels.get(kernel)
        name = self._object(self._identity(kernel))
        made = {
            **name,
            **self._start(),
            "checkout_id": name["id"],
            "architecture": "arm64",
            "comment": _line(kernel),
        }
        if known is None:
            cells = [one for one in self._result.cells if one.cell.kernel == kernel]
            skipped = all(one.verdict is CellVerdict.SKIPPED for one in cells)
            excerpt = cells[0].reason
            return {**made, "status": "SKIP" if skipped else "ERROR", "log_excerpt": _log(excerpt)}
        return {**made, "status": "PASS", "misc": _of_kernel(known)}

    # --- cells and pairs ---

    def _test(self, kernel: str, name: str, path: str, case: Case) -> _Object:
        return {
            **self._object(self._run, name),
            **self._start(),
            "build_id": self._object(self._identity(kernel))["id"],
            "path": path,
            "comment": _line(case.message or name),
            "status": _STATUSES.get(case.outcome, "ERROR" if case.duration_s else "MISS"),
            "log_excerpt": _log(*case.lines),
        }

    def _cell(self, one: CellResult) -> _Object:
        cell, provenance = one.cell, self._result.provenance
        case = self._cases[cell.id]
        qemu = dict(provenance.qemus).get(cell.machine.qemu, provenance.qemu)
        return {
            **self._test(cell.kernel, cell.id, _path(cell.id, cell.kernel), case),
            "duration": one.duration_s,
            "environment": {"comment": _line(qemu), "misc": _safe(asdict(cell.machine))},
            "misc": _safe(_figures(one)),
        }

    def _pair(self, pair: PairResult, case: Case) -> _Object:
        cell = pair.candidate
        path = f"{_path(cell.id, cell.kernel)}.against.{_component(case.name.partition('..')[0])}"
        costs = [asdict(one) for one in pair.costs]
        misc = {"outcome": pair.outcome, "baseline": pair.baseline.id, "costs": costs}
        return {**self._test(cell.kernel, case.name, path, case), "misc": _safe(misc)}

    # --- bugs ---

    def _issues(self) -> Iterator[_Object]:
        found = dict.fromkeys(
            group.signature for one in self._result.cells for group in one.signatures
        )
        for signature in found:
            name = _line(signature_name(signature))
            yield {
                **self._object(_digest(signature)),
                "version": ISSUE_VERSION,
                "report_subject": name,
                "culprit": {"code": True, "tool": False, "harness": False},
                "comment": name,
                "misc": _safe(asdict(signature)),
            }

    def _incidents(self) -> Iterator[_Object]:
        for one in self._result.cells:
            for group in one.signatures:
                issue = _digest(group.signature)
                yield {
                    **self._object(self._run, one.cell.id, issue),
                    "issue_id": self._object(issue)["id"],
                    "issue_version": ISSUE_VERSION,
                    "test_id": self._object(self._run, one.cell.id)["id"],
                    "present": True,
                    "comment": f"{group.count:,} times",
                    "misc": _safe({"count": group.count, "finding": group.finding_id}),
                }


def _of_kernel(kernel: KernelIdentity) -> _Object:
    named = {"name": kernel.name, "release": kernel.release, "key": kernel.key}
    return {key: printable(value) for key, value in named.items()}


def _figures(one: CellResult) -> _Object:
    cell = one.cell
    return {
        "cell": cell.id,
        "verdict": one.verdict,
        "expected": list(cell.expected),
        "reason": one.reason,
        "driver": cell.driver,
        "flood": asdict(cell.flood),
        "seed": cell.seed,
        "steps": one.steps,
        "counted_steps": one.counted_steps,
        "placements": one.placements,
        "violations": {kind.value: number for kind, number in one.violations},
        "costs": [asdict(cost) for cost in one.costs],
        "attempts": one.attempts,
        "fingerprint": one.fingerprint,
    }


def _digest(signature: Signature) -> str:
    return hashlib.sha256(signature_name(signature).encode(errors="replace")).hexdigest()[:16]


def _path(name: str, kernel: str) -> str:
    """Where a cell stands in the tree of tests: ``qemu-diff.hvc.vhe.quiet``; without the kernel."""
    parts = map(_component, name.removeprefix(f"{kernel}.").split("."))
    return ".".join(["qemu-diff", *parts])


def _component(text: str) -> str:
    return _NOT_IN_PATH.sub("_", text) or "_"


def _line(text: str) -> str:
    return printable(text)


def _log(*lines: str) -> str:
    return "\n".join(map(printable, lines))[:EXCERPT_CHARACTERS]


def _safe(value: Any) -> Any:
    """The same with printable texts, ready for JSON."""
    if isinstance(value, dict):
        return {key: _safe(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(one) for one in value]
    return printable(value) if isinstance(value, str) else value
