"""Debian's arm64 QEMU in L1: it starts there, and KVM gives it a machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qemu_diff.guest.initramfs import extend
from qemu_diff.guest.machine import SHARED_BYTES, MachineFiles, argv
from qemu_diff.guest.process import CONSOLE, Ending, private_socket, run_guest
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.guest.qemu_bundle import fetch_bundle
from qemu_diff.guest.shared import reserve
from qemu_diff.guest.toolchain import CROSS_COMPILER, compile_cached
from qemu_diff.kernels import cache_directory
from qemu_diff.model import Build, MachineSpec

pytestmark = pytest.mark.integration

INIT = Path(__file__).with_name("run_bundle.c")
BUDGET_S = 120


def boot(build: Build, archive: Path, directory: Path) -> str:
    """What the console says of L1 with an archive and our init."""
    command = [CROSS_COMPILER, "-static", "-O2", "-Wall", "-Wextra", "-Werror"]
    init = compile_cached(command, [INIT], [], cache_directory("guest"), "run_bundle")
    extend(archive, {"init": init.read_bytes()}, directory / "initramfs")
    reserve(directory / "shared", SHARED_BYTES)
    (directory / "timer.log").touch()
    with private_socket() as qmp:
        files = MachineFiles(
            build.image, directory / "initramfs", directory / "shared", directory / "timer.log",
            qmp, None,
        )  # fmt: skip
        machine = argv(find_qemu(), MachineSpec(), files, seed=1)
        # QEMU asks for random numbers as it starts. L1 has none before five seconds of its time,
        # which under TCG are eight of ours, unless it trusts its CPU's (FEAT_RNG).
        machine[machine.index("-append") + 1] += " random.trust_cpu=on"
        ended = run_guest(
            machine, directory, qmp, memory_mib=512, budget_s=BUDGET_S, cancel=threading.Event()
        )
    assert (ended.ending, ended.death) == (Ending.EXITED, "")
    return (directory / CONSOLE).read_text(errors="replace")


# Only the machine's own suite: what another one needs would not be in the cache yet.
def test_qemu_runs_in_l1_with_kvm(builds: dict[str, Build], tmp_path: Path) -> None:
    bundle = fetch_bundle()
    console = boot(builds["patched"], bundle.archive, tmp_path)
    said = console.splitlines()
    assert any(line.endswith(f"(Debian {bundle.version})") for line in said)
    assert {"init: version 0", "init: accelerators 0", "init: machine 0"} <= set(said)
    assert {"kvm", "tcg"} <= set(said)
    assert "kvm support: enabled" in said
