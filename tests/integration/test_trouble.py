"""What goes wrong around a guest is reported in one line, typed, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from integration.cli_run import ROOT, CliRun, command, environment, qemu_diff, run_campaign

from qemu_diff.abi import OperationCode
from qemu_diff.campaign import cell
from qemu_diff.campaign.cell import CellContext, read_boot, run_cell
from qemu_diff.campaign.plan import plan
from qemu_diff.config import load_campaign
from qemu_diff.drive import job
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.script import read_script, script_path
from qemu_diff.drive.stepper import InGuest
from qemu_diff.errors import CorruptDataError
from qemu_diff.events import Stage
from qemu_diff.guest import machine
from qemu_diff.guest.image import build_payload, build_stepvmm
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import cache_directory
from qemu_diff.model import Build, CellResult, CellVerdict, KvmMode
from qemu_diff.truth.plugin import prepare_plugin

pytestmark = pytest.mark.integration

HVC = '[[scenario]]\npayload = "hvc"\n'
LONG = (
    '[[scenario]]\npayload = "trapped_sysreg"\n'
    'flood = { source = "host_timer", placement = "sweep", first_ns = 2000, last_ns = 60000 }\n'
)
SWEEP = """
[[scenario]]
payload = "trapped_sysreg"
flood = { source = "host_timer", placement = "sweep", first_ns = 2800, last_ns = 4000, step_ns = 8 }
expect = { one = { trapped_sysreg = "lost-step" } }
"""
GUEST_IMAGES = ROOT / "guest_images"
PATCHES = Path(__file__).parent / "patches"


def errors_of(done: CliRun) -> list[str]:
    root = ET.parse(done.results / "junit.xml").getroot()
    return [
        case.get("name", "") for case in root.iter("testcase") if case.find("error") is not None
    ]


def one_line(done: CliRun) -> str:
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    return lines[0]


# --- what the machine lacks ---


def path_without(tmp_path: Path, *missing: str) -> str:
    """A PATH with every program of this machine but the missing ones."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in reversed(os.environ["PATH"].split(":")):
        for program in Path(folder).glob("*"):
            link = programs / program.name
            if program.name not in missing:
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(programs)


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("qemu-system-aarch64", "apt-get install qemu-system-arm"),
        ("aarch64-linux-gnu-gcc", "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
    ],
)
def test_missing_program(campaign_of, tmp_path: Path, missing: str, remedy: str) -> None:
    programs = path_without(tmp_path, missing)
    campaign = campaign_of({"one": "patched"}, HVC)
    done = run_campaign(campaign, tmp_path / "out", PATH=programs)
    assert done.status == 2
    assert one_line(done) == f"qemu-diff: {missing} is missing; install it with: {remedy}"


def test_qemu_without_plugins(campaign_of, tmp_path: Path) -> None:
    fake = ROOT / "tests" / "fakes" / "qemu_without_plugins"
    campaign = campaign_of({"one": "patched"}, HVC)
    done = run_campaign(campaign, tmp_path / "out", QEMU_DIFF_QEMU=str(fake))
    assert done.status == 2
    assert "TCG plugin support" in one_line(done)


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (0o755, "{qemu} is no QEMU that can be used: its help begins with 'nonsense'"),
        (0o644, "{qemu} is there, but is no program that can be executed"),
    ],
)
def test_what_is_no_qemu(campaign_of, tmp_path: Path, mode: int, problem: str) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text("#!/bin/sh\necho nonsense\n")
    qemu.chmod(mode)
    campaign = campaign_of({"one": "patched"}, HVC)
    done = run_campaign(campaign, tmp_path / "out", QEMU_DIFF_QEMU=str(qemu))
    assert (done.status, one_line(done)) == (2, f"qemu-diff: {problem.format(qemu=qemu)}")


