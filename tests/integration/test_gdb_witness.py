"""gdb as an independent witness of what the truth plugin learns by itself.

The plugin finds KVM's exception vector by what executes after L2. gdb, on L0's own gdbstub, stops
at L2's first instruction and reads VBAR_EL2 from the CPU.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from integration.cli_run import ROOT
from pygdbmi.gdbcontroller import GdbController

from qemu_diff.abi import TruthKind
from qemu_diff.drive.job import compiled, quiet_job
from qemu_diff.drive.script import read_script, script_path
from qemu_diff.guest.image import (
    LOAD_ADDRESS,
    MEMORY_BYTES,
    build_payload,
    build_stepvmm,
    initramfs,
)
from qemu_diff.guest.machine import SHARED_BYTES, MachineFiles, argv
from qemu_diff.guest.process import private_socket
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.guest.shared import reserve
from qemu_diff.kernels import cache_directory
from qemu_diff.model import Build, KvmMode, MachineSpec
from qemu_diff.truth.plugin import prepare_plugin
from qemu_diff.truth.reader import read_truth, truth_bytes

pytestmark = pytest.mark.integration

GUEST_IMAGES = ROOT / "guest_images"
CAPACITY = 1000


@contextmanager
def stopped_qemu(build: Build, machine: MachineSpec, directory: Path) -> Iterator[Path]:
    """QEMU before its first instruction; its gdbstub's socket."""
    qemu, cache = find_qemu(), cache_directory("guest")
    stepvmm = build_stepvmm(GUEST_IMAGES, cache)
    payload = build_payload("hvc", GUEST_IMAGES, cache)
    routine = compiled(read_script(script_path(GUEST_IMAGES, "step")), payload)
    reserve(directory / "shared", SHARED_BYTES)
    reserve(directory / "truth", truth_bytes(CAPACITY))
    (directory / "initramfs").write_bytes(
        initramfs(stepvmm, quiet_job(routine, passes=1).encode(payload), payload)
    )
    plugin = prepare_plugin(qemu, GUEST_IMAGES, cache).argument(
        directory / "truth", CAPACITY, LOAD_ADDRESS, LOAD_ADDRESS + MEMORY_BYTES, stepvmm.marks
    )
    with private_socket() as qmp:
        files = MachineFiles(
            build.image, directory / "initramfs", directory / "shared", directory / "timer.log",
            qmp, plugin,
        )  # fmt: skip
        gdb = qmp.with_name("gdb")
        command = [
            *argv(qemu, machine, files, seed=1),
            "-S",
            "-gdb",
            f"unix:{gdb},server=on,wait=off",
        ]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                while not gdb.exists():
                    time.sleep(0.05)
                yield gdb
                assert process.wait(timeout=60) == 0
            finally:
                process.kill()


def until(gdb: GdbController, message: str) -> dict[str, object]:
    """The payload of the next record with this message."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for record in gdb.get_gdb_response(timeout_sec=1, raise_error_on_timeout=False):
            assert record["message"] != "error", record["payload"]
            if record["message"] == message:
                return record["payload"] or {}
    pytest.fail(f"gdb never said {message}")


def ask(gdb: GdbController, command: str) -> dict[str, object]:
    gdb.write(command, read_response=False)
    return until(gdb, "done")


def vbar_el2_in_l2(socket: Path) -> int:
    """VBAR_EL2 while the vCPU is at L2's first instruction."""
    gdb = GdbController(["gdb-multiarch", "--nx", "--quiet", "--interpreter=mi3"])
    try:
        ask(gdb, "-gdb-set architecture aarch64")
        gdb.write(f"-target-select remote {socket}", read_response=False)
        until(gdb, "connected")
        ask(gdb, f"-break-insert -h *{LOAD_ADDRESS:#x}")
        gdb.write("-exec-continue", read_response=False)
        until(gdb, "stopped")
        pc = int(str(ask(gdb, "-data-evaluate-expression $pc")["value"]).split()[0], 0)
        assert pc == LOAD_ADDRESS
        vbar = ask(gdb, '-data-evaluate-expression "(unsigned long)$VBAR_EL2"')["value"]
        ask(gdb, "-break-delete")
        ask(gdb, "-target-detach")
        return int(str(vbar), 0)
    finally:
        gdb.exit()


@pytest.mark.parametrize("kvm_mode", list(KvmMode))
def test_vector_base_is_the_one_in_the_register(
    builds: dict[str, Build], tmp_path: Path, kvm_mode: KvmMode
) -> None:
    with stopped_qemu(builds["patched"], MachineSpec(kvm_mode=kvm_mode), tmp_path) as socket:
        vbar = vbar_el2_in_l2(socket)
    truth = read_truth(tmp_path / "truth")
    learnt = truth["pc"][truth["kind"] == TruthKind.VECTOR]
    assert learnt.tolist() == [vbar]
