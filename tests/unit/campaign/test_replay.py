"""What a finding of anybody's may have run on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from unit.campaign.test_finding_directory import RECORD

from qemu_diff.campaign.replay import _qemu
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.model import QemuSpec


@pytest.mark.parametrize("name", ["./qemu-system-aarch64", "{}/qemu-system-aarch64", "touch"])
def test_a_finding_brings_no_program_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = tmp_path / "qemu-system-aarch64"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    record = replace(RECORD, qemu_spec=QemuSpec("other", name.format(tmp_path)))
    qemu, why = _qemu(record)
    assert qemu == find_qemu()
    assert "a finding may not name a program by its path; set QEMU_DIFF_QEMU" in why
    assert not (tmp_path / "was-run").exists()
