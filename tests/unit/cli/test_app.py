"""The program itself, whatever its command."""

from __future__ import annotations

from integration.cli_run import qemu_diff

from qemu_diff.campaign.finding_directory import tool_version


def test_its_version_is_what_findings_say() -> None:
    done = qemu_diff("--version")
    assert (done.status, done.stdout) == (0, f"qemu-diff {tool_version()}\n")
