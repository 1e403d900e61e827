"""The kernel's own selftest as a second opinion, on real kernels."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from integration.cli_run import ROOT

from qemu_diff.drive.peer import PeerRun, PeerTools, PeerVerdict, prepare_peer, run_peer
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import cache_directory
from qemu_diff.kernels.selftest import Selftest, build_selftest
from qemu_diff.model import Build, DebianSource, KernelSpec, KvmMode, MachineSpec

pytestmark = pytest.mark.integration

# Ten times what an unpatched kernel takes to its first lost step, on average.
ITERATIONS = 500
WAKE_NS = 50_000


@pytest.fixture(scope="module")
def tools() -> PeerTools:
    return prepare_peer(find_qemu(), ROOT / "guest_images", cache_directory("guest"))


@pytest.fixture(scope="module")
def selftest() -> Selftest:
    made = build_selftest(KernelSpec("patched", DebianSource("linux-source-6.1")))
    assert isinstance(made, Selftest)
    return made


def run(
    tools: PeerTools, selftest: Selftest, build: Build, directory: Path, mode: KvmMode
) -> PeerRun:
    return run_peer(
        tools, build, selftest, iterations=ITERATIONS, machine=MachineSpec(mode), seed=1,
        directory=directory, budget_s=120, cancel=threading.Event(), wake_ns=WAKE_NS,
    )  # fmt: skip


@pytest.mark.parametrize("mode", list(KvmMode))
def test_unpatched_fails_its_own_selftest(
    tools: PeerTools, selftest: Selftest, builds: dict[str, Build], tmp_path: Path, mode: KvmMode
) -> None:
    failed = run(tools, selftest, builds["unpatched"], tmp_path, mode)
    assert failed.verdict is PeerVerdict.FAIL, failed
    assert failed.reason.startswith("Unexpected pc 0x")
    assert failed.status == 254


def test_patched_passes_its_own_selftest(
    tools: PeerTools, selftest: Selftest, builds: dict[str, Build], tmp_path: Path
) -> None:
    passed = run(tools, selftest, builds["patched"], tmp_path, KvmMode.VHE)
    assert passed.verdict is PeerVerdict.PASS, passed
    assert passed.iterations_reached == ITERATIONS
    assert passed.virtual_ns is not None
    # It did step: some 60 instructions an iteration, thousands of L1's instructions each.
    assert passed.virtual_ns > ITERATIONS * 60 * 4_000


def test_the_same_run_again_is_the_same(
    tools: PeerTools, selftest: Selftest, builds: dict[str, Build], tmp_path: Path
) -> None:
    consoles = []
    for name in ("first", "second"):
        run(tools, selftest, builds["unpatched"], tmp_path / name, KvmMode.VHE)
        consoles.append((tmp_path / name / "console.log").read_bytes())
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "arguments", "argv", "console.log", "wakeups",
        ]  # fmt: skip
    assert consoles[0] == consoles[1]


def test_a_run_that_is_cut_off_is_lost(
    tools: PeerTools, selftest: Selftest, builds: dict[str, Build], tmp_path: Path
) -> None:
    lost = run_peer(
        tools, builds["patched"], selftest, iterations=10_000, machine=MachineSpec(), seed=1,
        directory=tmp_path, budget_s=1, cancel=threading.Event(),
    )  # fmt: skip
    assert (lost.verdict, lost.status) == (PeerVerdict.LOST, None)
    assert lost.reason.startswith("no end within")
    assert "PC=" in (tmp_path / "registers.txt").read_text()
