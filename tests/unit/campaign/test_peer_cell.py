"""A cell of the kernel's own selftest, with a small script in QEMU's place."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qemu_diff.campaign.peer_cell import ATTEMPTS, VERDICTS, PeerContext, run_peer_cell
from qemu_diff.drive.peer import GUEST_ENTRY, PeerTools, PeerVerdict
from qemu_diff.guest.process import Cancelled
from qemu_diff.guest.qemu import Qemu
from qemu_diff.kernels.selftest import NoSelftest, Selftest
from qemu_diff.model import (
    SELFTEST_PAYLOAD,
    Build,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    FloodSource,
    FloodSpec,
    MachineSpec,
    Placement,
)

FLOOD = FloodSpec((FloodSource.HOST_TIMER,), Placement.RANDOM, last_ns=100_000, count=500)

CELL = Cell(
    id="k.debug-exceptions.vhe",
    kernel="k",
    payload=SELFTEST_PAYLOAD,
    machine=MachineSpec(),
    flood=FLOOD,
    driver=Driver.SELFTEST,
    seed=7,
)

BEGUN = "peer: kernel kvm [1]: VHE mode initialized successfully\npeer: begin\n"
PASSED = f"{BEGUN}peer: exit 0 4000000123\n"
FAILED = f"{BEGUN}==== Test Assertion Failure ====\n  Unexpected pc 0x40\npeer: exit 254 72678204\n"
SKIPPED = f"{BEGUN}1..0 # SKIP - no such capability\npeer: exit 4 1000000\n"
OOPSED = f"{BEGUN}[    1.0] kernel BUG at arch/arm64/kvm/debug.c:1!\n"
GONE = BEGUN

# The n-th run prints the n-th console, and dies with a complaint where there is none.
QEMU = """\
#!/bin/sh
here=$(dirname "$0")
run=$(ls "$here/cell" | wc -l)
exec cat "$here/console-$run"
"""

RunCell = Callable[..., CellResult]


@pytest.fixture(scope="module")
def selftest(tmp_path_factory: pytest.TempPathFactory) -> Selftest:
    """A program with the one symbol that a run looks up."""
    program = tmp_path_factory.mktemp("selftest") / "program"
    subprocess.run(
        ["gcc", "-c", "-x", "assembler", "-", "-o", str(program)],
        input=f".globl {GUEST_ENTRY}\n{GUEST_ENTRY}: nop\n",
        text=True,
        check=True,
    )
    return Selftest("k", "key", program, cached=True, duration_s=0.0)


@pytest.fixture
def context(tmp_path: Path, selftest: Selftest) -> PeerContext:
    """Where ``tmp_path / "qemu"`` is QEMU."""
    qemu, init = tmp_path / "qemu", tmp_path / "init"
    qemu.write_text(QEMU)
    qemu.chmod(0o755)
    init.touch()
    image = tmp_path / "Image"
    build = Build("k", "key", image, None, None, None, "6.1", cached=True, duration_s=0.0)
    tools = PeerTools(Qemu(qemu, "id", "QEMU 1.0", sandbox=False, cpus=()), init, tmp_path, image)
    return PeerContext(build, selftest, tools, tmp_path / "cell", 20.0, threading.Event())


@pytest.fixture
def run_cell(context: PeerContext, tmp_path: Path) -> RunCell:
    """Runs the cell; each boot prints one of the consoles."""

    def run(*consoles: str, cell: Cell = CELL) -> CellResult:
        for number, console in enumerate(consoles, 1):
            (tmp_path / f"console-{number}").write_text(console)
        return run_peer_cell(cell, context)

    return run


def boots(directory: Path) -> int:
    return sum(path.stat().st_size > 0 for path in directory.glob("cell/*/console.log"))


# --- one boot ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("console", "verdict", "reason"),
    [
        (PASSED, CellVerdict.PASS, "500 iterations were right after 4,000 ms of virtual time"),
        (FAILED, CellVerdict.FAIL, "Unexpected pc 0x40 after 73 ms of virtual time"),
        (
            SKIPPED,
            CellVerdict.SKIPPED,
            "1..0 # SKIP - no such capability after 1 ms of virtual time",
        ),
        (OOPSED, CellVerdict.KERNEL_OOPS, "kernel BUG at arch/arm64/kvm/debug.c:1!"),
    ],
    ids=["pass", "fail", "skip", "oops"],
)
def test_what_the_selftest_says_is_believed_at_once(
    run_cell: RunCell, tmp_path: Path, console: str, verdict: CellVerdict, reason: str
) -> None:
    assert run_cell(console) == CellResult(CELL, verdict, reason=reason)
    assert boots(tmp_path) == 1


def test_each_verdict_of_a_peer_is_one_of_a_cell() -> None:
    assert VERDICTS.keys() == {*PeerVerdict}
    judged = {peer for peer, verdict in VERDICTS.items() if verdict.judged}
    assert judged == {PeerVerdict.PASS, PeerVerdict.FAIL, PeerVerdict.KERNEL_OOPS}


def test_the_flood_is_wakeups_and_its_count_iterations(run_cell: RunCell, tmp_path: Path) -> None:
    run_cell(PASSED)
    boot = tmp_path / "cell" / "try-1"
    assert (boot / "arguments").read_text() == "/peer\n-i\n500\n"
    mean, _ = (boot / "wakeups").read_text().split()
    assert mean == "50000"


def test_the_mean_lies_in_the_middle_of_the_interval(run_cell: RunCell, tmp_path: Path) -> None:
    run_cell(PASSED, cell=replace(CELL, flood=replace(FLOOD, first_ns=30_000, last_ns=50_000)))
    assert (tmp_path / "cell/try-1/wakeups").read_text().startswith("40000 ")


def test_without_a_flood_nothing_wakes(run_cell: RunCell, tmp_path: Path) -> None:
    run_cell(PASSED, cell=replace(CELL, flood=FloodSpec(count=3)))
    assert (tmp_path / "cell/try-1/wakeups").read_text() == ""
    assert (tmp_path / "cell/try-1/arguments").read_text() == "/peer\n-i\n3\n"


def test_an_interval_of_nothing_is_still_a_flood(run_cell: RunCell, tmp_path: Path) -> None:
    run_cell(PASSED, cell=replace(CELL, flood=replace(FLOOD, last_ns=0)))
    assert (tmp_path / "cell/try-1/wakeups").read_text().startswith("1 ")


# --- boots that taught nothing -------------------------------------------------------------------


def test_a_loss_is_tried_again_and_then_the_selftest_is_believed(
    run_cell: RunCell, tmp_path: Path
) -> None:
    done = run_cell(GONE, FAILED)
    assert (done.verdict, done.attempts) == (CellVerdict.FAIL, 2)
    assert done.reason.startswith("Unexpected pc")
    # Both boots are kept.
    consoles = [(tmp_path / f"cell/try-{n}/console.log").read_bytes() for n in (1, 2)]
    assert consoles[0].count(b"peer: exit") == 0
    assert consoles[1].count(b"peer: exit") == 1


def test_a_loss_on_every_try_is_lost_with_the_last_reason(
    run_cell: RunCell, tmp_path: Path
) -> None:
    done = run_cell(GONE, f"{BEGUN}oh dear\npeer: exit 1 99\n")
    assert done == CellResult(
        CELL,
        CellVerdict.LOST,
        reason="the selftest ended with status 1 and no assertion: oh dear",
        attempts=ATTEMPTS,
    )
    assert boots(tmp_path) == ATTEMPTS


def test_a_qemu_that_dies_is_lost(run_cell: RunCell) -> None:
    done = run_cell()
    assert (done.verdict, done.attempts) == (CellVerdict.LOST, ATTEMPTS)
    assert done.reason.startswith("QEMU died with status 1: ")


def test_a_qemu_that_can_not_be_started_is_lost(run_cell: RunCell, tmp_path: Path) -> None:
    (tmp_path / "qemu").unlink()
    done = run_cell(PASSED)
    assert (done.verdict, done.attempts) == (CellVerdict.LOST, ATTEMPTS)
    assert done.reason.startswith("starting QEMU: ")


def test_a_directory_that_can_not_be_made_is_lost(run_cell: RunCell, tmp_path: Path) -> None:
    (tmp_path / "cell").touch()
    done = run_cell(PASSED)
    assert done.verdict is CellVerdict.LOST
    assert done.reason == f"{tmp_path}/cell/try-{ATTEMPTS}: Not a directory"
    assert boots(tmp_path) == 0


def test_a_program_that_is_gone_is_lost(context: PeerContext, tmp_path: Path) -> None:
    assert isinstance(context.selftest, Selftest)
    gone = replace(context.selftest, program=tmp_path / "no-program")
    done = run_peer_cell(CELL, replace(context, selftest=gone))
    assert done.verdict is CellVerdict.LOST
    assert "no-program" in done.reason


def test_a_boot_that_is_called_off_has_no_verdict(context: PeerContext, tmp_path: Path) -> None:
    (tmp_path / "console-1").write_text(PASSED)
    context.cancel.set()
    (tmp_path / "qemu").write_text("#!/bin/sh\nexec sleep 1000\n")
    with pytest.raises(Cancelled):
        run_peer_cell(CELL, context)


# --- no selftest ---------------------------------------------------------------------------------


def test_a_source_without_the_selftest_is_skipped_and_nothing_boots(
    context: PeerContext, tmp_path: Path
) -> None:
    none = NoSelftest("k", "its source has no KVM selftest debug-exceptions")
    assert run_peer_cell(CELL, replace(context, selftest=none)) == CellResult(
        CELL, CellVerdict.SKIPPED, reason=none.reason
    )
    assert boots(tmp_path) == 0
    assert not (tmp_path / "cell").exists()
