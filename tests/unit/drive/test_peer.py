"""What a console with the selftest on it means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qemu_diff.drive.peer import (
    TICK_ONLY,
    PeerVerdict,
    initramfs_files,
    judge,
    parse_console,
)
from qemu_diff.guest.process import Ending, GuestExit
from qemu_diff.model import KvmMode

ORDERLY = GuestExit(Ending.EXITED, 0, "", (), "", "reboot: Power down", 1.5)

BOOT = """\
pci-host-generic 4010000000.pcie: Memory resource size exceeds max for 32 bits\r
peer: kernel kvm [1]: IPA Size Limit: 48 bits\r
peer: kernel kvm [1]: VHE mode initialized successfully\r
peer: begin\r
"""

ASSERTION = """\
==== Test Assertion Failure ====\r
  aarch64/debug-exceptions.c:384: !test_pc || pc == test_pc\r
  pid=20 tid=20 errno=4 - Interrupted system call\r
\r
  Unexpected pc 0x400a5c (expected 0x400a58)\r
"""

PASSED = f"{BOOT}peer: exit 0 4000000123\r\nreboot: Power down\r\n"
FAILED = f"{BOOT}{ASSERTION}peer: exit 254 72678204\r\nreboot: Power down\r\n"


def verdict_of(
    text: str, ended: GuestExit = ORDERLY, mode: KvmMode = KvmMode.VHE
) -> tuple[PeerVerdict, str]:
    run = judge(parse_console(text), ended, mode, iterations=500)
    return run.verdict, run.reason


def test_a_pass_has_done_all_that_was_asked_for() -> None:
    run = judge(parse_console(PASSED), ORDERLY, KvmMode.VHE, iterations=500)
    assert (run.verdict, run.reason, run.status) == (PeerVerdict.PASS, "", 0)
    assert (run.iterations, run.iterations_reached) == (500, 500)
    assert (run.virtual_ns, run.wall_s, run.kvm_mode) == (4_000_000_123, 1.5, "VHE")
    assert run.words == ()


def test_a_failure_keeps_the_selftests_own_words() -> None:
    run = judge(parse_console(FAILED), ORDERLY, KvmMode.VHE, iterations=500)
    assert (run.verdict, run.status) == (PeerVerdict.FAIL, 254)
    assert run.reason == "Unexpected pc 0x400a5c (expected 0x400a58)"
    assert run.words == (
        "==== Test Assertion Failure ====",
        "aarch64/debug-exceptions.c:384: !test_pc || pc == test_pc",
        "pid=20 tid=20 errno=4 - Interrupted system call",
        "Unexpected pc 0x400a5c (expected 0x400a58)",
    )
    assert run.iterations_reached is None
    assert run.virtual_ns == 72_678_204


def test_a_selftest_that_can_not_test_is_skipped() -> None:
    why = "1..0 # SKIP - KVM selftests now require KVM_SET_USER_MEMORY_REGION2"
    text = f"{BOOT}Random seed: 0x6b8b4567\r\n{why}\r\npeer: exit 4 50483711\r\n"
    assert verdict_of(text) == (PeerVerdict.SKIP, why)


@pytest.mark.parametrize("status", [-11, 127, 1, 254])
def test_an_end_without_an_assertion_is_no_verdict(status: int) -> None:
    verdict, reason = verdict_of(f"{BOOT}oh dear\r\npeer: exit {status} 99\r\n")
    assert verdict is PeerVerdict.LOST
    assert reason == f"the selftest ended with status {status} and no assertion: oh dear"


@pytest.mark.parametrize(
    ("text", "ended", "reason"),
    [
        (BOOT, ORDERLY, "the guest went away: reboot: Power down"),
        ("", ORDERLY, "the guest went away: reboot: Power down"),
        ("peer: failed: fork: Out of memory\r\n", ORDERLY, "fork: Out of memory"),
        (
            BOOT + ASSERTION,
            replace(ORDERLY, ending=Ending.OUT_OF_BUDGET, status=-9, wall_s=20.2),
            "no end within 20 s",
        ),
        (
            BOOT,
            replace(ORDERLY, ending=Ending.DIED, status=-11, last_line="peer: begin"),
            "QEMU died with status -11: peer: begin",
        ),
    ],
)
def test_what_goes_wrong_on_our_side_is_no_verdict(
    text: str, ended: GuestExit, reason: str
) -> None:
    assert verdict_of(text, ended) == (PeerVerdict.LOST, reason)


def test_a_kernel_that_dies_under_the_selftest_is_a_verdict_of_its_own() -> None:
    panic = "Kernel panic - not syncing: Oops: Fatal exception"
    ended = replace(ORDERLY, death=panic)
    assert verdict_of(BOOT, ended) == (PeerVerdict.KERNEL_OOPS, panic)
    # Whatever the selftest said before.
    assert verdict_of(FAILED, ended) == (PeerVerdict.KERNEL_OOPS, panic)


@pytest.mark.parametrize(
    ("named", "asked", "verdict"),
    [
        ("VHE", KvmMode.VHE, PeerVerdict.PASS),
        ("VHE+NV2", KvmMode.VHE, PeerVerdict.PASS),
        ("Hyp", KvmMode.NVHE, PeerVerdict.PASS),
        ("Hyp nVHE", KvmMode.NVHE, PeerVerdict.PASS),
        ("VHE", KvmMode.NVHE, PeerVerdict.LOST),
        ("Hyp", KvmMode.VHE, PeerVerdict.LOST),
        ("Protected nVHE", KvmMode.NVHE, PeerVerdict.LOST),
    ],
)
def test_a_mode_that_was_not_asked_for_is_not_judged(
    named: str, asked: KvmMode, verdict: PeerVerdict
) -> None:
    text = PASSED.replace("VHE mode", f"{named} mode")
    assert verdict_of(text, mode=asked)[0] is verdict


def test_a_kernel_that_is_silent_about_its_mode_is_judged() -> None:
    text = PASSED.replace(" mode initialized", " is initialized")
    assert verdict_of(text, mode=KvmMode.NVHE)[0] is PeerVerdict.PASS


def test_the_selftests_words_are_not_the_kernels() -> None:
    mode = "peer: kernel kvm [1]: Hyp mode initialized successfully"
    console = parse_console(f"{BOOT}{mode}\r\nit says: peer: exit 0 1\r\npeer: exit 4 2\r\n")
    assert console.kvm_mode == "VHE"
    assert (console.status, console.virtual_ns) == (4, 2)
    assert console.words == (mode, "it says: peer: exit 0 1")


def test_what_pid_1_is_told() -> None:
    files = initramfs_files(500, TICK_ONLY, seed=1)
    assert files == {"arguments": b"/peer\n-i\n500\n", "wakeups": b""}
    mean, seed = initramfs_files(500, 50_000, seed=1)["wakeups"].split()
    assert mean == b"50000"
    assert 0 < int(seed) < 2**64
    assert initramfs_files(500, 50_000, seed=1) == initramfs_files(500, 50_000, seed=1)
    assert initramfs_files(500, 50_000, seed=1) != initramfs_files(500, 50_000, seed=2)
