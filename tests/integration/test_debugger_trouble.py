"""What goes wrong between a debugger and the QEMU in L1 comes to a verdict and a reason, in time.

In most of it a program of ours stands in for L1's QEMU, which goes wrong when it is told to.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from integration.cli_run import ROOT, command, environment, run_campaign
from integration.conftest import write_campaign
from integration.test_trouble import alive, errors_of, one_line, path_without, wait_for
from rich.console import Console

from qemu_diff.campaign import cell
from qemu_diff.campaign.cell import CellContext, run_cell
from qemu_diff.campaign.plan import plan
from qemu_diff.config import load_campaign
from qemu_diff.drive import connect, from_outside, gdb, job, ports
from qemu_diff.drive.from_outside import FromOutside
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.peer import prepare_peer
from qemu_diff.drive.script import read_script, script_path
from qemu_diff.events import Stage
from qemu_diff.guest import machine
from qemu_diff.guest.image import build_payload, build_stepvmm
from qemu_diff.guest.initramfs import pack
from qemu_diff.guest.nested import Nested, nested_argv
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.guest.qemu_bundle import PROGRAM, QemuBundle, fetch_bundle
from qemu_diff.guest.toolchain import CROSS_COMPILER, compile_cached
from qemu_diff.kernels import cache_directory
from qemu_diff.kernels.cache import cache_root
from qemu_diff.model import Build, CampaignResult, Cell, CellResult, CellVerdict, KvmMode
from qemu_diff.report.junit import junit
from qemu_diff.report.terminal import print_result
from qemu_diff.truth.plugin import prepare_plugin

pytestmark = pytest.mark.integration

GUEST_IMAGES = ROOT / "guest_images"
FAKE = ROOT / "tests" / "fakes" / "nested_qemu.c"

BUDGET_S = 60.0
"""Of a boot that is to end long before, however busy the machine is."""

ANSWER_S, GRACE_S = 2.0, 1.0

SLACK_S = 15.0

DRIVERS = ("rsp", "gdb")


def scenario(driver: str, count: int = 10) -> str:
    flood = f'flood = {{ source = "none", count = {count} }}'
    return f'[[scenario]]\npayload = "hvc"\ndriver = "{driver}"\n{flood}\n'


@dataclass(frozen=True)
class Bench:
    """What every boot needs."""

    tools: Tools
    init: Path
    build: Build
    scratch: Path

    def cell(self, driver: str, budget_s: float, count: int) -> Cell:
        path = self.scratch / "campaign.toml"
        kernels: dict[str, str | Path] = {"one": "patched"}
        body = scenario(driver, count)
        write_campaign(path, {"patched": self.build}, kernels, body, budget_s=budget_s)
        return plan(load_campaign(path))[0]

    def run(
        self, driver: str, bundle: QemuBundle, *, budget_s: float = BUDGET_S, count: int = 10
    ) -> CellResult:
        """A cell to its verdict, which comes within its budget, give or take what is cleaned up."""
        one, begun = self.cell(driver, budget_s, count), time.monotonic()
        payload = build_payload(one.payload, GUEST_IMAGES, self.tools.cache)
        routine = job.compiled(read_script(script_path(GUEST_IMAGES, one.job)), payload)
        stepper = FromOutside(one.driver, self.tools, bundle, self.init)
        context = CellContext(
            self.build, payload, routine, self.tools, stepper, self.scratch / "cell", budget_s,
            threading.Event(),
        )  # fmt: skip
        result = run_cell(one, context, Stage("cell", one.id))
        assert time.monotonic() - begun < cell.ATTEMPTS * (budget_s + SLACK_S)
        assert not children(os.getpid())
        assert "\n" not in result.reason
        return result


def children(pid: int) -> dict[int, str]:
    """QEMUs and gdbs of a process: pid → name."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    rows = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return {int(pid): name for pid, name in rows if name.startswith(("qemu-system", "gdb"))}


def packets_of(directory: Path) -> str:
    """The packets so far of a gdb whose boot goes on."""
    return "".join(path.read_text(errors="replace") for path in directory.rglob("rsp.log"))


