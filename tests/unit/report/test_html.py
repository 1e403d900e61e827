"""The page: HTML5 without an error, alone in the world, small, and nobody's text acts in it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import html5lib
import pytest
from judged import EVERYTHING, FINDING_ID, NIGHTS
from placed import BROKEN, HOSTILE, LOST, PATH, QUICKSTART, READ, compared, placed

from qemu_diff.model import (
    CampaignResult,
    CellVerdict,
    Finding,
    Instruction,
    Nights,
    PairOutcome,
    PlacementMap,
    Provenance,
    SideBySide,
    Span,
)
from qemu_diff.report.html import html
from qemu_diff.report.picture import pictures, span_sentence

LIMIT = 2_000_000

FINDING = Finding(
    kind=LOST,
    boot="sweep-0",
    report=7,
    pass_number=1,
    previous_pc=READ,
    reported_pc=Instruction(0x5A5A_000C, "trapped_read+0x8", "mov x1, x0"),
    legal_pcs=(Instruction(0x5A5A_0008, "trapped_read+0x4", "nop"),),
    executed=(READ,),
    missed=(),
    requested_ns=3526,
    delivered_ns=3159,
    attributed_to="placement",
    message="2 instructions ran for one reported step",
)


def parsed(page: str) -> Any:
    """:raises html5lib.html5parser.ParseError: it is no HTML5."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def words(page: str) -> str:
    return " ".join(" ".join(parsed(page).itertext()).split())


def hostile(text: str) -> CampaignResult:
    """Every text of a result that somebody else may have written."""
    instruction = Instruction(4, text, text)
    spoiled = replace(FINDING, previous_pc=instruction, executed=(instruction,), boot=text)
    one = replace(
        placed("unpatched", PlacementMap(instruction, 10, (Span(1, 2, LOST, 2),)), name=text),
        findings=(spoiled,),
        reason=text,
        warnings=(text,),
    )
    other = replace(placed(text), verdict=CellVerdict.LOST, reason=text)
    table = SideBySide(((instruction, True, False),))
    made = compared(one, other)
    pairs = tuple(replace(pair, side_by_side=table, message=text) for pair in made.pairs)
    provenance = Provenance(qemu=text, qemu_identity=text, phantom_rule=text)
    return replace(made, name=text, pairs=pairs, provenance=provenance)


def test_it_is_html5_and_says_what_is_to_be_said() -> None:
    said = words(html(QUICKSTART))
    assert "Everything is as expected, the bugs that must be seen included." in said
    for part in ("Pictures", "Windows", "Pairs", "Grid", "Cells", "Provenance"):
        assert part in said
    assert "Not as expected" not in said


def test_what_is_not_as_expected_comes_first() -> None:
    fine, broken = QUICKSTART.cells
    unexpected = replace(broken, verdict=CellVerdict.FAIL, violations=((LOST, 1),), reason="1 lost")
    page = html(replace(QUICKSTART, cells=(fine, unexpected)))
    said = words(page)
    assert said.index("Not as expected") < said.index("What came of an interrupt")
    assert "patched.trapped_sysreg.vhe: fail, expected to pass: 1 lost" in said
    assert "banner bad" in page


def test_a_regression_is_not_as_expected() -> None:
    (pair,) = QUICKSTART.pairs
    regressed = replace(pair, outcome=PairOutcome.REGRESSED, message="it got worse")
    assert "regressed from unpatched: it got worse" in words(
        html(replace(QUICKSTART, pairs=(regressed,)))
    )


def test_it_needs_no_other_file_and_no_network() -> None:
    page = html(QUICKSTART)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", page)
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {
        f"#{outcome}" for outcome in re.findall(r'<pattern id="([\w-]+)"', page)
    }
    hosts = re.findall(r"https?://[^\"'\s<]+", page)
    assert set(hosts) == {"http://www.w3.org/2000/svg"}


def test_it_reads_on_a_phone_in_the_dark_and_by_keyboard() -> None:
    page = html(QUICKSTART)
    assert '<meta name="viewport" content="width=device-width' in page
    assert page.count("prefers-color-scheme:dark") >= 2
    document = parsed(page)
    for scrolled in document.findall(".//div[@class='scroll']"):
        assert scrolled.get("tabindex") == "0"
        assert scrolled.get("aria-label")
    targets = {one.get("id") for one in document.iter() if one.get("id")}
    links = [one.get("href").removeprefix("#") for one in document.iter("a")]
    assert links
    assert {*links} <= targets


def test_every_span_of_every_picture_is_told() -> None:
    page = html(QUICKSTART)
    for picture in pictures(QUICKSTART):
        for side in picture.sides:
            for one in side.maps:
                for span in one.spans:
                    assert span_sentence(side.kernel, one.instruction, span) in page


