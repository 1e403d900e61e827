"""One boot's life, with small scripts in QEMU's place."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.unix_server import mute, serving

from qemu_diff.confinement import offered
from qemu_diff.errors import InfrastructureError
from qemu_diff.events import Event, subscribe
from qemu_diff.guest import process
from qemu_diff.guest.process import (
    Cancelled,
    Ending,
    GivenUp,
    GuestExit,
    how_ended,
    private_socket,
    run_guest,
)

Guest = Callable[..., GuestExit]

NEVER_ENDS = "while :; do sleep 1000; done"


MARKS = ("pids", "said", "began")
"""Files of the scripts'; a guest can make none."""


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    """Runs a shell script as QEMU; its console goes to ``tmp_path / "console.log"``."""

    def run(
        script: str,
        *arguments: str,
        budget_s: float = 20,
        cancel: threading.Event | None = None,
        watch: Callable[[], None] = lambda: None,
        interpreter: str = "#!/bin/sh",
    ) -> GuestExit:
        qemu = tmp_path / "qemu"
        qemu.write_text(f"{interpreter}\n{script}\n")
        qemu.chmod(0o755)
        for name in MARKS:
            (tmp_path / name).touch()
        return run_guest(
            [str(qemu), *arguments],
            tmp_path,
            tmp_path / "qmp",
            memory_mib=512,
            budget_s=budget_s,
            cancel=cancel or threading.Event(),
            watch=watch,
        )

    return run


