"""A bisection for people: a page in Markdown, and a few sentences on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qemu_diff.model import Bisection, BisectionEnding, BisectionStep, Commit, CommitVerdict
from qemu_diff.report.printable import printable
from qemu_diff.report.words import symptom_name

SHORT = 12
"""Digits of an object id."""

FILES_SHOWN = 20

VERDICT_STYLE = {
    CommitVerdict.GOOD: "green",
    CommitVerdict.BAD: "red",
    CommitVerdict.SKIP: "yellow",
}

# CommonMark, "Backslash escapes", and what GitHub makes links of by itself; at the begin also what
# makes a list, or a heading of the line before.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&@])|^([-+=])|^(\d+)([.)])")


def bisection_markdown(bisection: Bisection) -> str:
    """The page."""
    return "\n".join(_page(bisection)) + "\n"


def _page(bisection: Bisection) -> Iterator[str]:
    yield f"# Bisection: {_plain(bisection.campaign)}"
    yield ""
    yield f"**{_plain(sentence(bisection))}**"
    yield ""
    yield f"Kernel `{bisection.kernel}`, commits of {_plain(bisection.tree)}{_touching(bisection)}."
    for commit in bisection.found:
        yield from _commit(commit)
    if bisection.symptoms:
        yield from ("", "## What makes a commit bad", "")
        yield from (f"- {_plain(symptom_name(one))}" for one in bisection.symptoms)
        yield from ("", "Cells run at each commit:", "")
        yield from (f"- {_plain(one)}" for one in bisection.cells)
    yield from ("", "## Commits tested", "", *_table(bisection.steps))
    if bisection.confirmations:
        yield from ("", "## Tested again, from fresh boots", "", *_table(bisection.confirmations))
    for sha, sentences in bisection.sentences:
        yield from ("", f"At {_plain(_name(bisection, sha))}:", "")
        yield from (f"- {_plain(one)}" for one in sentences)


def sentence(bisection: Bisection) -> str:
    """How it ended."""
    message = bisection.message[:1].upper() + bisection.message[1:]
    if bisection.ending is not BisectionEnding.FOUND:
        return f"{message}."
    first_bad = bisection.found[0].sha
    boots = sum(one.sha == first_bad for one in bisection.confirmations)
    times = "once" if boots == 1 else f"{boots} times"
    return (
        f"{message}: tested {times} more from fresh boots, it is bad and what was before is good."
    )


def _touching(bisection: Bisection) -> str:
    return f" that touch {_plain(' '.join(bisection.paths))}" if bisection.paths else ""


def _commit(commit: Commit) -> Iterator[str]:
    yield from ("", f"## {_plain(f'{commit.sha[:SHORT]} {commit.subject}')}", "")
    yield f"{_plain(commit.author)}, {_plain(commit.date)}, `{commit.sha}`"
    yield ""
    yield from (f"- {_plain(one)}" for one in commit.files[:FILES_SHOWN])
    if len(commit.files) > FILES_SHOWN:
        yield f"- and {len(commit.files) - FILES_SHOWN:,} more"


def _table(steps: Iterable[BisectionStep]) -> Iterator[str]:
    yield "| commit | subject | verdict | build, s | run, s | reason |"
    yield "|---|---|---|--:|--:|---|"
    for one in steps:
        entries = (
            f"`{one.sha[:SHORT]}`",
            _plain(one.subject),
            one.verdict,
            _seconds(one.build_s),
            _seconds(one.run_s),
            _plain(one.reason),
        )
        yield f"| {' | '.join(entries)} |"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def _plain(text: str) -> str:
    """Text of others as Markdown that shows it as it is."""
    return _SPECIAL.sub(_escaped, printable(text).strip())


def _escaped(found: re.Match[str]) -> str:
    anywhere, first, number, point = found.groups(default="")
    return f"{number}\\{anywhere or first or point}"


def _name(bisection: Bisection, sha: str) -> str:
    """A commit as people know it."""
    tested = (*bisection.steps, *bisection.confirmations)
    subject = next((one.subject for one in tested if one.sha == sha), "")
    return f"{sha[:SHORT]} {subject}".strip()


def print_bisection(bisection: Bisection, console: Console) -> None:
    """The commits that were tested, and how it ended."""
    table = Table(title=Text("commits tested"), title_justify="left")
    for name in ("commit", "subject", "verdict"):
        table.add_column(name, overflow="fold")
    for name in ("build, s", "run, s"):
        table.add_column(name, justify="right")
    for one in bisection.steps:
        table.add_row(
            one.sha[:SHORT],
            Text(one.subject),
            Text(one.verdict, style=VERDICT_STYLE[one.verdict]),
            _seconds(one.build_s),
            _seconds(one.run_s),
        )
    console.print(table)
    for commit in bisection.found:
        console.print(Text(f"{commit.sha} {commit.subject}", style="bold"), soft_wrap=True)
        console.print(Text(f"  {commit.author}, {commit.date}"), soft_wrap=True)
        for name in commit.files[:FILES_SHOWN]:
            console.print(Text(f"  {name}"), soft_wrap=True)
    for sha, sentences in bisection.sentences:
        console.print(Text(f"At {_name(bisection, sha)}:"), soft_wrap=True)
        for line in sentences:
            console.print(Text(f"  • {printable(line)}"))
    found = bisection.ending is BisectionEnding.FOUND
    console.print(Text(sentence(bisection), style="bold green" if found else "bold red"))
