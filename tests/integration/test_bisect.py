"""A made history of Linux with one bug in its midst: the commit that brought it is named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from integration.bug_history import BugHistory, bug_history
from integration.cli_run import ROOT, CliRun, command, environment, qemu_diff

pytestmark = pytest.mark.integration

CAMPAIGN = ROOT / "configs" / "bisect.toml"


@pytest.fixture(scope="module")
def history() -> BugHistory:
    return bug_history()


def arguments(history: BugHistory, out: Path, *more: str) -> list[str]:
    ends = ["--good", "bug-history/base", "--bad", "bug-history/c16"]
    where = ["--tree", str(history.linux.path), "--out", str(out)]
    return ["bisect", str(CAMPAIGN), *ends, *where, "--confirm", "1", *more]


@pytest.fixture(scope="module")
def bisected(history: BugHistory, tmp_path_factory: pytest.TempPathFactory) -> CliRun:
    out = tmp_path_factory.mktemp("bisected") / "out"
    return qemu_diff(*arguments(history, out), results=out)


def decisions(log: str) -> list[str]:
    return re.findall(r"^git bisect \S+ [0-9a-f]{40}$", log, re.MULTILINE)


def test_the_commit_that_brought_the_bug_is_named(history: BugHistory, bisected: CliRun) -> None:
    assert bisected.status == 0, bisected.said
    log = (bisected.results / "bisect.log").read_text()
    assert log.endswith(f"# first bad commit: [{history.commits['c6']}] KVM: arm64: c6: debug.c\n")
    assert f"The first bad commit is {history.commits['c6'][:12]}" in bisected.said
    assert "test <test@example.org>" in bisected.said
    assert "arch/arm64/kvm/debug.c" in bisected.said


def test_what_could_not_be_tested_was_skipped_for_its_reason(
    history: BugHistory, bisected: CliRun
) -> None:
    log = (bisected.results / "bisect.log").read_text()
    skipped = dict(re.findall(r"# because: (.*)\ngit bisect skip ([0-9a-f]{40})\n", log))
    reasons = {sha: reason for reason, sha in skipped.items()}
    assert reasons.keys() == {history.commits["c4"], history.commits["c7"]}
    assert "does not build: arch/arm64/kvm/handle_exit.c:" in reasons[history.commits["c7"]]
    assert "kernel BUG at arch/arm64/kvm/arm.c" in reasons[history.commits["c4"]]


def test_only_the_failing_cell_is_run_after_the_ends(bisected: CliRun) -> None:
    log = (bisected.results / "bisect.log").read_text()
    assert re.findall("^# cell: (.*)$", log, re.MULTILINE) == ["candidate.hvc.vhe.quiet.x2"]
    cells = [sorted(one.iterdir()) for one in bisected.results.glob("commits/*/cells")]
    assert sorted(map(len, cells)) == [1] * (len(cells) - 1) + [2]


def test_git_itself_replays_the_log(history: BugHistory, bisected: CliRun) -> None:
    git = ["git", f"--git-dir={bisected.results / 'bisect.git'}", "bisect"]
    subprocess.run([*git, "reset"], check=True, capture_output=True)
    subprocess.run([*git, "replay", bisected.results / "bisect.log"], check=True)
    said = subprocess.run([*git, "log"], check=True, capture_output=True, text=True).stdout
    assert f"# first bad commit: [{history.commits['c6']}]" in said


def test_a_killed_bisection_goes_on(history: BugHistory, bisected: CliRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    log = out / "bisect.log"
    running = subprocess.Popen(
        command(*arguments(history, out)),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (log.exists() and len(decisions(log.read_text())) >= 3):
        assert running.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = decisions(log.read_text())
    first = (out / "commits" / f"1-{history.commits['c16'][:12]}" / "verdicts.json").stat()

    resumed = qemu_diff(*arguments(history, out, "--resume"), results=out)
    assert resumed.status == 0, resumed.said
    whole = (bisected.results / "bisect.log").read_text()
    assert decisions(whole)[: len(before)] == before
    assert log.read_text() == whole
    again = (out / "commits" / f"1-{history.commits['c16'][:12]}" / "verdicts.json").stat()
    assert again.st_mtime_ns == first.st_mtime_ns, "the bad end was tested again"


@pytest.mark.parametrize(
    "arguments", [("run", "no-such.toml", "--bisect-exit"), ("run", "--bisect-exit", "--no-such")]
)
def test_a_mistake_ends_git_bisect_run(arguments: tuple[str, ...]) -> None:
    done = qemu_diff(*arguments)
    assert done.status == 130
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("ends", "complaint"),
    [
        (
            ("--good", "bug-history/base", "--bad", "bug-history/c99"),
            "no commit is named 'bug-history/c99'",
        ),
        (("--good", "no-such", "--bad", "bug-history/c16"), "no commit is named 'no-such'"),
        (("--good", "bug-history/c16", "--bad", "bug-history/base"), "is it the other way round?"),
        (
            ("--good", "bug-history/c1", "--bad", "bug-history/c1"),
            "good and bad are the same commit",
        ),
        (
            ("--good", "bug-history/base", "--bad", "bug-history/c16", "--resume"),
            "no bisection was begun here",
        ),
        (
            ("--good", "bug-history/base", "--bad", "bug-history/c16", "--replay", "no.log"),
            "no.log: No such file",
        ),
        (
            ("--good", "bug-history/base", "--bad", "bug-history/c16", "--confirm", "0"),
            "--confirm 0: at least once",
        ),
        (
            ("--good", "bug-history/base", "--bad", "bug-history/c16", "--only", "*.smc.*"),
            "no cell of",
        ),
        (
            ("--good", "bug-history/base", "--bad", "bug-history/c16", "--tree", "/"),
            "/: not a git repository",
        ),
    ],
)
def test_what_can_not_be_bisected(
    history: BugHistory, tmp_path: Path, ends: tuple[str, ...], complaint: str
) -> None:
    where = () if "--tree" in ends else ("--tree", str(history.linux.path))
    done = qemu_diff("bisect", CAMPAIGN, *where, "--out", tmp_path / "out", *ends)
    assert done.status == 2, done.said
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