@pytest.fixture
def leaves_pids(tmp_path: Path) -> Callable[[], list[int]]:
    """The processes whose ids the script wrote to ``tmp_path / "pids"``."""
    return lambda: [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that waits for its parent has."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


# --- how it ends ---


def test_its_life_is_told(guest: Guest, tmp_path: Path) -> None:
    seen: list[Event] = []
    with subscribe(seen.append):
        ended = guest("echo Booting")
    assert seen == [Event("boot", str(tmp_path), "exited", wall_s=ended.wall_s)]


def test_a_guest_that_powers_off(guest: Guest, tmp_path: Path) -> None:
    ended = guest("echo Booting; echo 'reboot: Power down'")
    assert (ended.ending, ended.status) == (Ending.EXITED, 0)
    assert (ended.death, ended.warnings, ended.registers) == ("", (), "")
    assert ended.last_line == "reboot: Power down"
    assert (tmp_path / "console.log").read_bytes() == b"Booting\nreboot: Power down\n"


def test_what_it_says_as_it_ends_while_we_do_not_look_is_kept(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends between a wait for its output that came to nothing and whatever comes next."""

    def wait(*arguments: Any) -> tuple[list[int], list[int], list[int]]:
        ready = select.select(*arguments)
        if not ready[0] and arguments[-1] and (tmp_path / "began").read_text():
            (tmp_path / "looked").touch()
            time.sleep(0.3)
        return ready

    monkeypatch.setattr("pexpect.fdpexpect.select_ignore_interrupts", wait)
    ended = guest(
        f"echo Booting; echo yes > {tmp_path}/began; "
        f"until test -e {tmp_path}/looked; do sleep 0.01; done; echo 'reboot: Power down'"
    )
    assert (ended.ending, ended.last_line) == (Ending.EXITED, "reboot: Power down")


def test_what_a_child_of_its_own_holds_open_does_not_keep_it_alive(
    guest: Guest, tmp_path: Path
) -> None:
    ended = guest(f"echo Booting; sleep 1000 & echo $! > {tmp_path}/pids")
    assert (ended.ending, ended.last_line) == (Ending.EXITED, "Booting")
    assert ended.wall_s < 5
    assert is_gone(int((tmp_path / "pids").read_text()))


def test_arguments_are_handed_over_as_they_are(guest: Guest) -> None:
    ended = guest('printf "%s|" "$@"', "-append", "console=ttyAMA0 x=$y", "a,,b", "")
    assert ended.last_line == "-append|console=ttyAMA0 x=$y|a,,b||"


def test_a_qemu_that_refuses_to_start(guest: Guest) -> None:
    ended = guest("echo 'qemu: no machine virt' >&2; exit 1")
    assert (ended.ending, ended.status) == (Ending.DIED, 1)
    assert ended.last_line == "qemu: no machine virt"


@pytest.mark.parametrize(("signal", "number"), [("SEGV", 11), ("KILL", 9), ("ABRT", 6)])
def test_a_qemu_that_dies_by_a_signal(guest: Guest, signal: str, number: int) -> None:
    ended = guest(f"echo Booting; ulimit -c 0; kill -{signal} $$")
    assert (ended.ending, ended.status) == (Ending.DIED, -number)
    assert ended.last_line == "Booting"


def test_a_qemu_that_never_ends_is_ended(
    guest: Guest, leaves_pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    started = time.monotonic()
    ended = guest(f"echo $$ > {tmp_path}/pids; echo Booting; {NEVER_ENDS}", budget_s=0.5)
    assert ended.ending is Ending.OUT_OF_BUDGET
    assert ended.last_line == "Booting"
    assert 0.5 <= ended.wall_s <= time.monotonic() - started < 5
    assert 0 < ended.silent_s <= 0.7
    assert all(is_gone(pid) for pid in leaves_pids())


STOPPED = """
import sys, threading
from pathlib import Path
from qemu_diff.guest import process
process.MOST_BETWEEN_LOOKS_S = 0.3
directory = Path(sys.argv[1])
print("begins", flush=True)
ended = process.run_guest(
    ["/bin/sleep", "2.5"], directory, directory / "qmp",
    memory_mib=64, budget_s=1.5, cancel=threading.Event(),
)
print(ended.ending, flush=True)
"""


def test_time_in_which_we_were_stopped_does_not_count(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[3],
    ) as runner:  # fmt: skip
        assert runner.stdout is not None
        assert runner.stdout.readline() == "begins\n"
        time.sleep(0.3)
        runner.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        runner.send_signal(signal.SIGCONT)
        assert runner.stdout.read() == "exited\n"


def test_no_child_survives_the_budget(
    guest: Guest, leaves_pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    script = (
        f"sleep 1000 & echo $! $$ > {tmp_path}/pids; sleep 1000 & echo $! >> {tmp_path}/pids; wait"
    )
    guest(script, budget_s=0.5)
    assert len(leaves_pids()) == 3
    assert all(is_gone(pid) for pid in leaves_pids())


def test_no_child_survives_an_orderly_end(
    guest: Guest, leaves_pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    # Not the hang-up of the terminal may end the child, but we.
    ended = guest(f"trap '' HUP; sleep 1000 & echo $! > {tmp_path}/pids; exit 0", budget_s=2)
    assert all(is_gone(pid) for pid in leaves_pids())
    assert ended.ending is Ending.EXITED


def test_who_ignores_signals_is_ended_all_the_same(
    guest: Guest, leaves_pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    script = f"trap '' TERM HUP INT; echo $$ > {tmp_path}/pids; {NEVER_ENDS}"
    assert guest(script, budget_s=0.5).ending is Ending.OUT_OF_BUDGET
    assert all(is_gone(pid) for pid in leaves_pids())


def test_a_qemu_that_closes_its_console_stays_on_the_clock(guest: Guest) -> None:
    assert guest("exec <&- >&- 2>&-; sleep 2", budget_s=0.3).wall_s < 1.5


def test_the_user_calls_it_off(
    guest: Guest, leaves_pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    cancel = threading.Event()
    script = f"sleep 1000 & echo $! $$ > {tmp_path}/pids; {NEVER_ENDS}"

    def user() -> None:
        if (tmp_path / "pids").exists():
            cancel.set()

    started = time.monotonic()
    with pytest.raises(Cancelled):
        guest(script, cancel=cancel, watch=user)
    assert time.monotonic() - started < 5
    assert len(leaves_pids()) == 2
    assert all(is_gone(pid) for pid in leaves_pids())


def test_a_watcher_that_fails_leaves_no_guest_behind(
    guest: Guest, leaves_pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    def watch() -> None:
        if (tmp_path / "pids").exists():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guest(f"echo $$ > {tmp_path}/pids; {NEVER_ENDS}", watch=watch)
    assert all(is_gone(pid) for pid in leaves_pids())


def test_a_watcher_that_gives_a_guest_up_ends_it(
    guest: Guest, leaves_pids: Callable[[], list[int]], tmp_path: Path
) -> None:
    def watch() -> None:
        if (tmp_path / "pids").exists():
            raise GivenUp

    ended = guest(f"echo Booting; echo $$ > {tmp_path}/pids; {NEVER_ENDS}", watch=watch)
    assert ended.ending is Ending.GIVEN_UP
    assert (ended.status, ended.registers, ended.last_line) == (-9, "", "Booting")
    assert ended.wall_s < 5
    assert all(is_gone(pid) for pid in leaves_pids())


def test_a_guest_that_is_given_up_may_have_died_before(guest: Guest, tmp_path: Path) -> None:
    def watch() -> None:
        if (tmp_path / "said").read_text():
            raise GivenUp

    line = "Kernel panic - not syncing: x"
    ended = guest(f"echo '{line}'; echo yes > {tmp_path}/said; {NEVER_ENDS}", watch=watch)
    assert (ended.ending, ended.death) == (Ending.GIVEN_UP, line)


def test_the_watcher_is_called_while_the_guest_runs(guest: Guest) -> None:
    calls: list[float] = []
    guest("sleep 0.6", watch=lambda: calls.append(time.monotonic()))
    assert len(calls) >= 2


# --- what it prints ---


def test_a_panic_is_not_waited_on_for_the_whole_budget(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "AFTER_OOPS_S", 0.3)
    ended = guest(f"echo '[    1.0] Kernel panic - not syncing: x'; {NEVER_ENDS}", budget_s=60)
    assert ended.ending is Ending.OUT_OF_BUDGET
    assert ended.death == "Kernel panic - not syncing: x"
    assert 0.3 <= ended.wall_s < 5


def test_more_oopses_give_a_dying_kernel_no_more_time(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "AFTER_OOPS_S", 0.3)
    ended = guest("while :; do echo 'Internal error: Oops'; sleep 0.1; done", budget_s=60)
    assert ended.ending is Ending.OUT_OF_BUDGET
    assert ended.wall_s < 5


def test_a_panic_does_not_give_more_time_than_the_budget(guest: Guest) -> None:
    ended = guest(f"echo 'Kernel panic - not syncing: x'; {NEVER_ENDS}", budget_s=0.3)
    assert ended.wall_s < 5


def test_a_kernel_that_panics_and_goes_down_by_itself(guest: Guest) -> None:
    ended = guest("echo 'Kernel panic - not syncing: VFS: no root'; echo 'Rebooting'")
    assert (ended.ending, ended.death) == (
        Ending.EXITED,
        "Kernel panic - not syncing: VFS: no root",
    )
    assert ended.last_line == "Rebooting"


@pytest.mark.parametrize(
    "line",
    [
        "Kernel panic - not syncing: x",
        "Internal error: Oops: 96000004 [#1] SMP",
        "Unable to handle kernel NULL pointer dereference at virtual address 0",
        "kernel BUG at arch/arm64/kvm/debug.c:1!",
        "BUG: KASAN: slab-out-of-bounds in kvm_arm_setup_debug+0x8",
    ],
)
def test_a_dying_kernel_is_recognised(guest: Guest, line: str) -> None:
    assert guest(f"echo '[    1.000000] {line}'").death == line


def test_the_first_line_of_a_dying_kernel_counts(guest: Guest) -> None:
    ended = guest("echo 'Unable to handle kernel x'; echo 'Kernel panic - not syncing: y'")
    assert ended.death == "Unable to handle kernel x"


def test_a_debug_message_kills_no_kernel(guest: Guest) -> None:
    assert guest("echo '[    1.0] arch_timer: DEBUG: probed'").death == ""


def test_warnings_are_collected_and_kill_nobody(guest: Guest) -> None:
    ended = guest(
        "echo '[    1.0] WARNING: CPU: 0 PID: 1 at kernel/a.c:1 a+0x8'; echo fine;"
        "echo '[    2.0] WARNING: CPU: 1 PID: 2 at kernel/b.c:2 b+0x8'"
    )
    assert ended.warnings == (
        "WARNING: CPU: 0 PID: 1 at kernel/a.c:1 a+0x8",
        "WARNING: CPU: 1 PID: 2 at kernel/b.c:2 b+0x8",
    )
    assert (ended.ending, ended.death) == (Ending.EXITED, "")


def test_a_last_line_needs_no_newline(guest: Guest) -> None:
    ended = guest("printf 'Booting\\nKernel panic - not syncing: cut o'")
    assert (ended.death, ended.last_line) == (
        "Kernel panic - not syncing: cut o",
        "Kernel panic - not syncing: cut o",
    )


def test_a_guest_that_prints_nothing(guest: Guest) -> None:
    assert guest("exit 0").last_line == ""
    assert guest("printf '\\n  \\n\\n'").last_line == ""


def test_blank_lines_are_no_last_line(guest: Guest) -> None:
    assert guest("printf 'Booting\\n\\n  \\n'").last_line == "Booting"


def test_binary_junk_is_kept_as_it_is(guest: Guest, tmp_path: Path) -> None:
    junk = bytes(range(256)) * 16
    (tmp_path / "junk").write_bytes(junk)
    ended = guest(f"cat {tmp_path}/junk; printf '\\nKernel panic - \\377\\nend'")
    assert (tmp_path / "console.log").read_bytes().startswith(junk)
    assert (ended.ending, ended.last_line) == (Ending.EXITED, "end")


def test_a_dying_line_may_hold_any_bytes(guest: Guest) -> None:
    assert guest("printf 'BUG: \\377\\033[0m\\n'").death == "BUG: \ufffd\x1b[0m"


def test_much_output_at_once_is_all_there(guest: Guest, tmp_path: Path) -> None:
    ended = guest("seq 1 100000; echo 'WARNING: CPU: 0'")
    lines = (tmp_path / "console.log").read_text().splitlines()
    assert lines == [*map(str, range(1, 100_001)), "WARNING: CPU: 0"]
    assert ended.warnings == ("WARNING: CPU: 0",)


def test_a_console_that_never_falls_silent_does_not_stop_the_clock(guest: Guest) -> None:
    ended = guest("while :; do echo noise; done", budget_s=0.5)
    assert ended.ending is Ending.OUT_OF_BUDGET
    assert ended.wall_s < 5


def test_a_console_without_an_end_is_cut_in_the_middle(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CONSOLE_HEAD", 1000)
    monkeypatch.setattr(process, "CONSOLE_TAIL", 100)
    ended = guest("seq 1 100000; echo 'Kernel panic - not syncing: x'")
    kept = (tmp_path / "console.log").read_bytes()
    whole = b"".join(b"%d\n" % one for one in range(1, 100_001))
    whole += b"Kernel panic - not syncing: x\n"
    left_out = len(whole) - 1100
    note = b"\r\n[qemu-diff: %d bytes left out]\r\n" % left_out
    assert kept == whole[:1000] + note + whole[-100:]
    assert ended.death == "Kernel panic - not syncing: x"
    assert ended.warnings == (f"its console is not kept whole: {left_out:,} bytes are left out",)


def test_what_is_said_without_an_end_is_not_repeated_without_one(guest: Guest) -> None:
    script = (
        'for i in $(seq 150); do echo "WARNING: CPU: $i"; echo "WARNING: CPU: $i"; done;'
        "echo Internal error: $(seq 1000); printf '%09999d' 0"
    )
    ended = guest(script)
    assert ended.warnings[:2] == ("WARNING: CPU: 1", "WARNING: CPU: 2")
    assert ended.warnings[99:] == ("WARNING: CPU: 100", "50 more warnings")
    assert ended.death.startswith("Internal error: 1 2 3")
    assert len(ended.death) < 450
    assert ended.last_line == "0" * 400


def test_a_file_that_grows_too_long_is_said(guest: Guest) -> None:
    ended = guest("kill -XFSZ $$")
    assert ended.ending is Ending.DIED
    assert how_ended(ended.status) == "signal 25: a file that it writes grew too long"


def test_the_guest_can_not_write_elsewhere(guest: Guest) -> None:
    ended = guest("touch /tmp/elsewhere-$$ && rm /tmp/elsewhere-$$ && echo could")
    assert ended.last_line != "could" or not offered().landlock


# --- what can't be started ---


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"starting QEMU: .*no-such-qemu"):
        run_guest(
            [str(tmp_path / "no-such-qemu")],
            tmp_path,
            tmp_path / "qmp",
            memory_mib=512,
            budget_s=1,
            cancel=threading.Event(),
        )


def test_a_program_that_can_not_be_executed(guest: Guest) -> None:
    with pytest.raises(InfrastructureError, match="starting QEMU"):
        guest("", interpreter="#!/no/such/interpreter")


def test_how_qemu_was_to_be_started_stays(guest: Guest, tmp_path: Path) -> None:
    guest("exit 1", "-append", "quiet panic=-1")
    assert (tmp_path / "argv").read_text() == f"{tmp_path / 'qemu'} -append 'quiet panic=-1'\n"
    assert not (tmp_path / "registers.txt").exists()


@pytest.mark.parametrize("name", ["argv", "console.log"])
def test_a_file_that_can_not_be_written(guest: Guest, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InfrastructureError) as caught:
        guest(f"touch {tmp_path}/started")
    assert str(caught.value) == f"{tmp_path / name}: Is a directory"
    assert not (tmp_path / "started").exists()


# --- the socket ---


@pytest.mark.parametrize("depth", [0, 3])
def test_a_socket_s_path_is_short_and_private_and_goes_away(
    depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path.joinpath(*["deeper-than-most-directories"] * depth)
    deep.mkdir(parents=True, exist_ok=True)
    if depth:
        monkeypatch.setattr("tempfile.tempdir", str(deep))
    with private_socket() as socket:
        assert len(os.fsencode(socket.with_name("a-long-name"))) < 108
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        socket.write_text("")
    assert not socket.parent.exists()


# --- what QMP says ---

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}}, "capabilities": []}}\n'
)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0\xff noise\n",
        b"[" * 100_000 + b"\n",
        b"9" * 5000 + b"\n",
        b'{"QMP": 5}\n',
        b"[]\n",
        GREETING + b'{"return": {}}\n' * 3,
        GREETING + b'{"id": 5, "error": []}\n',
        GREETING + b'{"event": "X"}\n',
        b"x" * (11 << 20),
    ],
)
def test_a_qmp_that_talks_nonsense_tells_no_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(process, "REGISTERS_S", 0.3)

    def serve(connection: socket.socket) -> None:
        connection.sendall(said)
        mute(connection)

    with serving(tmp_path / "qmp", serve):
        told = process._registers(tmp_path / "qmp")
    assert isinstance(told, str)
