"""The whole arc on real kernels: what the quickstart promises."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from integration.cli_run import (
    QUICKSTART,
    CliRun,
    command,
    environment,
    qemu_diff,
    run_campaign,
)

pytestmark = pytest.mark.integration

HVC = '[[scenario]]\npayload = "hvc"\n'
PAIR = '[[pair]]\nbaseline = "before"\ncandidate = "after"\n'
SWEEP = "vhe.host_timer-sweep"


def broken_lines(results: Path) -> list[str]:
    root = ET.parse(results / "junit.xml").getroot()
    cases = root.iter("testcase")
    return [case.get("name", "") for case in cases if case.find("failure") is not None]


def test_quickstart_is_as_expected(quickstart: CliRun) -> None:
    assert quickstart.status == 0, quickstart.said
    assert "Everything is as expected" in quickstart.said
    assert quickstart.verdicts["complete"]
    assert not broken_lines(quickstart.results)


def test_unpatched_loses_the_step_at_hvc_every_time(quickstart: CliRun) -> None:
    cell = next(c for c in quickstart.verdicts["cells"] if c["id"].startswith("unpatched.hvc"))
    broken = cell["result"]["breakdown"]
    assert [one["instruction"]["text"] for one in broken] == ["hvc #0", "hvc #0"]
    assert all(one["broken"] == one["stepped"] > 1 for one in broken)
    assert "every time" in quickstart.said


def test_unpatched_has_one_complete_window_at_the_trapped_read(quickstart: CliRun) -> None:
    cell = next(
        c for c in quickstart.verdicts["cells"] if c["id"].startswith("unpatched.trapped_sysreg")
    )
    windows = cell["result"]["windows"]
    assert len(windows) == 1
    window = windows[0]
    assert window["instruction"]["label"] == "trapped_read"
    assert (window["complete"], window["mixed"]) == (True, 0)
    assert window["placements"] == window["last_ns"] - window["first_ns"] + 1 > 10
    assert f"{window['first_ns']:,} to {window['last_ns']:,} ns" in quickstart.said


@pytest.mark.parametrize("kernel", ["unpatched", "patched"])
def test_the_sweep_is_a_full_grid_on_both(quickstart: CliRun, kernel: str) -> None:
    """On the unpatched kernel, too, where the lost steps take the next instruction's along."""
    result = quickstart.cell(f"{kernel}.trapped_sysreg.{SWEEP}.1200-end-1")["result"]
    coverage = result["coverage"]
    assert (coverage["method"], coverage["resolution_ns"], coverage["missing"]) == ("full", 1, 0)
    assert coverage["tried"] > coverage["inside"] > 10_000
    assert len(result["maps"]) == 4
    for one in result["maps"]:
        whole = one["spans"][-1]["last_ns"] - coverage["first_ns"] + 1
        tried = sum(span["placements"] for span in one["spans"])
        assert whole <= tried <= whole + 4
        assert one["spans"][-1]["last_ns"] >= one["window_ns"] > 3_000


def test_patched_loses_none_in_steps_that_count(quickstart: CliRun) -> None:
    patched = [cell for cell in quickstart.verdicts["cells"] if cell["kernel"] == "patched"]
    assert {cell["verdict"] for cell in patched} == {"pass"}
    assert sum(cell["steps"] for cell in patched) >= 20_000
    assert sum(cell["counted_steps"] for cell in patched) >= 5_000


def test_pairs_are_fixed_where_the_bug_shows(quickstart: CliRun) -> None:
    outcome = {pair["cell"].split(".")[0]: pair["outcome"] for pair in quickstart.verdicts["pairs"]}
    assert outcome == {"straightline": "same", "hvc": "fixed", "trapped_sysreg": "fixed"}


def test_show_says_the_same_again(quickstart: CliRun) -> None:
    again = qemu_diff("show", quickstart.results)
    assert again.status == 0
    assert "Everything is as expected" in again.said


def test_swapped_pair_is_a_regression(campaign_of, tmp_path: Path) -> None:
    expect = 'expect = { after = { hvc = "lost-step" } }\n'
    campaign = campaign_of({"before": "patched", "after": "unpatched"}, PAIR + HVC + expect)
    done = run_campaign(campaign, tmp_path / "out")
    assert done.status == 1
    assert [pair["outcome"] for pair in done.verdicts["pairs"]] == ["regressed"]
    assert broken_lines(done.results) == ["before..after.hvc.vhe.quiet"]
    failure = ET.parse(done.results / "junit.xml").getroot().find(".//failure")
    assert failure is not None
    assert failure.text is not None
    assert "first_hvc" in failure.text


def test_a_control_that_does_not_fail_is_a_failure(campaign_of, tmp_path: Path) -> None:
    expect = 'expect = { before = { hvc = "lost-step" } }\n'
    campaign = campaign_of({"before": "patched", "after": "patched"}, PAIR + HVC + expect)
    done = run_campaign(campaign, tmp_path / "out")
    assert done.status == 1
    assert "the bug that must be seen here was not seen" in done.said
    assert broken_lines(done.results) == ["before.hvc.vhe.quiet"]


def test_an_unexpected_finding_fails(campaign_of, tmp_path: Path) -> None:
    done = run_campaign(campaign_of({"only": "unpatched"}, HVC), tmp_path / "out")
    assert done.status == 1
    assert "lost-step" in done.said


def test_a_reader_that_leaves_changes_no_verdict(campaign_of, tmp_path: Path) -> None:
    done = run_campaign(campaign_of({"only": "unpatched"}, HVC), tmp_path / "out")
    assert done.status == 1
    show = subprocess.Popen(
        command("show", done.results), env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert show.stdout is not None
    assert show.stderr is not None
    show.stdout.close()
    assert show.stderr.read() == ""
    assert show.wait() == 1


@pytest.mark.parametrize("kvm_mode", ["vhe", "nvhe"])
def test_both_kvm_modes_show_the_bug(campaign_of, tmp_path: Path, kvm_mode: str) -> None:
    body = f'{HVC}machine = {{ kvm_mode = "{kvm_mode}" }}\n'
    done = run_campaign(campaign_of({"bad": "unpatched", "good": "patched"}, body), tmp_path / "o")
    assert done.cell(f"bad.hvc.{kvm_mode}.quiet")["lost_steps"] == 2
    assert done.cell(f"good.hvc.{kvm_mode}.quiet")["verdict"] == "pass"


def without_times(text: str) -> str:
    document = json.loads(text)
    del document["run"], document["started"]
    for cell in document["cells"]:
        del cell["duration_s"], cell["result"]["duration_s"], cell["result"]["stepping_s"]
    return json.dumps(document)


def test_two_runs_are_byte_identical(quickstart: CliRun, tmp_path: Path) -> None:
    """Records, truth, timer log, console and verdicts; wall times aside."""
    again = run_campaign(QUICKSTART, tmp_path / "again")
    first, second = quickstart.results, again.results
    names = ("records.bin", "truth.bin", "timer.log", "console.log", "job")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.name in names)
    assert len(files) >= 5 * len(quickstart.verdicts["cells"])
    for path in files:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path
    verdicts = [(results / "verdicts.json").read_text() for results in (first, second)]
    assert without_times(verdicts[0]) == without_times(verdicts[1])