def test_no_room_on_the_disk(campaign_of, tmp_path: Path) -> None:
    """A limit on file sizes fails the same reservation that a full disk fails."""
    campaign = campaign_of({"one": "patched"}, HVC)
    out = tmp_path / "out"
    limited = ["prlimit", f"--fsize={16 << 20}", *command("run", campaign, "--out", out)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, env=environment())
    result = CliRun(done.returncode, done.stdout, done.stderr, out)
    assert result.status == 3
    assert "records.bin: 64 MiB: File too large" in result.said
    assert result.verdicts["cells"][0]["verdict"] == "lost"
    assert errors_of(result) == ["one.hvc.vhe.quiet"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "verdicts.json: No such file or directory"),
        (lambda path: path.write_text("no directory"), "verdicts.json: Not a directory"),
        (
            lambda path: (path.mkdir(), (path / "verdicts.json").write_text("{")),
            "verdicts.json: not JSON",
        ),
        (
            lambda path: (
                path.mkdir(),
                (path / "verdicts.json").write_text('{"schema_version":9}'),
            ),
            "results of schema version 9, this qemu-diff reads 5",
        ),
    ],
)
def test_unreadable_results(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "results")
    done = qemu_diff("show", tmp_path / "results")
    assert done.status == 2
    assert words in one_line(done)


def test_results_that_can_not_be_written(campaign_of, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_campaign(campaign_of({"one": "patched"}, HVC), tmp_path / "file" / "out")
    assert done.status == 2
    assert "name another with --out" in one_line(done)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f'{HVC}machine = {{ cpu = "cortex-z9" }}\n', "has no CPU 'cortex-z9'"),
        ('[[scenario]]\npayload = "hcv"\n', "did you mean 'hvc'?"),
        ('[[scenario]]\npaylod = "hvc"\n', "did you mean 'payload'?"),
        ("[[scenario]\n", "campaign.toml:5:"),
    ],
)
def test_wrong_campaign(campaign_of, tmp_path: Path, body: str, words: str) -> None:
    done = run_campaign(campaign_of({"one": "patched"}, body), tmp_path / "out")
    assert done.status == 2
    assert words in one_line(done)


@pytest.mark.parametrize("what", ["file", "foreign"])
def test_cache_that_can_not_be_used(campaign_of, tmp_path: Path, what: str) -> None:
    cache = tmp_path / "cache"
    if what == "file":
        cache.write_text("mine")
    else:
        cache.mkdir()
        (cache / "thesis.txt").write_text("mine")
    campaign = campaign_of({"one": "patched"}, HVC)
    done = run_campaign(campaign, tmp_path / "out", QEMU_DIFF_CACHE=str(cache))
    assert done.status == 2
    assert "QEMU_DIFF_CACHE" in one_line(done)


@pytest.mark.parametrize("qemu", ["/bin/true", "/etc/passwd", ""])
def test_no_qemu_at_all(campaign_of, tmp_path: Path, qemu: str) -> None:
    campaign = campaign_of({"one": "patched"}, HVC)
    done = run_campaign(campaign, tmp_path / "out", QEMU_DIFF_QEMU=qemu)
    if not qemu:  # as good as unset
        assert done.status == 0
        return
    assert done.status == 2
    assert qemu in one_line(done)


def test_only_takes_several_globs(campaign_of) -> None:
    campaign = campaign_of({"a": "patched", "b": "patched"}, HVC.replace('"hvc"', '["hvc", "sgi"]'))

    def listed(*only: str) -> list[str]:
        done = qemu_diff("list", campaign, *(word for glob in only for word in ("--only", glob)))
        assert done.status == 0, done.said
        return [word for word in done.stdout.split() if word.endswith(".quiet")]

    assert listed("a.hvc.*", "*.sgi.*") == ["a.hvc.vhe.quiet", "a.sgi.vhe.quiet", "b.sgi.vhe.quiet"]
    assert listed("b.*", "b.hvc.*") == ["b.hvc.vhe.quiet", "b.sgi.vhe.quiet"]
    assert len(listed()) == 4


