"""Protected KVM, a GICv2, and another QEMU for L0: the same verdicts, the bug and its absence.

Other page sizes take a whole kernel build each, too much for here: configs/pages.toml has them.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from integration.cli_run import CliRun, qemu_diff, run_campaign

from qemu_diff.guest.host_qemu import fetch_host_qemu

pytestmark = pytest.mark.integration

SUITE = "bookworm-backports"
KERNELS = {"bad": "unpatched", "good": "patched"}
PAIR = '[[pair]]\nbaseline = "bad"\ncandidate = "good"\n'
SCENARIO = """\
[[scenario]]
payload = ["straightline", "hvc"]
expect = { bad = { hvc = "lost-step" } }
"""
SWEEP = """\
[[scenario]]
payload = "trapped_sysreg"
flood = { source = "host_timer", placement = "sweep", first_ns = 2400, last_ns = 3800, step_ns = 32}
expect = { bad = { trapped_sysreg = "lost-step" } }
"""


def outcomes(done: CliRun) -> dict[str, str]:
    return {pair["cell"]: pair["outcome"] for pair in done.verdicts["pairs"]}


def test_protected_mode_and_a_gicv2_show_the_bug_and_its_absence(
    campaign_of, tmp_path: Path
) -> None:
    protected = SCENARIO + 'machine = { kvm_mode = "protected" }\n'
    gicv2 = SCENARIO + 'machine = { gic_version = 2, kvm_mode = ["vhe", "nvhe"] }\n'
    path = campaign_of(KERNELS, PAIR + protected + gicv2, findings="false")
    done = run_campaign(path, tmp_path / "out")
    assert done.status == 0, done.said
    machines = ("protected.quiet", "vhe.quiet.gic-2", "nvhe.quiet.gic-2")
    assert outcomes(done) == {
        **{f"straightline.{machine}": "same" for machine in machines},
        **{f"hvc.{machine}": "fixed" for machine in machines},
    }
    console = done.results / "cells" / "good.hvc.protected.quiet" / "run" / "console.log"
    assert "Protected nVHE mode initialized successfully" in console.read_text()


def test_a_kernel_that_comes_up_in_another_mode_is_lost(campaign_of, tmp_path: Path) -> None:
    """A CPU without VHE, of which the kernel can only be told nVHE."""
    body = '[[scenario]]\npayload = "hvc"\nmachine = { cpu = "cortex-a57", kvm_mode = "vhe" }\n'
    done = run_campaign(campaign_of({"good": "patched"}, body), tmp_path / "out")
    assert done.status == 3
    assert "asked for kvm_mode vhe, but on this CPU this kernel runs KVM in nvhe mode" in done.said


@pytest.fixture(scope="module")
def backports() -> Path:
    return fetch_host_qemu(SUITE)


def test_it_runs_with_nothing_of_the_machine_s(backports: Path) -> None:
    root = backports.parent / "root"
    loader = next(root.glob("lib*/**/ld-*.so.*"))
    (libraries,) = {path.parent for path in root.glob("lib/*/libc.so.6")}
    command = [loader, "--library-path", libraries, root / "usr/bin/qemu-system-aarch64"]
    listed = subprocess.run(
        command,
        env={**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    loaded = [line.split()[2] for line in listed.splitlines() if "=>" in line]
    assert len(loaded) > 10
    assert all(path.startswith(str(root)) for path in loaded)


@pytest.mark.usefixtures("backports")
def test_two_qemus_agree_and_a_finding_is_replayed_on_its_own(campaign_of, tmp_path: Path) -> None:
    qemus = f"""\
[qemu.newer]
suite = "{SUITE}"
[qemu.nowhere]
program = "/no/such/qemu"
optional = true
[[pair]]
of = "qemu"
baseline = "stock"
candidate = "newer"
[defaults]
machine = {{ qemu = ["stock", "newer"] }}
[[exclude]]
cells = "*.straightline.*.l0-newer"
reason = "nothing new"
"""
    other = '[[scenario]]\npayload = "mixed"\nmachine = { qemu = "nowhere" }\n'
    path = campaign_of(KERNELS, PAIR + qemus + SCENARIO + SWEEP + other)
    done = run_campaign(path, tmp_path / "out")
    assert done.status == 0, done.said
    of_qemus = {
        pair["baseline"] + "." + pair["cell"]: pair["outcome"]
        for pair in done.verdicts["pairs"]
        if pair["baseline"] == pair["candidate"] and "straightline" not in pair["cell"]
    }
    assert sorted(of_qemus.values()) == ["both-fail", "both-fail", "same", "same"]
    for cell in done.verdicts["cells"]:
        if "l0-newer" not in cell["id"] or cell["verdict"] == "skipped":
            continue
        stock = done.cell(cell["id"].replace(".l0-newer", ""))
        assert cell["result"]["step_pcs"] == stock["result"]["step_pcs"]
        assert cell["result"]["windows"] == stock["result"]["windows"]
    skipped = {
        cell["id"]: cell["result"]["reason"]
        for cell in done.verdicts["cells"]
        if cell["verdict"] == "skipped"
    }
    assert skipped == {
        **dict.fromkeys(
            [f"{kernel}.straightline.vhe.quiet.l0-newer" for kernel in KERNELS], "nothing new"
        ),
        **dict.fromkeys(
            [f"{kernel}.mixed.vhe.quiet.l0-nowhere" for kernel in KERNELS],
            "QEMU nowhere: /no/such/qemu is missing; install it with: apt-get install"
            " qemu-system-arm",
        ),
    }
    ((name, version),) = done.verdicts["provenance"]["qemus"]
    assert name == "newer"
    finding = next((done.results / "findings").glob("bad.hvc.*.l0-newer.*"))
    record = json.loads((finding / "finding.json").read_text())
    assert (record["qemu"], record["qemu_spec"]["suite"]) == (version, SUITE)
    again = qemu_diff("replay", finding, "--out", tmp_path / "replay")
    assert "reproduced bit for bit" in again.said, again.said
