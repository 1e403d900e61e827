"""The page for a CI job: short, whole, and nobody's text is markup in it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import html5lib
import pytest
from hypothesis import example, given, settings
from judged import EVERYTHING, FINDING_ID, NIGHTS, console_text, fails, lost, pair, passes, told
from markdown_it import MarkdownIt

from qemu_diff.model import CampaignResult, Nights, PairOutcome
from qemu_diff.report.summary import summary

MIB = 1 << 20


def parts(page: str) -> dict[str, list[str]]:
    """Heading → its lines that say something."""
    found: dict[str, list[str]] = {}
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            found[heading] = []
        elif line:
            found[heading].append(line)
    return found


def test_the_verdict_comes_first_and_then_what_changed() -> None:
    page = summary(EVERYTHING, NIGHTS)
    first, second, *_ = parts(page)
    assert first == "✗ qemu-diff: nightly"
    assert page.splitlines()[2].startswith("**3 of 6 judged cells are not as expected")
    assert second == "Since 2026-11-21 02:00 UTC: 1 broke, 1 gone"
    (broke,) = parts(page)[second]
    assert broke == (
        "- regressing.hvc.vhe.quiet: broke: pass → fail (lost-step), kernel 6.1.191 aaaaaaaaaaaa → "
        "6.1.192 bbbbbbbbbbbb"
    )


def test_the_table_has_the_numbers_of_each_kernel() -> None:
    rows = [line for line in summary(EVERYTHING).splitlines() if line.startswith("| ")]
    head = ["kernel", "Linux", "pass", "fail", "hang", "kernel-oops", "lost", "skipped"]
    assert rows[0] == f"| {' | '.join([*head, 'not as expected'])} |"
    assert "| patched | 6.1.192 | 2 | 0 | 0 | 0 | 0 | 0 | 0 |" in rows
    assert "| unpatched | 6.1.192 | 0 | 1 | 0 | 0 | 0 | 0 | 0 |" in rows
    assert "| regressing |  | 0 | 1 | 0 | 0 | 0 | 0 | **1** |" in rows
    assert "| unpatched | regressing | regressed | 1 |" in rows


def test_what_is_not_as_expected_is_told_with_the_line_that_shows_it_again() -> None:
    found = parts(summary(EVERYTHING))
    failed = found["Not as expected"]
    assert failed[0] == (
        "- regressing.hvc.vhe.quiet: fail, expected to pass: 50 lost-step in 350 steps"
    )
    assert failed[1] == f"  `qemu-diff replay RESULTS/findings/{FINDING_ID}`"
    assert failed[3] == "  `qemu-diff run CAMPAIGN --only 'k.hvc.vhe.quiet'`"
    told_of = "".join(found["Lost: nothing was learnt about the kernel"])
    assert "broken.hvc.vhe.quiet" in told_of
    assert "unbuilt.hvc.vhe.quiet" in told_of
    assert "broken" not in "".join(failed)
    pairs = "".join(found["Pairs not as expected"])
    assert "unpatched..regressing.hvc.vhe.quiet: regressed" in pairs
    assert "patched..k.hvc.vhe.quiet: same: both keep" in pairs


def test_what_is_fine_is_short() -> None:
    fine = CampaignResult("c", (passes(),), (pair(PairOutcome.FIXED),), complete=True)
    assert summary(fine).splitlines()[0] == "## ✓ qemu-diff: c"
    assert [*parts(summary(fine))] == ["✓ qemu-diff: c", "Kernels", "Pairs"]
    assert summary(replace(fine, complete=False)).startswith("## ✗")
    same = summary(fine, Nights(since="2026-11-21T02:00:00+00:00"))
    assert "### Since 2026-11-21 02:00 UTC: nothing changed\n" in same


def test_flaky_cells_are_named() -> None:
    (line,) = parts(summary(EVERYTHING, NIGHTS))["Flaky"]
    assert line.startswith("- patched.hvc.vhe.quiet: flaky: 3 of 17 runs on the same kernel")


def test_github_takes_however_much_there_is() -> None:
    many = tuple(
        replace(
            one, cell=replace(one.cell, id=f"{number}.x", kernel=f"k{number:060}"), reason="r" * 90
        )
        for number in range(4000)
        for one in (fails(), lost())
    )
    alarming = tuple(pair(PairOutcome.REGRESSED, message="m" * 500) for _ in range(4000))
    nights = replace(NIGHTS, changes=NIGHTS.changes * 5000, flaky=NIGHTS.flaky * 5000)
    page = summary(CampaignResult("c", many, alarming, complete=True), nights)
    assert MIB / 2 < len(page.encode()) < MIB
    assert len(re.findall(r"and [\d,]+ more", page)) == 6


def rendered(text: str) -> Any:
    """What a reader of Markdown as GitHub's sees."""
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(summary(told(text)))
    return html5lib.HTMLParser(namespaceHTMLElements=False).parse(page)


@settings(deadline=None, max_examples=50)
@given(console_text)
@example("two spaces  ")
def test_no_text_is_markup(text: str) -> None:
    assert [one.tag for one in rendered(text).iter()] == TAGS


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x>",
        "[link](http://x)",
        "**bold** _x_ ~~no~~",
        "a | b",
        "`code`",
        "$x$",
        "&amp;",
        "# head",
        "back\\slash \\*",
    ],
)
def test_every_text_is_shown_as_it_is(text: str) -> None:
    document = rendered(text)
    assert [one.tag for one in document.iter()] == TAGS
    assert f"nothing was learnt: {text}" in " ".join(document.itertext())


TAGS = [one.tag for one in rendered("harmless").iter()]
