"""``bisect.log``, written and read back, and what git itself writes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.campaign.bisect_log import BisectionLog, log_text, parse_log, read_log
from qemu_diff.errors import UserError
from qemu_diff.model import BisectionStep, CommitVerdict, Symptom
from qemu_diff.report.printable import printable

BAD, GOOD = "b" * 40, "a" * 40

# Control characters, quotes, comments, commands, Unicode's line ends: subjects are anybody's.
hostile = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["git bisect bad HEAD", "# bad: [abc] x", "'; rm -rf ~", "a\u2028git bisect x"]
    ),
).map(printable)
shas = st.text("0123456789abcdef", min_size=40, max_size=40)
symptoms = st.builds(Symptom, hostile, hostile, hostile, hostile)


@st.composite
def logs(draw: st.DrawFn) -> BisectionLog:
    found = draw(st.lists(shas, min_size=1, max_size=6, unique=True))
    verdicts = [CommitVerdict.BAD, *(draw(st.sampled_from(CommitVerdict)) for _ in found[1:])]
    steps = tuple(
        BisectionStep(sha, draw(hostile), verdict, draw(hostile))
        for sha, verdict in zip(found, verdicts, strict=True)
    )
    paths = st.text(st.characters(blacklist_characters="\n\0", blacklist_categories=["Cs"]))
    return BisectionLog(
        paths=tuple(draw(st.lists(paths.filter(bool), max_size=2))),
        cells=tuple(
            draw(st.lists(st.from_regex(r"[a-z][a-z0-9.+-]*", fullmatch=True), max_size=2))
        ),
        symptoms=tuple(draw(st.lists(symptoms, max_size=2))),
        steps=steps,
    )


@given(logs())
def test_what_is_written_is_read(log: BisectionLog) -> None:
    text = log_text(log, ["first bad commit: [bbbb] x"])
    assert parse_log(text, "log") == log


@given(logs())
def test_no_line_but_ours_is_a_command(log: BisectionLog) -> None:
    commands = [one for one in log_text(log).split("\n") if one and one[0] != "#"]
    # A path may hold anything, but it is in the first command, quoted.
    assert [one.split()[:3] for one in commands[1:]] == [
        ["git", "bisect", step.verdict.value] for step in log.steps
    ]


def test_a_log_of_gits_own_is_read() -> None:
    text = f"""\
# bad: [{BAD}] ten
# good: [{GOOD}] one
git bisect start '--no-checkout' 'v6.2' 'v6.1' '--' 'arch/arm64/kvm' 'virt'
# skip: [{"c" * 40}] five
git bisect skip {"c" * 40}
# first bad commit: [{BAD}] ten
"""
    log = parse_log(text, "log")
    assert log.paths == ("arch/arm64/kvm", "virt")
    assert [(one.sha, one.verdict.value) for one in log.steps] == [
        ("v6.2", "bad"),
        ("v6.1", "good"),
        ("c" * 40, "skip"),
    ]
    assert (log.bad, log.cells, log.symptoms) == ("v6.2", (), ())


def test_a_log_that_was_cut_off_at_its_begin_knows_nothing() -> None:
    assert parse_log("", "log") == BisectionLog()
    assert parse_log(log_text(BisectionLog(("virt",))), "log") == BisectionLog(("virt",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hello\n", "log:1: neither a comment nor a `git bisect` command"),
        (f"git bisect start\ngit bisect old {BAD}\n", "log:2: `git bisect old`: only start, good"),
        (f"git bisect start '--term-new=x' {BAD}\n", "log:1: --term-new=x: only the terms"),
        ("git bisect start 'unclosed\n", "log:1: No closing quotation"),
        (f'# symptom: {{"a": 1}}\ngit bisect bad {BAD}\n', "log:2: "),
        (f"# symptom: {{\ngit bisect bad {BAD}\n", "log:2: "),
    ],
)
def test_what_is_no_log_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        parse_log(text, "log")


def test_a_pipe_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(UserError, match=f"^{tmp_path / 'log'}: not a file$"):
        read_log(tmp_path / "log")
