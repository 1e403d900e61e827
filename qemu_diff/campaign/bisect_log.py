"""``bisect.log``: git's own format, so that ``git bisect replay`` reads it, with our reasons.

What git does not know stands in comments before the line that they belong to::

    git bisect start '--no-checkout' '--' 'arch/arm64/kvm'
    # bad: [0f1a6c5c97840f1a6c5c97840f1a6c5c97840f1a] KVM: arm64: …
    # because: candidate.hvc.vhe.quiet: lost-step of hvc in step/tcg, served by handle_hvc
    # cell: candidate.hvc.vhe.quiet
    # symptom: {"kind": "lost-step", "scenario": "step/tcg", "instruction": "hvc", …}
    git bisect bad 0f1a6c5c97840f1a6c5c97840f1a6c5c97840f1a

Pure, but for :func:`read_log`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qemu_diff.errors import UserError
from qemu_diff.model import BisectionStep, CommitVerdict, Symptom
from qemu_diff.regular_file import opened
from qemu_diff.report.printable import printable

_VERDICTS = {one.value: one for one in CommitVerdict}

# git-bisect(1): "git bisect log" words it so; git itself reads the commands alone.
_TITLE = re.compile(r"# (?:good|bad|skip): \[[0-9a-f]+\] (?P<subject>.*)")


@dataclass(frozen=True)
class BisectionLog:
    """What is known of a bisection.

    :param paths: only commits that touch them are tested; empty: all.
    :param cells: ids of the cells that are run; empty until the bad end has been tested.
    :param symptoms: of the bad end; likewise.
    :param steps: in the order of the tests; of a log that git wrote ``sha`` may be any revision.
    """

    paths: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    symptoms: tuple[Symptom, ...] = ()
    steps: tuple[BisectionStep, ...] = ()

    @property
    def bad(self) -> str:
        """The bad end; empty where none is known."""
        return next((one.sha for one in self.steps if one.verdict is CommitVerdict.BAD), "")

    def of(self, sha: str) -> BisectionStep | None:
        """What is known of a commit."""
        return next((one for one in self.steps if one.sha == sha), None)


def log_text(log: BisectionLog, ending: Iterable[str] = ()) -> str:
    """The file's text.

    :param ending: lines about how it ended.
    """
    lines = [*_lines(log), *(f"# {printable(line)}" for line in ending)]
    return "".join(f"{line}\n" for line in lines)


def _lines(log: BisectionLog) -> Iterator[str]:
    start = ["--no-checkout", *(["--", *log.paths] if log.paths else [])]
    yield " ".join(["git bisect start", *map(_quoted, start)])
    for step in log.steps:
        yield f"# {step.verdict}: [{step.sha}] {printable(step.subject)}"
        if step.reason:
            yield f"# because: {printable(step.reason)}"
        if step.sha == log.bad:
            yield from (f"# cell: {cell}" for cell in log.cells)
            yield from (f"# symptom: {json.dumps(asdict(one))}" for one in log.symptoms)
        yield f"git bisect {step.verdict} {step.sha}"


def _quoted(word: str) -> str:
    """As git quotes (quote.c, ``sq_quote_buf``), which reads back nothing else."""
    escaped = re.sub(r"(['!])", r"'\\\1'", word)
    return f"'{escaped}'"


def read_log(path: Path) -> BisectionLog:
    """Read a log of ours, or one that ``git bisect log`` wrote.

    :raises UserError: it can't be read, or is no such log.
    """
    try:
        with opened(path) as file:
            text = file.read().decode(errors="surrogateescape")
        return parse_log(text, str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def parse_log(text: str, name: str) -> BisectionLog:
    """A log from its text.

    :param name: what complaints call it.
    :raises UserError: a line is neither git's nor ours.
    """
    log, comments = BisectionLog(), list[str]()
    # Not splitlines(): a subject may hold what only Unicode takes for a line's end.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith(("git bisect ", "git-bisect ")):
            if line and not line.startswith("#"):
                raise UserError(f"{name}:{number}: neither a comment nor a `git bisect` command")
            comments.append(line)
            continue
        try:
            log = _after(log, line, comments)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{name}:{number}: {error}") from error
        comments.clear()
    return log


def _after(log: BisectionLog, line: str, comments: list[str]) -> BisectionLog:
    """The log with one command more.

    :raises ValueError: it is none that says which commit is good, bad, or to be skipped.
    :raises TypeError: a symptom is not ours.
    """
    command, *arguments = shlex.split(line)[2:]
    if command == "start":
        return _started(log, arguments)
    if command not in _VERDICTS:
        raise ValueError(f"`git bisect {command}`: only start, good, bad and skip are known here")
    cells = tuple(_said(comments, "cell"))
    symptoms = tuple(Symptom(**json.loads(one)) for one in _said(comments, "symptom"))
    steps = tuple(_step(command, sha, comments) for sha in arguments)
    return replace(
        log,
        cells=log.cells or cells,
        symptoms=log.symptoms or symptoms,
        steps=(*log.steps, *steps),
    )


def _started(log: BisectionLog, arguments: list[str]) -> BisectionLog:
    """git-bisect(1): ``start [--term-…] [--no-checkout] [<bad> [<good>...]] [--] [<paths>...]``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if foreign := [one for one in arguments[:end] if one.startswith("--term")]:
        raise ValueError(f"{foreign[0]}: only the terms good and bad are known here")
    revs = [one for one in arguments[:end] if not one.startswith("--")]
    verdicts = [CommitVerdict.BAD, *[CommitVerdict.GOOD] * len(revs)]
    steps = tuple(
        BisectionStep(rev, "", verdict) for rev, verdict in zip(revs, verdicts, strict=False)
    )
    return replace(log, paths=tuple(arguments[end + 1 :]), steps=(*log.steps, *steps))


def _step(command: str, sha: str, comments: list[str]) -> BisectionStep:
    titles = [found["subject"] for line in comments if (found := _TITLE.fullmatch(line))]
    reasons = [*_said(comments, "because")]
    return BisectionStep(
        sha, (titles or [""])[-1], _VERDICTS[command], reason=(reasons or [""])[-1]
    )


def _said(comments: list[str], what: str) -> Iterator[str]:
    for line in comments:
        head, found, rest = line.partition(f"# {what}: ")
        if found and not head:
            yield rest