def test_a_glob_of_several_that_matches_nothing(campaign_of) -> None:
    campaign = campaign_of({"a": "patched"}, HVC)
    done = qemu_diff("run", campaign, "--only", "a.*", "--only", "a.hcv.*")
    assert done.status == 2
    assert one_line(done) == (
        f"qemu-diff: --only a.hcv.*: no cell of {campaign} matches; see qemu-diff list"
    )


def test_a_mistake_leaves_earlier_results_alone(campaign_of, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_campaign(campaign_of({"one": "patched"}, HVC), out).status == 0
    before = (out / "verdicts.json").read_bytes()
    wrong = f'{HVC}machine = {{ cpu = "cortex-z9" }}\n'
    for _ in range(2):
        assert run_campaign(campaign_of({"one": "patched"}, wrong), out).status == 2
    assert (out / "verdicts.json").read_bytes() == before


@pytest.mark.parametrize("folder", ["a,b=c", "with space", "[red]ünïcödé"])
def test_odd_directories(campaign_of, tmp_path: Path, folder: str) -> None:
    campaign = campaign_of({"one": "patched"}, HVC)
    out, cache = tmp_path / folder / "out", tmp_path / folder / "cache"
    done = run_campaign(campaign, out, QEMU_DIFF_CACHE=str(cache), PYTHONIOENCODING="ascii")
    assert done.status == 0, done.said
    assert "Everything is as expected" in done.said


# --- kernels that give nothing to judge ---


def run_one(build: Build, campaign: Path, directory: Path) -> CellResult:
    loaded = load_campaign(campaign)
    first = plan(loaded)[0]
    qemu, cache = find_qemu(), cache_directory("guest")
    plugin = prepare_plugin(qemu, GUEST_IMAGES, cache)
    tools = Tools(qemu, plugin, build_stepvmm(GUEST_IMAGES, cache), GUEST_IMAGES, cache)
    payload = build_payload(first.payload, GUEST_IMAGES, cache)
    routine = job.compiled(read_script(script_path(GUEST_IMAGES, first.job)), payload)
    context = CellContext(
        build,
        payload,
        routine,
        tools,
        InGuest(tools),
        directory,
        loaded.budget_s,
        threading.Event(),
    )
    return run_cell(first, context, Stage("cell", first.id))


def test_image_that_does_not_boot(campaign_of, builds: dict[str, Build], tmp_path: Path) -> None:
    image = bytearray(builds["patched"].image.read_bytes())
    image[0x40:0x100000] = bytes(0x100000 - 0x40)  # the header stays, the code is gone
    broken = tmp_path / "Image"
    broken.write_bytes(image)
    done = run_campaign(campaign_of({"dead": broken}, HVC, budget_s=2), tmp_path / "out")
    assert done.status == 3
    assert "did not start the step VMM within 2 s" in done.said
    assert done.verdicts["cells"][0]["verdict"] == "lost"
    assert errors_of(done) == ["dead.hvc.vhe.quiet"]
    registers = next(done.results.rglob("registers.txt")).read_text()
    assert "PC=" in registers  # QMP's evidence of where the vCPU was


def test_not_an_image(campaign_of, tmp_path: Path) -> None:
    (tmp_path / "Image").write_text("not a kernel")
    done = run_campaign(campaign_of({"text": tmp_path / "Image"}, HVC), tmp_path / "out")
    assert done.status == 2
    assert "Image" in one_line(done)


def patched_campaign(tmp_path: Path, patch: str, body: str = HVC) -> Path:
    """Linux 6.1 with one of this folder's patches."""
    path = tmp_path / "campaign.toml"
    source = f'[kernels.one]\nsource = "debian:linux-source-6.1"\npatches = ["{PATCHES / patch}"]\n'
    path.write_text(f'[campaign]\nname = "test"\n{source}{body}')
    return path


def test_kernel_that_dies(builds: dict[str, Build], tmp_path: Path) -> None:
    assert builds  # its objects are there: one file is compiled
    done = run_campaign(patched_campaign(tmp_path, "oops.patch"), tmp_path / "out")
    assert done.status == 1
    assert done.verdicts["cells"][0]["verdict"] == "kernel-oops"
    assert "kernel BUG at arch/arm64/kvm/arm.c:882!" in done.said
    assert not errors_of(done)


def test_patch_that_does_not_apply(builds: dict[str, Build], tmp_path: Path) -> None:
    assert builds
    out = tmp_path / "out"
    done = run_campaign(patched_campaign(tmp_path, "stale.patch"), out)
    assert done.status == 2
    assert "stale.patch: does not apply: hunk 2 of arch/arm64/kvm/arm.c" in one_line(done)
    assert not (out / "verdicts.json").exists()


def test_no_program_to_boot_is_our_fault(
    campaign_of, builds: dict[str, Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*machine.KERNEL_ARGUMENTS, "rdinit=/nothing", "init=/nothing")
    monkeypatch.setattr(machine, "KERNEL_ARGUMENTS", arguments)
    campaign = campaign_of({"one": "patched"}, HVC)
    result = run_one(builds["patched"], campaign, tmp_path / "cell")
    assert result.verdict is CellVerdict.LOST
    assert "Kernel panic - not syncing" in result.reason


def test_kvm_mode_that_is_not_the_one_asked_for(campaign_of, tmp_path: Path) -> None:
    """Cortex-A57 has no VHE, so KVM falls back to nVHE without a word."""
    body = f'{HVC}machine = {{ kvm_mode = "vhe", cpu = "cortex-a57" }}\n'
    done = run_campaign(campaign_of({"one": "patched"}, body), tmp_path / "out")
    assert done.status == 3
    assert "asked for kvm_mode vhe, but on this CPU this kernel runs KVM in nvhe mode" in done.said


def test_flood_that_hits_nothing_proves_nothing(campaign_of, tmp_path: Path) -> None:
    flood = 'placement = "sweep", first_ns = 50000, last_ns = 50010'
    body = f'{HVC}flood = {{ source = "host_timer", {flood} }}\n'
    done = run_campaign(campaign_of({"one": "patched"}, body), tmp_path / "out")
    assert done.status == 3
    assert "no placed interrupt came inside a step window" in done.said


def test_kernel_without_kvm(
    campaign_of, builds: dict[str, Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(machine.KVM_MODE_ARGUMENTS, KvmMode.VHE, "kvm-arm.mode=none")
    campaign = campaign_of({"one": "patched"}, HVC)
    result = run_one(builds["patched"], campaign, tmp_path / "cell")
    assert result.verdict is CellVerdict.LOST
    assert "this kernel offers no KVM" in result.reason
    assert result.attempts == 1


def test_guest_that_makes_no_progress(
    campaign_of, builds: dict[str, Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without stepping the payload's final branch to itself never returns from KVM_RUN."""

    def endless(routine: job.Routine, passes: int) -> job.Job:
        stepped = job.quiet_job(routine, passes)
        run = job.Operation(OperationCode.RUN, a=0)
        return job.Job((*stepped.operations, job.Operation(OperationCode.DEBUG), run))

    monkeypatch.setattr(cell, "quiet_job", endless)
    campaign = campaign_of({"one": "patched"}, HVC)
    result = run_one(builds["patched"], campaign, tmp_path / "cell")
    assert result.verdict is CellVerdict.HANG
    assert "no return from KVM_RUN within" in result.reason
    assert result.attempts == 2


# --- damaged files ---


@pytest.mark.parametrize("name", ["records.bin", "truth.bin", "timer.log"])
def test_damaged_file_is_not_judged(quickstart: CliRun, tmp_path: Path, name: str) -> None:
    boot = tmp_path / "boot"
    shutil.copytree(next((quickstart.results / "cells").glob("patched.hvc*")) / "run", boot)
    qemu = find_qemu()
    cache = cache_directory("guest")
    plugin = prepare_plugin(qemu, GUEST_IMAGES, cache)
    tools = Tools(qemu, plugin, build_stepvmm(GUEST_IMAGES, cache), GUEST_IMAGES, cache)
    read_boot(boot, tools)
    damaged = bytearray((boot / name).read_bytes())
    damaged[-5] ^= 1
    (boot / name).write_bytes(damaged)
    with pytest.raises(CorruptDataError):
        read_boot(boot, tools)


# --- being killed ---


def qemus_of(pid: int) -> list[int]:
    children = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split("\n")
    return [int(line.split()[0]) for line in children if "qemu-system" in line]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def long_run(campaign_of, tmp_path: Path):
    """A run whose second cell takes long, with its QEMU; and where its results are."""
    campaign = campaign_of({"one": "patched"}, HVC + LONG)
    out = tmp_path / "out"
    process = subprocess.Popen(
        command("run", campaign, "--out", out, "--jobs", "1"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(
        lambda: (
            (out / "cells" / "one.trapped_sysreg.vhe.host_timer-sweep.2000-60000").exists()
            or list((out / "cells").glob("one.trapped*/sweep-0/console.log"))
        )
    )
    wait_for(lambda: list((out / "cells").glob("one.trapped*/sweep-0/console.log")))
    wait_for(lambda: qemus_of(process.pid))
    yield process, out
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_run_keeps_what_it_has(long_run, how: signal.Signals) -> None:
    process, out = long_run
    qemus = qemus_of(process.pid)
    process.send_signal(how)
    assert process.wait(timeout=30) == 3
    assert not any(alive(qemu) for qemu in qemus)
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert [cell["verdict"] for cell in verdicts["cells"]] == ["pass"]
    assert not verdicts["complete"]
    ET.parse(out / "junit.xml")


def test_killed_run_leaves_no_qemu_behind(long_run) -> None:
    process, out = long_run
    qemus = qemus_of(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(qemu) for qemu in qemus), seconds=10)
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert [cell["verdict"] for cell in verdicts["cells"]] == ["pass"]


def test_killed_qemu_is_lost_and_retried(long_run) -> None:
    process, out = long_run
    killed: set[int] = set()
    while process.poll() is None:
        for qemu in set(qemus_of(process.pid)) - killed:
            time.sleep(0.5)
            os.kill(qemu, signal.SIGKILL)
            killed.add(qemu)
        time.sleep(0.05)
    assert len(killed) == 2
    assert process.returncode == 3
    verdicts = json.loads((out / "verdicts.json").read_text())
    lost = verdicts["cells"][1]
    assert lost["verdict"] == "lost"
    assert "QEMU died (signal 9)" in lost["result"]["reason"]
    assert lost["result"]["attempts"] == 2


def test_a_qemu_that_is_killed_once_changes_nothing(campaign_of, tmp_path: Path) -> None:
    campaign = campaign_of({"one": "unpatched"}, SWEEP)
    process = subprocess.Popen(
        command("run", campaign, "--out", tmp_path / "disturbed", "--jobs", "1"),
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    boots = tmp_path / "disturbed" / "cells"
    wait_for(lambda: list(boots.glob("*/sweep-0/console.log")) and qemus_of(process.pid), 30)
    os.kill(qemus_of(process.pid)[0], signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert list(boots.glob("*/sweep-0.try-1"))
    assert run_campaign(campaign, tmp_path / "undisturbed").status == 0

    def result(out: str) -> dict[str, object]:
        return json.loads((tmp_path / out / "verdicts.json").read_text())["cells"][0]["result"]

    disturbed, undisturbed = result("disturbed"), result("undisturbed")
    assert (disturbed.pop("attempts"), undisturbed.pop("attempts")) == (2, 1)
    for one in (disturbed, undisturbed):
        del one["duration_s"], one["stepping_s"]
    assert disturbed["verdict"] == "fail"
    assert disturbed == undisturbed