@pytest.fixture
def bench(builds: dict[str, Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """One attempt at each boot, and answers within seconds."""
    monkeypatch.setattr(cell, "ATTEMPTS", 1)
    monkeypatch.setattr(from_outside, "GRACE_S", GRACE_S)
    for module in (connect, gdb, ports):
        monkeypatch.setattr(module, "ANSWER_S", ANSWER_S)
    qemu, cache = find_qemu(), cache_directory("guest")
    plugin = prepare_plugin(qemu, GUEST_IMAGES, cache)
    tools = Tools(qemu, plugin, build_stepvmm(GUEST_IMAGES, cache), GUEST_IMAGES, cache)
    init = prepare_peer(qemu, GUEST_IMAGES, cache).init
    return Bench(tools, init, builds["patched"], tmp_path)


def stand_in(directory: Path, trouble: str, after: int = 0) -> QemuBundle:
    """An archive with a program that goes wrong after so many steps."""
    options = ["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result"]
    program = compile_cached(
        [CROSS_COMPILER, *options], [FAKE], [], cache_directory("guest"), "nested_qemu"
    )
    archive = directory / "bundle.cpio"
    files = {PROGRAM: program.read_bytes(), "trouble": f"{trouble} {after}\n".encode()}
    archive.write_bytes(pack(files))
    return QemuBundle("none", "0", archive, PROGRAM, 2, 0, 0, 0, "")


# --- the program in L1 goes wrong ---


NO_STOP = "no answer of gdb to '-exec-step-instruction' in time, after"


@pytest.mark.parametrize(
    ("driver", "trouble", "reason"),
    [
        ("rsp", "deaf", "no answer of the gdbstub to 'vCont;s:1' in time, after 3 stops"),
        ("gdb", "deaf", f"{NO_STOP} 3 stops"),
        ("rsp", "garbage", "the gdbstub sent garbage: 'Lorem ipsum dolor sit amet, consectetur"),
        ("gdb", "garbage", f"{NO_STOP} 3 stops"),
        ("rsp", "checksum", "the gdbstub sent a wrong checksum: 'T05thread:01;', after 2 stops"),
        ("gdb", "checksum", f"{NO_STOP} 2 stops"),
        ("gdb", "babble", "the monitor shows no registers of one AArch64 vCPU: 'Lorem ipsum"),
        # Which of its commands that hits, the draws decide.
        ("monitor", "babble", "the monitor "),
        ("rsp", "tcg", "L1's QEMU does not use KVM"),
    ],
)
def test_nonsense_and_silence(
    bench: Bench, tmp_path: Path, driver: str, trouble: str, reason: str
) -> None:
    result = bench.run(driver, stand_in(tmp_path, trouble, 3))
    assert result.verdict is CellVerdict.LOST
    assert result.reason.startswith(reason)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("trouble", "how"), [("cut", "exit status 3"), ("shot", "signal 11")])
def test_end_in_the_middle_of_a_stop(
    bench: Bench, tmp_path: Path, driver: str, trouble: str, how: str
) -> None:
    result = bench.run(driver, stand_in(tmp_path, trouble, 3))
    assert result.verdict is CellVerdict.LOST
    amid = "the gdbstub went away in the middle of a packet"
    said = amid if driver == "rsp" else "gdb has lost L2"
    assert result.reason == f"L1's QEMU ended ({how}), after 3 stops: {said}"


def test_silence_from_the_begin_takes_the_whole_budget(bench: Bench, tmp_path: Path) -> None:
    result = bench.run("rsp", stand_in(tmp_path, "mute"), budget_s=4)
    assert result.verdict is CellVerdict.LOST
    assert result.reason == (
        "not done within 4 s: no answer of the monitor in time; the console's last line: "
        "peer: begin; if it is only slow, raise campaign.budget_s"
    )


@pytest.mark.parametrize("driver", DRIVERS)
def test_budget_that_runs_out_between_stops(bench: Bench, tmp_path: Path, driver: str) -> None:
    result = bench.run(driver, stand_in(tmp_path, "none"), budget_s=5, count=10_000)
    assert result.verdict is CellVerdict.LOST
    found = re.fullmatch(
        r"not done within 5 s, after ([\d,]+) stops; raise campaign.budget_s", result.reason
    )
    assert found, result.reason
    assert int(found[1].replace(",", "")) > 10


@pytest.mark.parametrize("driver", [*DRIVERS, "monitor"])
def test_l1_that_panics(bench: Bench, tmp_path: Path, driver: str) -> None:
    """The debugger waits for a stop; what it says of that does not matter."""
    result = bench.run(driver, stand_in(tmp_path, "oops", 3))
    assert result.verdict is CellVerdict.KERNEL_OOPS
    assert result.reason.startswith("Unable to handle kernel write to read-only memory")


def test_two_tries_and_the_reports(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell, "ATTEMPTS", 2)
    result = bench.run("rsp", stand_in(tmp_path, "cut", 3))
    assert result.attempts == 2
    whole = CampaignResult("test", (result,), (), complete=True)
    case = ET.fromstring(junit(whole)).find(".//testcase")
    assert case is not None
    assert case.find("failure") is None
    error = case.find("error")
    assert error is not None
    assert result.reason in str(error.get("message"))
    text = io.StringIO()
    print_result(whole, Console(file=text, width=200))
    assert result.reason in text.getvalue()


# --- what is real goes wrong ---


def test_qemu_that_ends_at_its_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_nonsense(nested: Nested, payload: str) -> tuple[str, ...]:
        return (*nested_argv(nested, payload), "-nonsense")

    monkeypatch.setattr(from_outside, "nested_argv", with_nonsense)
    result = bench.run("gdb", fetch_bundle())
    assert result.verdict is CellVerdict.LOST
    assert result.reason == (
        "L1's QEMU ended (exit status 1): the monitor went away; its last words: "
        "qemu-system-aarch64: -nonsense: invalid option"
    )


def test_qemu_without_kvm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_tcg(nested: Nested, payload: str) -> list[str]:
        replaced = {"kvm": "tcg", "host": "max"}
        return [replaced.get(word, word) for word in nested_argv(nested, payload)]

    monkeypatch.setattr(from_outside, "nested_argv", with_tcg)
    result = bench.run("monitor", fetch_bundle())
    assert result.verdict is CellVerdict.LOST
    assert result.reason == "L1's QEMU does not use KVM"


def test_kernel_without_kvm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.KVM_MODE_ARGUMENTS, KvmMode.VHE, "kvm-arm.mode=none")
    result = bench.run("rsp", fetch_bundle())
    assert result.verdict is CellVerdict.LOST
    assert result.reason == "L1 could not start its QEMU: /dev/kvm: No such file or directory"


