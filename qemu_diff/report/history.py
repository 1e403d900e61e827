"""Runs side by side, night after night; and what changed since the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from qemu_diff.compare.odds import odds
from qemu_diff.model import (
    CellVerdict,
    Change,
    ChangeKind,
    Estimate,
    Flakiness,
    History,
    Nights,
    PastCell,
    PastRun,
)
from qemu_diff.report.printable import printable

SYMBOLS = {
    CellVerdict.PASS: "p",
    CellVerdict.FAIL: "f",
    CellVerdict.HANG: "h",
    CellVerdict.KERNEL_OOPS: "o",
    CellVerdict.LOST: "?",
    CellVerdict.SKIPPED: "-",
}
ABSENT = "."

LEGEND = (
    "p pass, f fail, h hang, o kernel-oops; a capital letter: not as expected; "
    "? lost, - skipped, . not run"
)

STYLES = {
    ChangeKind.BROKE: "bold red",
    ChangeKind.OTHERWISE: "red",
    ChangeKind.LOST: "yellow",
    ChangeKind.JUDGED: "",
    ChangeKind.MENDED: "green",
    ChangeKind.NEW: "dim",
    ChangeKind.GONE: "dim",
}

WORDS = {
    ChangeKind.BROKE: "broke",
    ChangeKind.OTHERWISE: "fails otherwise",
    ChangeKind.LOST: "no longer judged",
    ChangeKind.JUDGED: "judged again",
    ChangeKind.MENDED: "mended",
    ChangeKind.NEW: "new",
    ChangeKind.GONE: "gone",
}

WORST_SHOWN = 10
"""Changes that are listed after a run; `history` has all."""

QUIET = (ChangeKind.NEW, ChangeKind.GONE, ChangeKind.JUDGED)
"""Changes that are counted, not listed: the campaign file, or tonight's results, tell of them."""

COLUMN = 3
"""Characters of a night's column."""

NARROWEST = 20
"""Columns of a terminal that are for nights, however long the ids are."""


def night_symbol(one: PastCell | None) -> str:
    """One letter for what came of a cell in one night."""
    if one is None:
        return ABSENT
    symbol = SYMBOLS[one.verdict]
    return symbol.upper() if one.verdict.judged and not one.as_expected else symbol


def outcome_words(one: PastCell) -> str:
    """``fail (lost-step)``."""
    kinds = ", ".join(one.violations)
    return f"{one.verdict} ({kinds})" if kinds else one.verdict.value


def kernel_words(one: PastCell) -> str:
    """``6.1.192 77a1ffdea359``."""
    return " ".join(filter(None, (one.release, one.kernel_key[:12]))) or "not known"


def change_words(change: Change) -> str:
    """What a cell was, and what it is now, with both kernels where they differ."""
    before, now = change.before, change.now
    if before is None or now is None:
        there = before or now
        return outcome_words(there) if there else ""
    words = f"{outcome_words(before)} → {outcome_words(now)}"
    if before.kernel_key == now.kernel_key:
        return f"{words}, on the same kernel ({kernel_words(now)})"
    return f"{words}, kernel {kernel_words(before)} → {kernel_words(now)}"


def flaky_words(one: Flakiness) -> str:
    """``3 of 17 runs on the same kernel not as expected, 95 % interval 6 to 41 %``."""
    low, high = odds(one.unexpected, one.runs)
    return (
        f"{one.unexpected} of {one.runs} runs on the same kernel ({one.kernel_key[:12]}) not as "
        f"expected, 95 % interval {low * 100:.0f} to {high * 100:.0f} %"
    )


def change_sentence(change: Change) -> str:
    """``patched.hvc.vhe.quiet: broke: pass → fail (lost-step), on the same kernel (…)``."""
    return f"{change.id}: {WORDS[change.kind]}: {change_words(change)}"


def flaky_sentence(one: Flakiness) -> str:
    """``patched.hvc.vhe.quiet: flaky: 3 of 17 runs …``."""
    return f"{one.id}: flaky: {flaky_words(one)}"


def since_sentence(nights: Nights) -> str:
    """``since 2026-11-21 22:00 UTC: 2 broke, 1 mended``; empty where there was no such run."""
    if not nights.since:
        return ""
    counted = Counter(change.kind for change in nights.changes)
    words = [f"{counted[kind]} {WORDS[kind]}" for kind in ChangeKind if counted[kind]]
    return f"since {minute(nights.since)} UTC: {', '.join(words) or 'nothing changed'}"