def test_findings_are_whole_with_the_line_that_shows_them_again() -> None:
    failed, passed = QUICKSTART.cells
    result = replace(QUICKSTART, cells=(replace(failed, findings=(FINDING,)), passed))
    name = f"{failed.cell.id}.lost-step.trapped_read"
    said = words(html(result, (name, "another.cell.lost-step")))
    assert "mrs x0, id_aa64pfr0_el1" in said
    assert f"qemu-diff replay RESULTS/findings/{name}" in said
    assert "another.cell" not in said


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_are_text_and_nothing_else(text: str) -> None:
    page = html(hostile(text))
    document = parsed(page)
    plain = parsed(html(hostile("harmless")))
    assert {one.tag for one in document.iter()} == {one.tag for one in plain.iter()}
    assert len(list(document.iter("script"))) == 1
    handlers = [name for one in document.iter() for name in one.attrib if name.startswith("on")]
    assert handlers == []
    assert "\x1b" not in page
    assert "49" not in words(page).split()


def test_what_changed_since_the_last_night_comes_first() -> None:
    said = words(html(EVERYTHING, (FINDING_ID,), NIGHTS))
    parts = [
        "Since 2026-11-21 02:00 UTC: 1 broke, 1 gone",
        "regressing.hvc.vhe.quiet: broke: pass → fail (lost-step)",
        "3 of 6 judged cells are not as expected",
        "Not as expected",
        "✓ as expected (dashed",
        "regressed ✗ hvc.vhe.quiet unpatched → regressing",
        "Cost of a step L1's instructions",
        "+32.3 % ✗ too much",
        f"Again: qemu-diff replay RESULTS/findings/{FINDING_ID}",
        "patched.hvc.vhe.quiet: flaky: 3 of 17 runs",
    ]
    places = [said.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    same = words(html(QUICKSTART, (), Nights(since=NIGHTS.since)))
    assert "Since 2026-11-21 02:00 UTC: nothing changed" in same
    assert "Since" not in words(html(QUICKSTART))


LOOKS = {
    "patched.hvc.vhe.quiet": "good ✓ pass",
    "unpatched.hvc.vhe.quiet": "control ✓ lost-step",
    "regressing.hvc.vhe.quiet": "bad ✗ lost-step",
    "k.hvc.vhe.quiet": "bad ✗ hang",
    "broken.hvc.vhe.quiet": "none ? lost",
    "witness.hvc.vhe.quiet": "none ○ skipped",
}


def test_the_grid_says_each_verdict_without_its_colour_and_leads_to_the_cell() -> None:
    document = parsed(html(EVERYTHING))
    grid = document.find(".//section[@id='grid']")
    entries = {one.get("href"): one for one in grid.iter("a")}
    assert len(entries) == len(EVERYTHING.cells)
    cells = {f"#{one.get('id')}": one for one in document.iter("details") if one.get("id")}
    assert entries.keys() == cells.keys()
    seen = {
        cells[href].find("summary/strong").text: f"{one.get('class')} {one.find('strong').text}"
        for href, one in entries.items()
    }
    assert {name: seen[name] for name in LOOKS} == LOOKS


def test_parts_are_tagged_for_the_filters() -> None:
    document = parsed(html(EVERYTHING))
    tagged = {
        one.find("summary/strong").text: (one.get("data-kernel"), one.get("data-verdict"))
        for one in document.iter("details")
        if one.get("data-cell") is not None
    }
    assert tagged["patched.hvc.vhe.quiet"] == ("patched", "pass")
    assert tagged["regressing.hvc.vhe.quiet"] == ("regressing", "fail unexpected")
    assert tagged["witness.hvc.vhe.quiet"] == ("witness", "skipped")
    buttons = {one.get("data-choice"): "".join(one.itertext()) for one in document.iter("button")}
    assert buttons["unexpected"].strip() == "not as expected (5)"
    assert buttons["k"].strip() == "k (2)"
    (form,) = document.iter("form")
    assert form.get("hidden") is not None  # until there is a script to filter with


def test_a_page_of_500_cells_can_be_mailed() -> None:
    """34 instructions a cell, each with as many spans and landmarks as a real one, and findings."""
    maps = tuple(
        PlacementMap(Instruction(4 * row, f"label+{4 * row:#x}", READ.text), 4693, BROKEN, PATH * 5)
        for row in range(34)
    )
    cells = tuple(
        replace(
            placed(kernel, *maps, name=f"scenario-{number}.vhe.host_timer-sweep.1200-end-1"),
            findings=(FINDING,) * 10,
        )
        for number in range(250)
        for kernel in ("unpatched", "patched")
    )
    page = html(compared(*cells))
    assert len(page.encode()) < LIMIT
    parsed(page)
    said = words(page)
    assert "more pictures would make this page too large" in said
    assert re.search(r"and [\d,]+ more: qemu-diff show RESULTS --details", said)


def test_nothing_at_all_is_a_page_as_well() -> None:
    parsed(html(CampaignResult("empty", (), (), complete=False)))
