"""A kernel that dies with words meant for whoever reads them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import html5lib
import pytest
from integration.conftest import write_campaign
from integration.test_trouble import HVC, run_one
from lxml import etree

from qemu_diff.campaign import cell
from qemu_diff.cli.terminal import OnlyText
from qemu_diff.guest import machine
from qemu_diff.model import Build, CampaignResult, CellResult, CellVerdict
from qemu_diff.report.html import html
from qemu_diff.report.junit import junit
from qemu_diff.report.kcidb import kcidb
from qemu_diff.report.ktap import ktap
from qemu_diff.report.matrix import markdown, matrix
from qemu_diff.report.summary import summary
from qemu_diff.report.terminal import print_result

pytestmark = pytest.mark.integration

WORDS = "/\x1b]0;t\x07\x9b2J<b>|`*::error::x]]>#"
"""What the kernel is told to start, and says that it can't."""


def test_what_our_analysis_stumbles_over_costs_one_cell(
    builds: dict[str, Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(*_: object) -> CellResult:
        raise IndexError("index 5 is out of bounds")

    monkeypatch.setattr(cell, "judged_cell", stumbles)
    campaign = write_campaign(tmp_path / "campaign.toml", builds, {"one": "patched"}, HVC)
    lost = run_one(builds["patched"], campaign, tmp_path / "cell")
    assert lost.verdict is CellVerdict.LOST
    assert "a bug of ours: its records can't be judged: IndexError" in lost.reason
    assert "stumbles" in (tmp_path / "cell" / cell.UNREADABLE).read_text()


@pytest.fixture(scope="module")
def result(builds: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> CampaignResult:
    """The cell of a real kernel whose last words are :data:`WORDS`."""
    directory = tmp_path_factory.mktemp("hostile")
    campaign = write_campaign(directory / "campaign.toml", builds, {"one": "patched"}, HVC)
    with pytest.MonkeyPatch.context() as patch:
        arguments = (*machine.KERNEL_ARGUMENTS, "rdinit=/nothing", f"init={WORDS}")
        patch.setattr(machine, "KERNEL_ARGUMENTS", arguments)
        lost = run_one(builds["patched"], campaign, directory / "cell")
    return CampaignResult("hostile", (lost,), (), complete=True)


def test_the_kernel_has_said_it(result: CampaignResult) -> None:
    (lost,) = result.cells
    assert lost.verdict is CellVerdict.LOST
    assert "\x1b]0;t\x07" in lost.reason
    assert "<b>|`*::error::x]]>#" in lost.reason


def test_no_terminal_and_no_runner_acts_on_it(
    result: CampaignResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    stream = io.StringIO()
    print_result(result, OnlyText(file=stream, width=50), details=True)
    shown = stream.getvalue()
    assert "<b>" in shown
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert not any(line.strip().startswith("::") for line in shown.splitlines())


def test_no_page_holds_it(result: CampaignResult) -> None:
    page = html(result)
    harmless = replace(result, cells=(replace(result.cells[0], reason="words"),))
    count = [len(re.findall("<b>", one)) for one in (page, html(harmless))]
    assert count[0] == count[1]
    assert "\x1b" not in page
    html5lib.HTMLParser(strict=True).parse(page)


def test_no_report_is_broken_by_it(result: CampaignResult) -> None:
    etree.fromstring(junit(result).encode())
    json.loads(kcidb(result))
    lines = [line.strip() for line in ktap(result).splitlines()]
    assert sum(line.startswith(("ok ", "not ok ")) for line in lines) == 2
    for text in (ktap(result), summary(result), markdown(matrix(result)), kcidb(result)):
        assert all(one.isprintable() or one == "\n" for one in text)
    assert "<b>" not in summary(result).replace(r"\<b\>", "")
