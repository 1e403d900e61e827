"""A page in Markdown for a CI job: the verdict, what changed, each cell that is not as expected.

GitHub takes 1 MiB for one step, and shows nothing of what is larger: each list has a bound, and
what finds no room is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from qemu_diff.model import CampaignResult, CellResult, CellVerdict, Nights
from qemu_diff.report.cases import FIRST_NIGHT, Case, Outcome, cell_outcome, grouped
from qemu_diff.report.history import QUIET, change_sentence, flaky_sentence, since_sentence
from qemu_diff.report.printable import markdown_text, printable
from qemu_diff.report.words import closing_sentence, expectation_sentence

LIST_BYTES = 150_000
"""Of one list, of which there are five, and of a table, of which there are two: less than 1 MiB
together."""


def summary(result: CampaignResult, nights: Nights = FIRST_NIGHT) -> str:
    """The page. It may be appended to another one."""
    return "\n\n".join(part for part in _parts(result, nights) if part) + "\n\n"


def _parts(result: CampaignResult, nights: Nights) -> Iterator[str]:
    groups = grouped(result, nights)
    outcomes = Counter(case.outcome for group in groups for case in group.cases)
    pairs = [case for group in groups if not group.kernel for case in group.cases]
    good = outcomes[Outcome.PASS] and not outcomes[Outcome.FAILURE] + outcomes[Outcome.ERROR]
    yield f"## {'✓' if good and result.complete else '✗'} qemu-diff: {markdown_text(result.name)}"
    yield f"**{markdown_text(closing_sentence(result))}**"
    if nights.since:
        listed = [change for change in nights.changes if change.kind not in QUIET]
        changes = [_item(change_sentence(one)) for one in listed]
        yield _part(
            markdown_text(since_sentence(nights).replace("since", "Since", 1)),
            changes or ["All the rest is as it was."],
        )
    yield _kernels(result)
    yield _part("Not as expected", _told(result, Outcome.FAILURE))
    yield _part("Lost: nothing was learnt about the kernel", _told(result, Outcome.ERROR))
    yield _pairs(result)
    yield _part("Pairs not as expected", map(_pair, filter(_is_bad, pairs)))
    yield _part("Flaky", (_item(flaky_sentence(one)) for one in nights.flaky))


def _pair(case: Case) -> str:
    return _item(f"{case.name}: {case.message}")


def _is_bad(case: Case) -> bool:
    return case.outcome is Outcome.FAILURE


def _kernels(result: CampaignResult) -> str:
    """Kernel by verdict, as numbers of cells."""
    releases = {one.name: one.release for one in result.provenance.kernels}
    counts: dict[str, Counter[str]] = {}
    for one in result.cells:
        of_kernel = counts.setdefault(one.cell.kernel, Counter())
        of_kernel[one.verdict] += 1
        of_kernel["unexpected"] += cell_outcome(one) is Outcome.FAILURE
    seen = [verdict for verdict in CellVerdict if any(one[verdict] for one in counts.values())]
    rows = (
        _row(
            markdown_text(kernel),
            markdown_text(releases.get(kernel, "")),
            *(f"{of_kernel[verdict]:,}" for verdict in seen),
            f"**{of_kernel['unexpected']:,}**" if of_kernel["unexpected"] else "0",
        )
        for kernel, of_kernel in counts.items()
    )
    head = ("kernel", "Linux", *seen, "not as expected")
    return _table("Kernels", head, rows) if counts else ""


def _pairs(result: CampaignResult) -> str:
    counts = Counter((*one.sides, one.outcome) for one in result.pairs)
    rows = (
        _row(markdown_text(baseline), markdown_text(candidate), outcome, f"{number:,}")
        for (baseline, candidate, outcome), number in counts.items()
    )
    head = ("baseline", "candidate", "outcome", "pairs")
    return _table("Pairs", head, rows) if counts else ""


def _told(result: CampaignResult, outcome: Outcome) -> Iterator[str]:
    for one in result.cells:
        if cell_outcome(one) is outcome:
            again = "".join(f"\n  `{_code(line)}`" for line in _again(one))
            yield f"{_item(expectation_sentence(one))}{again}"


def _again(one: CellResult) -> list[str]:
    """How to see it again: what was kept of it, else the cell."""
    kept = [group.finding_id for group in one.signatures if group.finding_id]
    if kept:
        return [f"qemu-diff replay RESULTS/findings/{name}" for name in kept]
    return [f"qemu-diff run CAMPAIGN --only '{one.cell.id}'"]


def _part(title: str, items: Iterable[str]) -> str:
    """A heading and a list; nothing where there is nothing."""
    shown, left_out = _bounded(items)
    more = [f"- and {left_out:,} more: `qemu-diff show RESULTS`"] if left_out else []
    return "\n".join([f"### {title}\n", *shown, *more]) if shown else ""


def _table(title: str, head: Iterable[str], rows: Iterable[str]) -> str:
    columns = tuple(head)
    shown, left_out = _bounded(rows)
    more = [_row(f"and {left_out:,} more", *[""] * (len(columns) - 1))] if left_out else []
    return "\n".join(
        [f"### {title}\n", _row(*columns), _row(*["---"] * len(columns)), *shown, *more]
    )


def _bounded(lines: Iterable[str]) -> tuple[list[str], int]:
    """As many as find room, and how many do not."""
    shown: list[str] = []
    left, left_out = LIST_BYTES, 0
    for line in lines:
        left -= len(line.encode()) + 1
        if left >= 0:
            shown.append(line)
        else:
            left_out += 1
    return shown, left_out


def _row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"


def _item(sentence: str) -> str:
    # Two spaces at the end of a line break it (CommonMark 6.7).
    return f"- {markdown_text(sentence).rstrip()}"


def _code(text: str) -> str:
    return printable(text).replace("`", "'")
