"""The debugger's own path on real kernels: gdb, our client and the monitor at a QEMU in L1."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration.cli_run import ROOT, CliRun, qemu_diff, run_campaign

from qemu_diff.model import Driver

pytestmark = pytest.mark.integration

CAMPAIGN = ROOT / "configs" / "debugger.toml"

CHOSEN = (
    "*.hvc.vhe.quiet.x30*",
    "*.straightline.vhe.quiet.x10.async_first-sgi.driver-gdb",
    "patched.mixed.vhe.quiet.x2*",
    "patched.mixed.vhe.spi_edge-*.driver-rsp",
    "patched.sgi.*.driver-gdb",
    "*.session-stepi_hvc.*",
    "*.session-break_continue.*",
    "*.session-calls.*",
    "patched.*.session-pending_timer.*",
    "patched.*.session-reconnect.*",
)

OUTSIDE = (Driver.RSP, Driver.GDB, Driver.MONITOR)


@pytest.fixture(scope="module")
def debugger(tmp_path_factory: pytest.TempPathFactory) -> CliRun:
    """A part of ``configs/debugger.toml``."""
    results = tmp_path_factory.mktemp("debugger") / "results"
    only = [argument for glob in CHOSEN for argument in ("--only", glob)]
    return run_campaign(CAMPAIGN, results, *only)


def test_everything_is_as_expected(debugger: CliRun) -> None:
    assert debugger.status == 0, debugger.said
    assert debugger.verdicts["complete"]
    assert {cell["as_expected"] for cell in debugger.verdicts["cells"]} == {True}


@pytest.mark.parametrize("driver", OUTSIDE)
def test_unpatched_loses_the_step_at_each_hvc(debugger: CliRun, driver: Driver) -> None:
    result = debugger.cell(f"unpatched.hvc.vhe.quiet.x30.driver-{driver}")["result"]
    broken = {
        one["instruction"]["label"]: (one["broken"], one["stepped"]) for one in result["breakdown"]
    }
    assert broken.keys() == {"first_hvc", "second_hvc"}
    # A step that the monitor stops between HVC and the next entry into L2 is not lost.
    least = 28 if driver is Driver.MONITOR else 30
    assert all(lost >= least and stepped == 30 for lost, stepped in broken.values())


@pytest.mark.parametrize("driver", OUTSIDE)
def test_gdbstub_monitor_and_truth_agree_at_every_stop(debugger: CliRun, driver: Driver) -> None:
    cell = debugger.cell(f"patched.hvc.vhe.quiet.x30.driver-{driver}")
    assert cell["steps"] == 270
    # A stop before the instruction is none of a step's.
    assert cell["result"]["witnessed"] >= 270
    stopped = cell["result"]["stopped_on_the_way"]
    assert stopped > 0 if driver is Driver.MONITOR else stopped == 0


def test_the_user_s_own_view_is_in_the_report(debugger: CliRun) -> None:
    result = debugger.cell("unpatched.hvc.vhe.quiet.x30.driver-gdb")["result"]
    # A step with a tick of L1's in it comes before this one; the load decides whether there is one.
    finding = next(
        one
        for one in result["findings"]
        if one["reported_pc"]["label"] == "first_hvc+0x8" and one["attributed_to"] == "no-interrupt"
    )
    assert finding["transcript"][-4:] == [
        "(gdb) stepi",
        "0x000000005a5a0008 in first_hvc ()",
        "(gdb) stepi",
        "0x000000005a5a0010 in first_hvc ()",
    ]
    assert "0x000000005a5a0010 in first_hvc ()" in debugger.said
    page = debugger.results / "page.html"
    assert qemu_diff("report", debugger.results, "--html", page).status == 0
    assert "0x000000005a5a0010 in first_hvc ()" in page.read_text()
    assert "0x000000005a5a0010 in first_hvc ()" in (debugger.results / "junit.xml").read_text()


def test_under_async_first_plain_steps_are_lost_through_gdb(debugger: CliRun) -> None:
    cell = "{}.straightline.vhe.quiet.x10.async_first-sgi.driver-gdb"
    lost, kept = (debugger.cell(cell.format(kernel)) for kernel in ("unpatched", "patched"))
    assert lost["lost_steps"] == lost["steps"] == 200
    assert (kept["lost_steps"], kept["steps"], kept["counted_steps"]) == (0, 400, 400)


def test_every_driver_reports_the_same_pcs(debugger: CliRun) -> None:
    pairs = [
        (pair["result"]["baseline"]["driver"], pair["result"]["candidate"]["driver"])
        for pair in debugger.verdicts["pairs"]
        if pair["outcome"] == "same" and pair["baseline"] == pair["candidate"] == "patched"
    ]
    assert {*pairs} == {("in_guest", driver) for driver in OUTSIDE}


def test_what_is_sent_into_l2_is_handled(debugger: CliRun) -> None:
    cell = debugger.cell("patched.mixed.vhe.spi_edge-random.x3.driver-rsp")
    (source,) = cell["sources"]
    assert source["sent"] == source["handled"] > 10
    sgis = debugger.cell("patched.sgi.vhe.quiet.x2.driver-gdb")
    assert sgis["verdict"] == "pass"


def test_what_a_user_types(debugger: CliRun) -> None:
    said = {
        cell["id"]: [finding["message"] for finding in cell["result"]["findings"]]
        for cell in debugger.verdicts["cells"]
        if "session-" in cell["id"]
    }
    stepi = "{}.hvc.vhe.session-stepi_hvc.quiet.driver-gdb"
    assert said[stepi.format("patched")] == []
    assert len(said[stepi.format("unpatched")]) == 2
    assert all("without a stop" in one or "not 3" in one for one in said[stepi.format("unpatched")])
    # gdb's breakpoint behind the HVC stays in place, and hides the lost step.
    assert said["unpatched.hvc.vhe.session-break_continue.quiet.driver-gdb"] == []


def test_what_was_asked_can_be_asked_again(debugger: CliRun) -> None:
    for driver in OUTSIDE:
        boot: Path = debugger.results / "cells" / f"patched.hvc.vhe.quiet.x30.driver-{driver}/run"
        assert "vCont;s" in (boot / "rsp.log").read_text()
