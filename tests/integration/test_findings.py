"""Findings that can be held: confirmed from a fresh boot, kept, and replayed anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from benchmarks.faults import qemus
from integration.cli_run import ROOT, CliRun, command, environment, qemu_diff, run_campaign

from qemu_diff.model import Build

pytestmark = pytest.mark.integration

CAMPAIGN = """
[campaign]
name = "two-bugs"
[kernels.unpatched]
source = "debian:linux-source-6.1"
patches = ["guest_images/patches/unpatched.patch"]
[kernels.patched]
source = "debian:linux-source-6.1"
[[pair]]
baseline = "unpatched"
candidate = "patched"
[[scenario]]
payload = "hvc"
flood = { count = 20 }
expect = { unpatched = { hvc = "lost-step" } }
[[scenario]]
payload = "trapped_sysreg"
expect = { unpatched = { trapped_sysreg = "lost-step" } }
[scenario.flood]
source = "host_timer"
placement = "sweep"
first_ns = 3200
last_ns = 4200
step_ns = 50
"""
HVC = "unpatched.hvc.vhe.quiet.x20"
SYSREG = "unpatched.trapped_sysreg.vhe.host_timer-sweep.3200-4200-50"
SYSREG_FINDING = f"{SYSREG}.lost-step.trapped_read.kvm_handle_sys_reg"


@pytest.fixture(scope="module")
def found(builds: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> CliRun:
    assert set(builds) == {"unpatched", "patched"}
    directory = tmp_path_factory.mktemp("findings")
    (directory / "campaign.toml").write_text(CAMPAIGN)
    return run_campaign(directory / "campaign.toml", directory / "results")


def copied(found: CliRun, name: str, there: Path) -> Path:
    return Path(shutil.copytree(found.results / "findings" / name, there))


def test_thousands_of_lost_steps_are_one_entry_with_a_count(found: CliRun) -> None:
    assert found.status == 0
    (group,) = found.cell(HVC)["result"]["signatures"]
    assert group == {
        "signature": {
            "scenario": "step/tcg",
            "instruction": "hvc",
            "kind": "lost-step",
            "function": "handle_hvc",
        },
        "count": 40,
        "first_ns": None,
        "last_ns": None,
        "finding_id": f"{HVC}.lost-step.first_hvc.handle_hvc",
        "confirmation": {"boots": 1, "reproduced": 1, "in_batch": False},
    }
    (placed,) = found.cell(SYSREG)["result"]["signatures"]
    assert placed["finding_id"] == SYSREG_FINDING
    assert 3000 < placed["first_ns"] < placed["last_ns"] < 3800
    assert (
        "lost-step of hvc in step/tcg, served by handle_hvc, 40 of them: confirmed from a fresh"
        in (found.said)
    )


def test_a_finding_shows_three_columns(found: CliRun) -> None:
    text = (found.results / "findings" / SYSREG_FINDING / "columns.txt").read_text()
    rows = [line.split()[:3] for line in text.splitlines()]
    assert rows[0][:2] == ["unpatched", "patched"]
    assert ["-", "0x5a5a0008", "0x5a5a0008"] in rows
    assert ["0x5a5a000c", "0x5a5a000c", "0x5a5a000c"] in rows


def test_nothing_of_this_machine_is_in_its_command_line(found: CliRun) -> None:
    assert "/" not in (found.results / "findings" / SYSREG_FINDING / "argv").read_text().replace(
        "rdinit=/init", ""
    )


def test_a_copy_replays_bit_for_bit_with_another_checkout(found: CliRun, tmp_path: Path) -> None:
    there = copied(found, SYSREG_FINDING, tmp_path / "a, copy")
    checkout = tmp_path / "checkout"
    for folder in ("qemu_diff", "guest_images"):
        shutil.copytree(ROOT / folder, checkout / folder)
    # What the checkout has of the payload is not asked for.
    (checkout / "guest_images" / "payloads" / "trapped_sysreg.S").unlink()
    done = subprocess.run(
        command("replay", there.name), capture_output=True, text=True, check=False,
        cwd=tmp_path, env=environment(PYTHONPATH=str(checkout)),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "reproduced bit for bit" in done.stdout
    assert "never reported   0x5a5a0008" in done.stdout


def test_a_fixed_kernel_does_not_reproduce_it(
    found: CliRun, builds: dict[str, Build], tmp_path: Path
) -> None:
    finding, out = found.results / "findings" / SYSREG_FINDING, tmp_path / "out"
    done = qemu_diff("replay", finding, "--image", builds["patched"].image, "--out", out)
    assert done.status == 1
    assert "not reproduced" in done.said
    assert "the kernel is another" in done.said
    assert (out / "records.bin").exists()


def test_a_kernel_that_is_nowhere_is_named(found: CliRun, tmp_path: Path) -> None:
    finding = found.results / "findings" / SYSREG_FINDING
    done = qemu_diff("replay", finding, QEMU_DIFF_CACHE=str(tmp_path / "empty"))
    assert done.status == 2
    assert "is not in the cache; --build makes it of debian:linux-source-6.1 + unpatched" in (
        done.said
    )


def test_a_finding_that_was_tampered_with_is_refused(found: CliRun, tmp_path: Path) -> None:
    there = copied(found, SYSREG_FINDING, tmp_path / "copy")
    manifest = there / "manifest.json"
    original, document = manifest.read_text(), json.loads(manifest.read_text())
    (there / "job").write_bytes((there / "job").read_bytes()[:-1] + b"\1")
    assert "job: was changed" in refused(there)
    manifest.write_text(json.dumps({**document, "format_version": 99}))
    assert "format version 99, this qemu-diff reads 1" in refused(there)
    manifest.write_text(json.dumps({**document, "files": {"../job": document["files"]["job"]}}))
    assert "'../job' is no name of a file" in refused(there)
    manifest.write_text(original)
    (there / "job").unlink()
    assert "job: No such file" in refused(there)
    (there / "job").symlink_to(found.results / "findings" / SYSREG_FINDING / "job")
    assert "job: not a file" in refused(there)
    assert "no such directory" in refused(tmp_path / "nothing")


def refused(finding: Path) -> str:
    done = qemu_diff("replay", finding)
    assert done.status == 2
    assert len(done.stderr.splitlines()) == 1
    return done.said


def test_a_campaign_may_keep_no_findings(found: CliRun, tmp_path: Path) -> None:
    campaign = found.results.parent / "campaign.toml"
    more = ("--only", HVC, "--set", "campaign.findings=false")
    done = run_campaign(campaign, tmp_path / "results", *more)
    assert done.status == 0
    assert done.cell(HVC)["result"]["signatures"] == []
    assert not (done.results / "findings").exists()


def test_a_placed_interrupt_comes_down_to_one_instruction(found: CliRun, tmp_path: Path) -> None:
    out = tmp_path / "small"
    began = time.monotonic()
    done = qemu_diff("minimize", found.results / "findings" / SYSREG_FINDING, "--out", out)
    assert (done.status, done.stderr) == (0, "")
    assert time.monotonic() - began < 60
    assert "1 of 4 instructions are left, and none of them can go: mrs x0, id_aa64pfr0_el1" in (
        done.said
    )
    assert "1 pass, 1 step reported, 1 placed interrupt" in done.said
    again = subprocess.run(
        command("run", "campaign.toml", "--out", "results"), capture_output=True, text=True,
        check=False, cwd=out, env=environment(),
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    (boots,) = (out / "results" / "cells").glob("*.*")
    sequence = qemu_diff("sequence", out / "results", boots.name)
    assert "execute  0x5a5a0000  trapped_read: mrs x0" in sequence.stdout
    (cell,) = json.loads((out / "results" / "verdicts.json").read_text())["cells"]
    expected = json.loads((out / "expected-verdict.json").read_text())
    assert expected["violations"] == {"lost-step": 1}
    assert (cell["verdict"], cell["steps"], cell["lost_steps"]) == (
        expected["verdict"], expected["steps"], 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kills", "status", "says"),
    [
        (1, 0, "instructions are left, and none of them can go"),
        (99, 3, "QEMU died (signal 9)"),
    ],
)
def test_a_killed_qemu_tells_nothing_of_a_candidate(
    found: CliRun, tmp_path: Path, kills: int, status: int, says: str
) -> None:
    """A dead QEMU once had the finding `not reproduced`."""
    finding = found.results / "findings" / f"{HVC}.lost-step.first_hvc.handle_hvc"
    with subprocess.Popen(
        command("minimize", finding, "--out", tmp_path / "small"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        killed: set[int] = set()
        while process.poll() is None:
            for one in qemus(process.pid):
                if one.pid not in killed and len(killed) < kills:
                    one.kill()
                    killed.add(one.pid)
            time.sleep(0.002)
        stdout, stderr = process.communicate()
    assert (process.returncode, len(killed)) == (status, min(kills, 2))
    assert says in " ".join((stdout + stderr).split())
    assert stderr.count("\n") == (status != 0)


def test_a_finding_of_another_kernel_is_not_made_small(
    found: CliRun, builds: dict[str, Build], tmp_path: Path
) -> None:
    finding, out = found.results / "findings" / SYSREG_FINDING, tmp_path / "small"
    done = qemu_diff("minimize", finding, "--out", out, "--image", builds["patched"].image)
    assert done.status == 1
    assert not out.exists()
    there = qemu_diff("minimize", finding, "--out", tmp_path.parent)
    assert there.status == 2
    assert "is there already" in there.said


def test_a_payload_of_the_user_s_that_is_wrong_is_the_user_s(
    builds: dict[str, Build], tmp_path: Path
) -> None:
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "mine.S").write_text(
        '\t.include "payload.inc"\n\tclasses nop\n\trange_begin\n\tfrobnicate\n\trange_end\n'
    )
    campaign = tmp_path / "campaign.toml"
    campaign.write_text(
        f'[campaign]\nname = "x"\n[kernels.k]\nsource = {{ image = "{builds["patched"].image}" }}\n'
        '[[scenario]]\npayload = "mine"\n'
    )
    done = run_campaign(campaign, tmp_path / "results")
    assert done.status == 2
    assert "payload mine:" in done.said
    assert "frobnicate" in done.said


SIGNALS = """
[campaign]
name = "signals"
[kernels.patched]
source = "debian:linux-source-6.1"
[[scenario]]
payload = "hvc"
job = "enable-only-eintr"
expect = { patched = { hvc = "spurious-step" } }
[scenario.flood]
source = "signal"
placement = "sweep"
first_ns = 1500
last_ns = 5500
step_ns = 100
"""


def test_a_signal_s_finding_comes_down_too(builds: dict[str, Build], tmp_path: Path) -> None:
    """docs/findings/0002. The signal comes in another step than the one that goes wrong."""
    assert "patched" in builds
    (tmp_path / "campaign.toml").write_text(SIGNALS)
    found = run_campaign(tmp_path / "campaign.toml", tmp_path / "results")
    assert found.status == 0, found.said
    (finding,) = (tmp_path / "results" / "findings").iterdir()
    done = qemu_diff("minimize", finding, "--out", tmp_path / "small")
    assert done.status == 0, done.said
    assert "2 of 9 instructions are left" in done.said
    assert "hvc #0 nop 1 pass" in done.said
    assert "1 placed interrupt;" in done.said
    again = run_campaign(tmp_path / "small" / "campaign.toml", tmp_path / "again")
    assert again.status == 0, again.said