def test_l0_that_does_not_start(bench: Bench, tmp_path: Path) -> None:
    tools = replace(bench.tools, qemu=replace(bench.tools.qemu, program=Path("/bin/false")))
    result = replace(bench, tools=tools).run("gdb", stand_in(tmp_path, "none"))
    assert result.verdict is CellVerdict.LOST
    assert result.reason == "QEMU died (exit status 1)"


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("gdb", r"gdb has ended by SIGKILL, after [\d,]+ stops"),
        ("qemu-system", r"QEMU died \(signal 9\), after [\d,]+ stops; .* last line: peer: begin"),
    ],
)
def test_killed_in_the_midst(bench: Bench, tmp_path: Path, victim: str, reason: str) -> None:
    def kill() -> None:
        # The second step begins when the first one's stop was noted.
        wait_for(lambda: packets_of(bench.scratch).count("vCont;s") > 1)
        for pid, name in children(os.getpid()).items():
            if name.startswith(victim):
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = bench.run("gdb", stand_in(tmp_path, "none"), count=10_000)
    killer.join()
    assert result.verdict is CellVerdict.LOST
    assert re.fullmatch(reason, result.reason), result.reason


# --- qemu-diff itself ---


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_run_leaves_nothing_behind(
    campaign_of, tmp_path: Path, how: signal.Signals
) -> None:
    body = f'[[scenario]]\npayload = "hvc"\n{scenario("gdb", count=10_000)}'
    out = tmp_path / "out"
    run = command("run", campaign_of({"one": "patched"}, body), "--out", out, "--jobs", "1")
    with subprocess.Popen(
        run, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            wait_for(lambda: "vCont;s" in packets_of(out))
            left = children(process.pid)
            assert {name[:3] for name in left.values()} == {"gdb", "qem"}
            process.send_signal(how)
            status = process.wait(timeout=30)
        finally:
            process.kill()
    assert status == (-how if how == signal.SIGKILL else 3)
    wait_for(lambda: not any(alive(pid) for pid in left), seconds=10)
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert [one["verdict"] for one in verdicts["cells"]] == ["pass"]
    assert not verdicts["complete"]


def test_no_gdb(campaign_of, tmp_path: Path) -> None:
    path = path_without(tmp_path, "gdb", "gdb-multiarch")
    campaign = campaign_of({"one": "patched"}, scenario("gdb", 1) + scenario("rsp", 1))
    done = run_campaign(campaign, tmp_path / "out", PATH=path)
    assert done.status == 2
    assert one_line(done) == (
        "qemu-diff: a gdb for aarch64 is missing; install it with: apt-get install gdb-multiarch"
    )
    done = run_campaign(campaign, tmp_path / "out", "--only", "*.driver-rsp", PATH=path)
    assert done.status == 0, done.said


def test_no_qemu_for_l1(campaign_of, tmp_path: Path) -> None:
    """Neither in the cache nor to be had: the other cells are run."""
    cache, path = tmp_path / "cache", path_without(tmp_path, "apt-get")
    for name in ("guest", "truth"):
        (cache / name).parent.mkdir(exist_ok=True)
        (cache / name).symlink_to(cache_root() / name)
    (cache / "CACHEDIR.TAG").write_bytes((cache_root() / "CACHEDIR.TAG").read_bytes())
    body = f'[[scenario]]\npayload = "hvc"\n{scenario("rsp")}'
    campaign, out = campaign_of({"one": "patched"}, body), tmp_path / "out"
    done = run_campaign(campaign, out, PATH=path, QEMU_DIFF_CACHE=str(cache))
    assert done.status == 3
    verdicts = {one["id"]: one["verdict"] for one in done.verdicts["cells"]}
    inside, outside = "one.hvc.vhe.quiet", "one.hvc.vhe.quiet.x10.driver-rsp"
    assert verdicts == {inside: "pass", outside: "lost"}
    assert "no QEMU for L1: " in done.said
    assert errors_of(done) == [outside]
    done = run_campaign(campaign, out, "--only", inside, PATH=path, QEMU_DIFF_CACHE=str(cache))
    assert done.status == 0
