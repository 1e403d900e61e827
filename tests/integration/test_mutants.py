"""Hostile kernels: the mechanical ones are all there are, and a handful does no harm."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from integration.cli_run import ROOT, CliRun, run_campaign
from mutants.__main__ import MECHANICAL, patches, sources
from mutants.mutations import comments, grep, sites

pytestmark = pytest.mark.integration

PATCHES = ROOT / "guest_images" / "patches"
KERNELS = ("l1-oops", "l1-hang", "records-header", "records-count", "power-off")


def test_no_line_that_a_grep_finds_is_left_out() -> None:
    found = dict(sources())
    assert len(found) > 10
    for path, source in found.items():
        assert {site.line for site in sites(source)} | comments(source) == set(grep(source)), path


def test_the_patches_that_are_kept_are_those_that_are_made() -> None:
    assert {path.name: path.read_text() for path in MECHANICAL.glob("*.patch")} == patches()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> CliRun:
    directory = tmp_path_factory.mktemp("hostile")
    lines = ["[campaign]", 'name = "hostile"', "budget_s = 8", "findings = false"]
    for name in KERNELS:
        patch = PATCHES / f"mutant-{name}.patch"
        lines += [f"[kernels.{name}]", 'source = "debian:linux-source-6.1"']
        lines += [f'patches = ["{patch}"]']
    lines += ["[[scenario]]", 'payload = "mixed"', "[scenario.expect]"]
    lines += ['l1-oops = { mixed = "kernel-oops" }', 'power-off = { mixed = "kernel-oops" }']
    lines += ['l1-hang = { mixed = "hang" }', 'records-count = { mixed = "fail" }']
    lines += ['records-header = { mixed = "kernel-oops" }']
    campaign = directory / "hostile.toml"
    campaign.write_text("\n".join(lines) + "\n")
    return run_campaign(campaign, directory / "out")


def test_what_l1_does_to_itself_or_to_us_is_its_own_deed(hostile: CliRun) -> None:
    assert hostile.status == 0, hostile.said
    assert all(cell["as_expected"] for cell in hostile.verdicts["cells"])
    assert "Traceback" not in hostile.said


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("l1-oops", "Unable to handle kernel NULL pointer dereference"),
        ("l1-hang", "no return from KVM_RUN for 4 s"),
        ("records-header", "the step VMM was killed by signal 7"),
        ("records-count", "L1 wrote over what it had recorded"),
        ("power-off", "L1 went down before the job was done"),
    ],
)
def test_its_deed_is_told_with_its_evidence(hostile: CliRun, kernel: str, words: str) -> None:
    assert words in hostile.cell(f"{kernel}.mixed.vhe.quiet")["result"]["reason"]


def test_its_reports_are_whole(hostile: CliRun) -> None:
    root = ET.parse(hostile.results / "junit.xml").getroot()
    assert len(list(root.iter("testcase"))) >= len(KERNELS)
    assert Path(hostile.results / "report.html").stat().st_size > 0
