"""gdb on a finding: it stops where it is said to, and its stops don't hide the bug."""

from __future__ import annotations

from pathlib import Path

import pexpect
import pytest
from integration.cli_run import CliRun, command, environment, qemu_diff, run_campaign

from qemu_diff.model import Build

pytestmark = pytest.mark.integration

CAMPAIGN = """
[campaign]
name = "one-bug"
[kernels.unpatched]
source = "debian:linux-source-6.1"
patches = ["guest_images/patches/unpatched.patch"]
[[scenario]]
payload = "trapped_sysreg"
expect = { unpatched = { trapped_sysreg = "lost-step" } }
flood = { source = "host_timer", placement = "sweep", first_ns = 3200, last_ns = 4200, step_ns = 50 }
[[scenario]]
payload = "straightline"
expect = { unpatched = { straightline = "lost-step" } }
machine = { exception_order = "async_first" }
"""  # noqa: E501
SYSREG = (
    "unpatched.trapped_sysreg.vhe.host_timer-sweep.3200-4200-50"
    ".lost-step.trapped_read.kvm_handle_sys_reg"
)
ASYNC_FIRST = "unpatched.straightline.vhe.quiet.async_first-sgi.lost-step.entry"
MRS, LOST, REPORTED = 0x5A5A_0004, 0x5A5A_0008, 0x5A5A_000C

STOPS = f"""
set pagination off
printf "first: %#lx\\n", $pc
hbreak kvm_handle_sys_reg
continue
printf "then: "
info symbol $pc
delete
hbreak *{LOST:#x}
hbreak kvm_handle_guest_debug
continue
printf "lost: %#lx\\n", $pc
continue
printf "stepped: "
info symbol $pc
printf "ELR: %#lx\\n", $ELR_EL2
"""


@pytest.fixture(scope="module")
def found(builds: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> CliRun:
    assert "unpatched" in builds
    directory = tmp_path_factory.mktemp("debug")
    (directory / "campaign.toml").write_text(CAMPAIGN)
    done = run_campaign(directory / "campaign.toml", directory / "results")
    assert done.status == 0, done.said
    return done


def debugged(found: CliRun, finding: str, script: str, tmp_path: Path, *more: str) -> CliRun:
    commands = tmp_path / "commands"
    commands.write_text(script)
    where = found.results / "findings" / finding
    return qemu_diff("debug", where, "--batch", "--command", commands, *more)


def test_gdb_sees_the_step_being_lost(found: CliRun, tmp_path: Path) -> None:
    done = debugged(found, SYSREG, STOPS, tmp_path, "--out", str(tmp_path / "out"))
    assert done.status == 0, done.said
    assert f"first: {MRS:#x}" in done.stdout
    assert "then: kvm_handle_sys_reg in section" in done.stdout
    # L2 executes what no step is reported for, and the next report is the one after it.
    assert f"lost: {LOST:#x}" in done.stdout
    assert "stepped: kvm_handle_guest_debug in section" in done.stdout
    assert f"ELR: {REPORTED:#x}" in done.stdout
    where = (tmp_path / "out" / "WHERE.txt").read_text()
    assert f"guest PC      {MRS:#x}  trapped_read\n" in where
    assert "mrs x0, id_aa64pfr0_el1" in where
    assert "__kvm_hyp_vector+0x400" in where
    assert where in done.stdout


def test_gdb_goes_backwards(found: CliRun, tmp_path: Path) -> None:
    script = 'stepi\ninfo symbol $pc\nreverse-stepi\nprintf "back: %#lx\\n", $pc\n'
    done = debugged(found, SYSREG, script, tmp_path, "--reverse")
    assert done.status == 0, done.said
    assert "__kvm_hyp_vector + 1024" in done.stdout
    assert f"back: {MRS:#x}" in done.stdout


def test_async_first_is_debugged_too(found: CliRun, tmp_path: Path) -> None:
    script = 'printf "first: %#lx\\n", $pc\nhbreak *0x5a5a0004\ncontinue\nx/i $pc\n'
    done = debugged(found, ASYNC_FIRST, script, tmp_path)
    assert done.status == 0, done.said
    assert "first: 0x5a5a0000" in done.stdout
    assert "=> 0x5a5a0004 <" in done.stdout
    backwards = debugged(found, ASYNC_FIRST, script, tmp_path, "--reverse")
    assert backwards.status == 2
    assert "--reverse goes back to before async_first" in backwards.said


def test_ctrl_c_is_gdbs_and_nothing_is_left(found: CliRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = command("debug", found.results / "findings" / SYSREG, "--out", out)
    session = pexpect.spawn(
        arguments[0], [*arguments[1:]], env=environment(TERM="dumb"), timeout=60, encoding="utf-8"
    )
    try:
        session.expect_exact("(gdb) ")
        session.sendintr()
        session.expect_exact("(gdb) ")
        session.sendline("print/x $pc")
        session.expect_exact(f"{MRS:#x}")
        session.sendline("quit")
        session.expect(pexpect.EOF)
        session.wait()
        assert session.exitstatus == 0
    finally:
        session.close(force=True)
    # QEMU held its disk image, its records and its socket.
    assert not any(str(out) in line for line in running())


def running() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return lines


def test_a_kernel_without_a_vmlinux_is_debugged_without_names(
    found: CliRun, builds: dict[str, Build], tmp_path: Path
) -> None:
    script = 'printf "first: %#lx\\n", $pc\n'
    image = str(builds["unpatched"].image)
    done = debugged(found, SYSREG, script, tmp_path, "--image", image)
    assert done.status == 0, done.said
    assert "no vmlinux" in done.said
    assert f"first: {MRS:#x}" in done.stdout


def test_mistakes_are_one_line(found: CliRun, builds: dict[str, Build], tmp_path: Path) -> None:
    finding = found.results / "findings" / SYSREG
    nowhere = qemu_diff("debug", finding, "--command", tmp_path / "nothing")
    assert (nowhere.status, len(nowhere.stderr.splitlines())) == (2, 1)
    fixed = qemu_diff("debug", finding, "--batch", "--image", builds["patched"].image)
    assert fixed.status == 1
    assert "not reproduced" in fixed.said
    failing = debugged(found, SYSREG, "frobnicate\n", tmp_path)
    assert failing.status == 1
