"""KTAP: the structure, the directives, and no console that writes results of its own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from judged import EVERYTHING, console_text, fails, lost, pair, passes, skipped, told

from qemu_diff.model import CampaignResult, CellResult, PairOutcome, PairResult
from qemu_diff.report.ktap import ktap

RESULT = re.compile(r"( *)(ok|not ok) (\d+) ([^#]+?)(?: # (.*))?")
KTAP_END = re.compile(
    "List of all partitions:|Kernel panic - not syncing: VFS:|reboot: System halted"
)
PLAN = re.compile(r"( *)1\.\.(\d+)")


def lines(*cells: CellResult, pairs: tuple[PairResult, ...] = ()) -> list[str]:
    return ktap(CampaignResult("c", cells, pairs, complete=True)).splitlines()


def acting(document: list[str]) -> list[str]:
    """Without what is there for people only."""
    return [
        line
        for line in document
        if not line.lstrip().startswith("#") or line.lstrip().startswith("# Subtest: ")
    ]


def test_kernels_and_in_them_cells() -> None:
    document = lines(fails(), passes(), skipped(), lost(), pairs=(pair(PairOutcome.FIXED),))
    assert acting(document) == [
        "KTAP version 1",
        "1..5",
        "  KTAP version 1",
        "  # Subtest: unpatched",
        "  1..1",
        "  not ok 1 unpatched.hvc.vhe.quiet # unpatched.hvc.vhe.quiet: fail, expected to pass: "
        "50 lost-step in 350 steps",
        "not ok 1 unpatched # 1 of 1",
        "  KTAP version 1",
        "  # Subtest: patched",
        "  1..1",
        "  ok 1 patched.hvc.vhe.quiet",
        "ok 2 patched",
        "  KTAP version 1",
        "  # Subtest: witness",
        "  1..1",
        "  ok 1 witness.hvc.vhe.quiet # SKIP no such suite",
        "ok 3 witness # SKIP no such suite",
        "  KTAP version 1",
        "  # Subtest: broken",
        "  1..1",
        "  not ok 1 broken.hvc.vhe.quiet # ERROR broken.hvc.vhe.quiet: nothing was learnt: "
        "QEMU died (signal 9); it printed nothing",
        "not ok 4 broken # ERROR 1 of 1",
        "  KTAP version 1",
        "  # Subtest: pairs",
        "  1..1",
        "  ok 1 unpatched..patched.hvc.vhe.quiet",
        "ok 5 pairs",
    ]


def test_what_is_said_stands_before_its_result() -> None:
    document = lines(fails())
    at = next(i for i, line in enumerate(document) if " 1 unpatched.hvc" in line)
    before = document[:at]
    assert "  # unpatched loses the step at first_hvc (hvc #0) every time: 50 of 50" in before
    assert "  #   never reported   0x5a5a000c  first_hvc+0x4: nop" in before


@settings(deadline=None)
@given(console_text)
def test_no_text_makes_a_line_of_its_own(text: str) -> None:
    document = ktap(told(text))
    assert document.isascii() or all(one.isprintable() for one in document.splitlines())
    assert shape(document) == shape(ktap(told("harmless")))


def shape(document: str) -> list[str]:
    """What acts of a document, without what its results say."""
    found = [(RESULT.fullmatch(line), line) for line in acting(document.splitlines())]
    return [" ".join(one.groups("")[:4]) if one else line for one, line in found]


@pytest.mark.parametrize(
    "text",
    [
        "died # SKIP not here",
        "died #SKIP not here",
        "Subtest: mine",
        "Kernel panic - not syncing: VFS: Unable to mount root fs",
        "#reboot: #System halted",
        "\nok 7 mine\nKTAP version 1\n1..9",
    ],
)
def test_no_text_acts(text: str) -> None:
    document, harmless = ktap(told(text)), ktap(told("harmless"))
    results = [line for line in document.splitlines() if RESULT.fullmatch(line)]
    assert all(line.count("#") <= 1 for line in results)
    assert len([line for line in results if " # SKIP" in line]) == harmless.count(" # SKIP")
    assert document.count("# Subtest: ") == harmless.count("# Subtest: ")
    assert not KTAP_END.search(document)


def test_plans_and_numbers_agree() -> None:
    expected: list[int] = []
    numbers: list[list[int]] = []
    for line in acting(ktap(EVERYTHING).splitlines()):
        if found := PLAN.fullmatch(line):
            expected.append(int(found[2]))
            numbers.append([])
        elif found := RESULT.fullmatch(line):
            depth = len(found[1]) // 2
            numbers[0 if depth == 0 else -1].append(int(found[3]))
    assert numbers == [list(range(1, number + 1)) for number in expected]
    assert expected[0] == 8
