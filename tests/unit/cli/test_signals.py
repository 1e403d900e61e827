"""Signals: the first ends a run in order, the next at once; some come twice and mean once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from integration.cli_run import ROOT

from qemu_diff.cli.main import AS_ONE_S

RUN = """
import signal, sys, time
from pathlib import Path
from qemu_diff.cli.main import _Interruption
from qemu_diff.scratch import scratch_directory

interruption = _Interruption(3)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, interruption)
with scratch_directory(Path(sys.argv[1])) as scratch:
    (scratch / "records.bin").write_text("x")
    try:
        print("runs", flush=True)
        # One that comes as a sleep is about to begin is seen when that ends.
        while True:
            time.sleep(0.1)
    except KeyboardInterrupt:
        print("ends", flush=True)
        time.sleep(float(sys.argv[2]))
print("ended", flush=True)
"""


@pytest.fixture
def run(tmp_path: Path):
    """Starts a run that takes so many seconds to end in order; it is under way."""
    started: list[subprocess.Popen[str]] = []

    def start(ends_in_s: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path), str(ends_in_s)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_ends_it_in_order(run, tmp_path: Path, how: signal.Signals) -> None:
    process = run(0.1)
    process.send_signal(how)
    said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "ends\nended\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGHUP, signal.SIGTERM),
    ],
)
def test_the_next_ends_it_at_once(
    run, tmp_path: Path, first: signal.Signals, second: signal.Signals
) -> None:
    process = run(1000)
    process.send_signal(first)
    assert process.stdout.readline() == "ends\n"
    time.sleep(AS_ONE_S + 0.05)
    process.send_signal(second)
    said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (3, "")
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_one(run) -> None:
    process = run(0.5)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "ends\nended\n")


def test_one_that_comes_when_all_is_said_kills_nobody(tmp_path: Path) -> None:
    """Python gives its handlers up first, and then takes its time."""
    with subprocess.Popen(
        [sys.executable, "-m", "qemu_diff", "show", str(tmp_path)],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "verdicts.json" in process.stderr.readline()
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        assert process.stderr.read() == ""
    assert process.returncode in (2, 3)


TELLS = """
import os, signal, sys
from qemu_diff.cli.main import _Interruption
interruption = _Interruption(3)
signal.signal(signal.SIGTERM, interruption)
interruption.end_at_once()
print("qemu-diff: wrong", file=sys.stderr)
os.kill(os.getpid(), signal.SIGTERM)
print("not come to", file=sys.stderr)
"""


def test_one_that_comes_while_it_is_said_what_is_wrong_ends_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TELLS], stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (3, "qemu-diff: wrong\n")


@pytest.mark.parametrize(("option", "status"), [("--dry-run", 3), ("--bisect-exit", 131)])
def test_one_that_comes_while_the_program_is_loaded(option: str, status: int) -> None:
    code = (
        "import os, signal, sys; sys.argv = ['qemu-diff', sys.argv[1]]\n"
        "class Loading:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'qemu_diff.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Loading())\n"
        "from qemu_diff.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, option], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (status, "qemu-diff: interrupted\n")


def test_what_is_to_go_on_without_its_terminal_goes_on() -> None:
    """nohup(1) ignores the signal for what it starts."""
    code = (
        "import signal, sys; from qemu_diff.cli import main; sys.argv = ['qemu-diff', '--help']\n"
        "try: main()\n"
        "except SystemExit: print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    done = subprocess.run(
        ["nohup", sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "True"
