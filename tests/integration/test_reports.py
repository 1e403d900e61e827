"""What can be asked of results: the table, and one pass event by event."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration.cli_run import CliRun, qemu_diff

pytestmark = pytest.mark.integration

UNPATCHED_HVC = "unpatched.hvc.vhe.quiet.x50"


def test_the_table_has_a_row_for_each_scenario_and_a_column_for_each_kernel(
    quickstart: CliRun, tmp_path: Path
) -> None:
    shown = qemu_diff("report", quickstart.results, COLUMNS="160")
    assert shown.status == quickstart.status
    for word in ("straightline", "hvc", "trapped_sysreg", "unpatched", "patched", "lost-step"):
        assert word in shown.stdout
    markdown = tmp_path / "table.md"
    assert qemu_diff("report", quickstart.results, "--markdown", markdown).status == 0
    head, _, *rows = markdown.read_text().splitlines()
    assert head == "| scenario | machine | order | unpatched | patched |"
    assert [row.split(" | ")[0] for row in rows] == [
        "| straightline · host_timer random", "| hvc", "| trapped_sysreg · host_timer sweep",
    ]  # fmt: skip
    assert "**lost-step**<br>100 of 350, first: 3" in rows[1]


def test_the_sequence_shows_where_the_lost_step_went(quickstart: CliRun) -> None:
    """HVC leaves Active-pending; the unfixed kernel enters in Active-not-pending."""
    shown = qemu_diff("sequence", quickstart.results, UNPATCHED_HVC, "--pass", "3")
    assert shown.status == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == "boot run, pass 3"
    at = next(i for i, line in enumerate(lines) if "HVC, which has completed" in line)
    assert "Active-pending" in lines[at]
    assert lines[at + 1].split()[1] == "entry"
    assert "Active-not-pending" in lines[at + 1]


def test_the_sequence_of_the_fixed_kernel_stays_in_active_pending(quickstart: CliRun) -> None:
    cell = UNPATCHED_HVC.replace("unpatched", "patched")
    lines = qemu_diff("sequence", quickstart.results, cell).stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if "HVC, which has completed" in line)
    assert lines[at + 1].split()[1] == "entry"
    assert "Active-pending" in lines[at + 1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no.such.cell"], "there is no cell 'no.such.cell'"),
        ([UNPATCHED_HVC, "--boot", "sweep-9"], "has no boot 'sweep-9'; there are landmarks, run"),
        ([UNPATCHED_HVC, "--pass", "999"], "has no pass 999"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    quickstart: CliRun, arguments: list[str], complaint: str
) -> None:
    shown = qemu_diff("sequence", quickstart.results, *arguments)
    assert shown.status == 2
    assert complaint in shown.stderr
    assert shown.stderr.count("\n") == 1
