"""The picture of real kernels: what L1 passes through in a step, and what is drawn of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import html5lib
import numpy as np
import pytest
from integration.cli_run import QUICKSTART, CliRun, qemu_diff, run_campaign

from qemu_diff.abi import TruthKind
from qemu_diff.compare.landmarks import exit_function
from qemu_diff.model import Build, Landmark
from qemu_diff.truth.reader import read_truth

pytestmark = pytest.mark.integration

TRAPPED = "trapped_sysreg.vhe.host_timer-sweep.1200-end-1"
ORDER = (
    "kvm_arch_vcpu_ioctl_run",
    "kvm_arm_setup_debug",
    "__guest_enter",
    "guest entry",
    "guest exit",
    "kvm_arm_clear_debug",
    "handle_exit",
    "kvm_handle_sys_reg",
    "kvm_arm_setup_debug",
    "__guest_enter",
    "guest entry",
    "guest exit",
    "kvm_arm_clear_debug",
    "handle_exit",
    "kvm_handle_guest_debug",
    "kvm_arch_vcpu_put",
)
"""What a trapped system register's step must pass through: emulated, entered again, reported."""


def map_of(run: CliRun, kernel: str, label: str) -> dict[str, Any]:
    maps = run.cell(f"{kernel}.{TRAPPED}")["result"]["maps"]
    return next(one for one in maps if one["instruction"]["label"] == label)


@pytest.mark.parametrize("kernel", ["unpatched", "patched"])
def test_landmarks_are_passed_in_the_order_of_the_kernel_s_code(
    quickstart: CliRun, kernel: str
) -> None:
    shown = map_of(quickstart, kernel, "trapped_read")
    names = [one["name"] for one in shown["landmarks"]]
    assert [name for name in names if name in ORDER] == list(ORDER)
    times = [one["at_ns"] for one in shown["landmarks"]]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < shown["window_ns"]


def test_a_nop_is_entered_once_and_costs_one_ns(quickstart: CliRun) -> None:
    landmarks = map_of(quickstart, "unpatched", "trapped_read+0x4")["landmarks"]
    guest = [one for one in landmarks if one["name"].startswith("guest ")]
    assert [one["name"] for one in guest] == ["guest entry", "guest exit"]
    assert guest[1]["at_ns"] - guest[0]["at_ns"] == 1


def test_the_step_is_lost_up_to_the_entry_in_active_pending(quickstart: CliRun) -> None:
    """KVM sets PSTATE.SS again before that entry: an interrupt that is pending there comes first.

    Arming makes L1's path some ns longer than a quiet step's.
    """
    shown = map_of(quickstart, "unpatched", "trapped_read")
    lost = [one for one in shown["spans"] if one["outcome"] == "lost-step"]
    entries = [one["at_ns"] for one in shown["landmarks"] if one["name"] == "guest entry"]
    assert entries[0] < lost[0]["first_ns"] < entries[1]
    assert abs(lost[-1]["last_ns"] - entries[1]) <= 16


def test_landmarks_are_the_same_again(quickstart: CliRun, tmp_path: Path) -> None:
    again = run_campaign(QUICKSTART, tmp_path / "again", "--only", f"unpatched.{TRAPPED}")
    for label in ("trapped_read", "trapped_read+0x4"):
        first, second = (map_of(one, "unpatched", label) for one in (quickstart, again))
        assert first["landmarks"] == second["landmarks"]


def test_no_other_boot_counts(quickstart: CliRun) -> None:
    boots = quickstart.results / "cells" / f"unpatched.{TRAPPED}"
    asked = {
        boot.name: bool(np.any(read_truth(boot / "truth.bin")["kind"] == TruthKind.LANDMARK))
        for boot in boots.iterdir()
    }
    assert asked.pop("learn")
    assert asked
    assert not any(asked.values())


@pytest.mark.parametrize(
    ("label", "function"),
    [("trapped_read", "kvm_handle_sys_reg"), ("entry", "kvm_handle_guest_debug")],
)
def test_what_served_the_exit_is_known(quickstart: CliRun, label: str, function: str) -> None:
    landmarks = map_of(quickstart, "unpatched", label)["landmarks"]
    assert exit_function(tuple(Landmark(**one) for one in landmarks)) == function


def test_a_run_leaves_a_page_with_its_pictures(quickstart: CliRun) -> None:
    page = (quickstart.results / "report.html").read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    for words in ("Everything is as expected", "lost-step", "kvm_handle_sys_reg", TRAPPED):
        assert words in page


def test_pictures_are_drawn_as_asked_for(quickstart: CliRun, tmp_path: Path) -> None:
    svgs, pngs, page = tmp_path / "svg", tmp_path / "new" / "png", tmp_path / "page.html"
    done = qemu_diff(
        "report", quickstart.results, "--svg", svgs, "--png", pngs, "--html", page
    )  # fmt: skip
    assert (done.status, done.stdout) == (quickstart.status, "")
    drawn = {path.stem: path for path in svgs.iterdir()}
    assert {path.stem for path in pngs.iterdir()} == drawn.keys()
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pngs.iterdir())
    ElementTree.parse(drawn[TRAPPED])
    assert page.read_text() == (quickstart.results / "report.html").read_text()


def test_the_terminal_shows_the_baseline_above_the_candidate(quickstart: CliRun) -> None:
    shown = qemu_diff("show", quickstart.results, PYTHONIOENCODING="ascii").stdout
    assert shown.isascii()
    bars = [line.strip() for line in shown.splitlines() if line.startswith("    ") and "|" in line]
    assert [bar.split(" ")[0] for bar in bars] == ["unpatched", "patched"]
    assert "####" in bars[0]
    assert "lost-step" in bars[0]
    assert "#" not in bars[1]
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--svg", "/dev/null"], "/dev/null: "),
        (["--html", "/no/such/directory/page.html"], "/no/such/directory/page.html: "),
    ],
)
def test_what_can_t_be_written_is_told_in_one_line(
    quickstart: CliRun, arguments: list[str], complaint: str
) -> None:
    done = qemu_diff("report", quickstart.results, *arguments)
    assert done.status in (2, 3)
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_placements_there_is_nothing_to_draw(
    builds: dict[str, Build], tmp_path: Path
) -> None:
    assert "unpatched" in builds
    one = run_campaign(QUICKSTART, tmp_path / "hvc", "--only", "unpatched.hvc.*")
    done = qemu_diff("report", one.results, "--svg", tmp_path / "svg")
    assert done.status == 2
    assert "no cell has placed an interrupt" in done.stderr
