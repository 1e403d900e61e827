"""From two ends of a history to the commit between them that brought a bug.

Which commit is next, is git's business; what is told to git of it, :mod:`bisect_verdict`'s.
Whatever was told stands in ``bisect.log`` before the next commit is begun, and nothing else is
needed to go on after a cut.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from qemu_diff.campaign.bisect_commit import TriedCommit
from qemu_diff.campaign.bisect_git import GitBisection, Position
from qemu_diff.campaign.bisect_log import BisectionLog, log_text
from qemu_diff.campaign.bisect_verdict import (
    Judgement,
    commit_verdict,
    later_symptoms,
    sufficient_cells,
    symptoms_of,
)
from qemu_diff.errors import ResultsError, UserError
from qemu_diff.events import stage
from qemu_diff.kernels import Repository
from qemu_diff.model import (
    Bisection,
    BisectionEnding,
    BisectionStep,
    CellVerdict,
    Commit,
    CommitVerdict,
    Symptom,
)
from qemu_diff.report.printable import printable
from qemu_diff.report.results import LOCK, write_whole
from qemu_diff.report.words import symptom_name

LOG = "bisect.log"
PAGE = "bisect.md"
GIT = "bisect.git"
COMMITS = "commits"
CONFIRMED = "confirm"
STEP = "step.json"

OWN_NAMES = (LOG, PAGE, GIT, COMMITS, CONFIRMED)
"""What a bisection writes into its directory."""

TryCommit = Callable[[str, tuple[str, ...], Path], TriedCommit]
"""Commit, ids of cells (none: all), directory for the results → what came of it."""


@dataclass(frozen=True)
class Inquiry:
    """What is asked.

    :param repository: where the commits are.
    :param bad: full object id, and so for ``goods``.
    :param any_function: see :func:`same_symptom`.
    :param confirmations: how often the first bad commit and its parents are tested anew.
    :param directory: where everything is written.
    """

    campaign: str
    kernel: str
    repository: Repository
    bad: str
    goods: tuple[str, ...]
    paths: tuple[str, ...]
    any_function: bool
    confirmations: int
    directory: Path


def bisect(inquiry: Inquiry, known: BisectionLog, try_commit: TryCommit) -> Bisection:
    """Find the first bad commit.

    :param known: what need not be tested again: the log of a bisection that was cut off, say.
    :raises UserError: the ends can't be bisected; the first of them is not what it has to be for a
        reason that the user can mend.
    :raises InfrastructureError: a step can't be written.
    """
    return _Course(inquiry, known, try_commit).run()


def begun_log(directory: Path) -> Path:
    """The log of the bisection in a directory.

    :raises ResultsError: there is none.
    """
    log = directory / LOG
    if not log.exists():
        raise ResultsError(f"{log}: no bisection was begun here; leave out --resume")
    return log


@contextmanager
def own_directory(directory: Path, *, resume: bool) -> Iterator[None]:
    """Own a bisection's directory; one that is there is kept in ``DIRECTORY.previous``.

    :param resume: it is to go on: nothing is moved.
    :raises ResultsError: another one runs there, or it can't be written.
    """
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ResultsError(f"{directory}: another bisection writes here") from error
    except OSError as error:
        raise ResultsError(f"{directory}: {error.strerror}; name another with --out") from error
    with lock:
        if not resume and (directory / LOG).exists():
            _keep_previous(directory)
        yield


def _keep_previous(directory: Path) -> None:
    previous = directory.with_name(f"{directory.name}.previous")
    try:
        shutil.rmtree(previous, ignore_errors=True)
        previous.mkdir()
        for name in OWN_NAMES:
            if (directory / name).exists():
                (directory / name).rename(previous / name)
    except OSError as error:
        raise ResultsError(f"{directory}: {error.strerror}; name another with --out") from error


class _Course:
    def __init__(self, inquiry: Inquiry, known: BisectionLog, try_commit: TryCommit) -> None:
        self._inquiry = inquiry
        self._log = replace(known, paths=inquiry.paths, steps=tuple(map(self._timed, known.steps)))
        self._try = try_commit
        self._git = GitBisection(inquiry.directory / GIT, inquiry.repository, inquiry.bad)
        self._git.start(inquiry.paths)

    def run(self) -> Bisection:
        self._write()
        if refused := self._test_bad() or self._test_goods():
            return refused
        position = Position()
        for step in self._log.steps:
            position = self._git.mark(step.verdict, step.sha)
        while position.to_test:
            _, step = self._test(position.to_test, position.steps_left)
            self._keep(step)
            position = self._git.mark(step.verdict, step.sha)
        return self._end(position)

    # --- the ends ---

    def _test_bad(self) -> Bisection | None:
        """Learn what the bad end shows; its ending where that is nothing."""
        if self._log.symptoms:
            return None
        sha = self._inquiry.bad
        name = self._name(sha)
        with stage("commit", name) as running:
            tried = self._try(sha, (), self._place(sha))
            wanted = symptoms_of(tried.shown)
            if not wanted:
                return self._not_bad(sha, tried)
            running.outcome = f"bad: {'; '.join(map(symptom_name, wanted))}"
        cells = sufficient_cells(tried.shown)
        reason = "; ".join(map(symptom_name, wanted))
        self._log = replace(self._log, cells=cells, symptoms=wanted)
        self._keep(self._step(sha, Judgement(CommitVerdict.BAD, reason), tried))
        return None

    def _not_bad(self, sha: str, tried: TriedCommit) -> Bisection:
        if tried.trouble:
            return self._untestable("bad", sha, tried, tried.trouble)
        judged = [one.result for one in tried.shown if one.result.verdict.judged]
        unjudged = [one.result for one in tried.shown if not one.result.verdict.judged]
        # What a campaign skips, it skips at each commit.
        lost = [one for one in unjudged if one.verdict is CellVerdict.LOST]
        if lost or not judged:
            one = (lost or unjudged)[0]
            why = f"{one.cell.id}: {one.verdict}: {one.reason}"
            return self._untestable("bad", sha, tried, why)
        number = len(judged)
        cells = "its only cell is" if number == 1 else f"all its {number} cells are"
        return self._ended(
            BisectionEnding.WRONG_ENDS,
            f"bad is not bad: at {self._name(sha)} {cells} as expected",
        )

    def _test_goods(self) -> Bisection | None:
        for sha in self._inquiry.goods:
            known = self._log.of(sha)
            if known is not None and known.verdict is CommitVerdict.GOOD:
                continue
            tried, step = self._test(sha, None)
            if step.verdict is CommitVerdict.BAD:
                return self._ended(
                    BisectionEnding.WRONG_ENDS,
                    f"good is not good: {self._name(sha)} shows the same: {step.reason}",
                )
            if step.verdict is CommitVerdict.SKIP:
                return self._untestable("good", sha, tried, step.reason)
            self._keep(step)
        return None

    def _untestable(self, end: str, sha: str, tried: TriedCommit, why: str) -> Bisection:
        """
        :raises UserError: a patch does not apply, say.
        """
        message = f"{end} {self._name(sha)} can't be tested: {why}"
        if tried.mendable:
            raise UserError(message)
        return self._ended(BisectionEnding.UNTESTABLE, message)

    # --- one commit ---

    def _test(self, sha: str, steps_left: int | None) -> tuple[TriedCommit, BisectionStep]:
        return self._test_in(self._place(sha), sha, steps_left)

    def _test_in(
        self, directory: Path, sha: str, steps_left: int | None = None
    ) -> tuple[TriedCommit, BisectionStep]:
        with stage("commit", self._name(sha)) as running:
            if steps_left is not None:
                running.progress(f"roughly {steps_left} steps left after this")
            tried = self._try(sha, self._log.cells, directory)
            step = self._step(sha, self._judged(tried), tried, directory)
            running.outcome = f"{step.verdict}: {step.reason}"
        return tried, step

    def _judged(self, tried: TriedCommit) -> Judgement:
        if tried.trouble:
            return Judgement(CommitVerdict.SKIP, tried.trouble)
        wanted, any_function = self._log.symptoms, self._inquiry.any_function
        return commit_verdict(tried.shown, wanted, any_function=any_function)

    def _step(
        self, sha: str, judgement: Judgement, tried: TriedCommit, directory: Path | None = None
    ) -> BisectionStep:
        place = directory or self._place(sha)
        return BisectionStep(
            sha=sha,
            subject=self._subject(sha),
            verdict=judgement.verdict,
            reason=printable(judgement.reason),
            directory=str(place.relative_to(self._inquiry.directory)),
            build_s=round(tried.build_s, 3),
            run_s=round(tried.run_s, 3),
        )

    def _place(self, sha: str) -> Path:
        """Where a commit's results go: commits are numbered as they come."""
        shas = [one.sha for one in self._log.steps]
        number = shas.index(sha) if sha in shas else len(shas)
        return self._inquiry.directory / COMMITS / f"{number + 1}-{sha[:12]}"

    def _subject(self, sha: str) -> str:
        return printable(self._inquiry.repository.subject(sha))

    def _name(self, sha: str) -> str:
        return f"{sha[:12]} ({self._subject(sha)})"

    # --- what is kept ---

    def _keep(self, step: BisectionStep) -> None:
        """What was measured first: the log says that it is there."""
        write_whole(self._inquiry.directory / step.directory / STEP, json.dumps(asdict(step)))
        steps = list(self._log.steps)
        shas = [one.sha for one in steps]
        if step.sha in shas:
            steps[shas.index(step.sha)] = step
        else:
            steps.append(step)
        self._log = replace(self._log, steps=tuple(steps))
        self._write()

    def _write(self, *ending: str) -> None:
        write_whole(self._inquiry.directory / LOG, log_text(self._log, ending))

    def _timed(self, step: BisectionStep) -> BisectionStep:
        """A step of the log, with the times that are kept beside its results."""
        name = f"{COMMITS}/*-{step.sha[:12]}/{STEP}"
        for path in sorted(self._inquiry.directory.glob(name)):
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                return replace(
                    step,
                    directory=str(kept["directory"]),
                    build_s=float(kept["build_s"]),
                    run_s=float(kept["run_s"]),
                )
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
        return step

    # --- the end ---

    def _end(self, position: Position) -> Bisection:
        if position.merge_base_bad:
            return self._ended(BisectionEnding.WRONG_ENDS, position.merge_base_bad)
        found = tuple(self._git.commit(sha) for sha in position.first_bad)
        if len(found) != 1:
            message = f"the first bad commit is one of {len(found)}: skipped ones are in the way"
            self._write(*(_title("possible first bad commit", one) for one in found))
            return replace(self._ended(BisectionEnding.ONLY_SKIPPED, message), found=found)
        self._write(_title("first bad commit", found[0]))
        return self._confirmed(found[0])

    def _confirmed(self, first_bad: Commit) -> Bisection:
        """The first bad commit and its parents once more, each from fresh boots."""
        wanted = {first_bad.sha: CommitVerdict.BAD}
        wanted |= dict.fromkeys(first_bad.parents, CommitVerdict.GOOD)
        steps: list[BisectionStep] = []
        tried: dict[str, TriedCommit] = {}
        for number in range(self._inquiry.confirmations):
            for sha in wanted:
                name = f"{number + 1}-{sha[:12]}"
                tried[sha], step = self._test_in(self._inquiry.directory / CONFIRMED / name, sha)
                steps.append(step)
        against = [one for one in steps if self._is_against(one, wanted[one.sha])]
        name = f"the first bad commit is {first_bad.sha[:12]} ({first_bad.subject})"
        ending, message = BisectionEnding.FOUND, f"{name}{self._later(tried[first_bad.sha])}"
        if against:
            one = against[0]
            which = "it" if one.sha == first_bad.sha else f"its parent {one.sha[:12]}"
            ending = BisectionEnding.NOT_CONFIRMED
            message = (
                f"{name} as git has it, but that is not confirmed: tested again, {which} comes out "
                f"as {one.verdict}: {one.reason}"
            )
        return replace(
            self._ended(ending, message),
            found=(first_bad,),
            confirmations=tuple(steps),
            sentences=tuple((sha, one.sentences) for sha, one in tried.items()),
        )

    def _is_against(self, step: BisectionStep, wanted: CommitVerdict) -> bool:
        """A parent that nobody could test before either, comes before a commit that is good."""
        if step.verdict is CommitVerdict.SKIP and wanted is CommitVerdict.GOOD:
            known = self._log.of(step.sha)
            return known is not None and known.verdict is CommitVerdict.GOOD
        return step.verdict is not wanted

    def _later(self, first_bad: TriedCommit) -> str:
        """What the bad end shows, and the first bad commit does not yet."""
        wanted, any_function = self._log.symptoms, self._inquiry.any_function
        later: tuple[Symptom, ...] = later_symptoms(
            first_bad.shown, wanted, any_function=any_function
        )
        if not later:
            return ""
        names = "; ".join(map(symptom_name, later))
        return (
            f"; another one brought what the bad end shows as well, bisect it with --only: {names}"
        )

    def _ended(self, ending: BisectionEnding, message: str) -> Bisection:
        inquiry = self._inquiry
        return Bisection(
            campaign=inquiry.campaign,
            kernel=inquiry.kernel,
            tree=inquiry.repository.name,
            paths=inquiry.paths,
            cells=self._log.cells,
            symptoms=self._log.symptoms,
            steps=self._log.steps,
            ending=ending,
            message=printable(message),
        )


def _title(what: str, commit: Commit) -> str:
    return f"{what}: [{commit.sha}] {commit.subject}"