def estimate_sentence(estimated: Estimate) -> str:
    """``about 12 min with 2 boots at once, as past runs tell; 3 of 30 cells have no past``."""
    known, unknown = len(estimated.cells), estimated.unknown
    if not known:
        return f"No past run tells how long {_counted(unknown, 'cell')} will take"
    missing = f"; {unknown} of {_counted(known + unknown, 'cell')} have no past" if unknown else ""
    about, at_once = _duration(estimated.duration_s), _counted(estimated.at_once, "boot")
    return f"About {about} with {at_once} at once, as past runs tell{missing}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def minute(started: str) -> str:
    """ISO 8601 for people, still UTC."""
    return started.replace("T", " ")[:16]


def print_nights(nights: Nights, console: Console) -> None:
    """A few lines after a run: what changed since the last whole one."""
    if not nights.since:
        return
    console.print()
    console.print(Text(since_sentence(nights), style="bold"), soft_wrap=True)
    listed = [change for change in nights.changes if change.kind not in QUIET]
    for change in listed[:WORST_SHOWN]:
        _print_change(change, f"  {WORDS[change.kind]}", console)
    if len(listed) > WORST_SHOWN:
        more = len(listed) - WORST_SHOWN
        console.print(Text(f"  and {more} more: qemu-diff history"), soft_wrap=True)
    for one in nights.flaky[:WORST_SHOWN]:
        line = f"  flaky {printable(one.id)}: {flaky_words(one)}"
        console.print(Text(line, style="yellow"), soft_wrap=True)


def _print_change(change: Change, prefix: str, console: Console) -> None:
    line = f"{prefix} {printable(change.id)}: {printable(change_words(change))}"
    console.print(Text(line, style=STYLES[change.kind]), soft_wrap=True)


def print_history(name: str, found: History, ids: Sequence[str], console: Console) -> None:
    """All that is known of some cells.

    :param ids: of the cells that are meant.
    """
    width = max(map(len, (*ids, "minute")))
    runs = found.runs
    if console.is_terminal:
        room = max(console.width - width, NARROWEST) // COLUMN
        runs = runs[-room:]
    nights = "night" if len(runs) == 1 else "nights"
    when = f"{minute(runs[0].started)} to {minute(runs[-1].started)} (UTC)"
    title = f"{printable(name)}: {len(runs)} {nights}, {when}"
    console.print(Text(title, style="bold"), soft_wrap=True)
    for label, numbers in _heads(runs):
        line = label.rjust(width) + "".join(number.rjust(COLUMN) for number in numbers)
        console.print(Text(line, style="dim"), soft_wrap=True)
    rows = [{one.id: one for one in run.cells} for run in runs]
    for one in ids:
        console.print(_row(one.ljust(width), [row.get(one) for row in rows]), soft_wrap=True)
    console.print(Text(LEGEND, style="dim"), soft_wrap=True)
    _print_lists(found, set(ids), console)


def _print_lists(found: History, ids: set[str], console: Console) -> None:
    changes = [change for change in found.changes if change.id in ids]
    if changes:
        console.print()
        console.print(Text("changes", style="bold"))
    for change in changes:
        if change.now is not None:
            _print_change(change, f"  {minute(change.now.started)} {WORDS[change.kind]}", console)
    flaky = [one for one in found.flaky if one.id in ids]
    if flaky:
        console.print()
        console.print(Text("flaky", style="bold"))
    for one in flaky:
        line = f"  {printable(one.id)}: {flaky_words(one)}"
        console.print(Text(line, style="yellow"), soft_wrap=True)


def _heads(runs: Sequence[PastRun]) -> Iterator[tuple[str, list[str]]]:
    """Month over day; and the hour and minute where a day has several nights."""
    yield "month", [run.started[5:7] for run in runs]
    yield "day", [run.started[8:10] for run in runs]
    if len({run.started[:10] for run in runs}) < len(runs):
        yield "hour", [run.started[11:13] for run in runs]
        yield "minute", [run.started[14:16] for run in runs]


def _row(name: str, cells: Sequence[PastCell | None]) -> Text:
    row = Text(printable(name))
    for one in cells:
        symbol = night_symbol(one)
        row.append(symbol.rjust(COLUMN), style=_symbol_style(symbol))
    return row


def _symbol_style(symbol: str) -> str:
    if symbol.isupper():
        return "bold red"
    return "yellow" if symbol == "?" else "green" if symbol.islower() else "dim"
