"""A bisection for people. Subjects and names are anybody's text."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console

from qemu_diff.model import (
    Bisection,
    BisectionEnding,
    BisectionStep,
    Commit,
    CommitVerdict,
    Symptom,
)
from qemu_diff.report.bisection import bisection_markdown, print_bisection, sentence
from qemu_diff.report.printable import printable

SHA = "0f1a6c5c9784" + 28 * "0"
PARENT = "a" * 40
HOSTILE = "[x](http://e) | <b>`y`</b> *z* \x1b[31m ![i](j) #1 @me"

STEP = BisectionStep(SHA, "subject", CommitVerdict.BAD, "why", "commits/1", 1.25, 2.5)
FOUND = Bisection(
    campaign="nightly",
    kernel="candidate",
    tree="/home/me/linux",
    paths=("arch/arm64/kvm",),
    cells=("candidate.hvc.vhe.quiet",),
    symptoms=(Symptom("lost-step", "step/tcg", "hvc", "handle_hvc"),),
    steps=(STEP, replace(STEP, sha=PARENT, verdict=CommitVerdict.GOOD, build_s=None)),
    ending=BisectionEnding.FOUND,
    message="the first bad commit is 0f1a6c5c9784 (subject)",
    found=(Commit(SHA, "subject", "A <a@b>", "2022-12-11", (PARENT,), ("arch/arm64/kvm/arm.c",)),),
    confirmations=(STEP, STEP, replace(STEP, sha=PARENT, verdict=CommitVerdict.GOOD)),
    sentences=((SHA, ("candidate loses the step",)), (PARENT, ("candidate keeps it",))),
)


def parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def inline(tokens: list[Token]) -> list[str]:
    """What each paragraph, heading, item and field of a table shows."""
    return [
        "".join(child.content for child in token.children or ())
        for token in tokens
        if token.type == "inline"
    ]


def test_the_page_has_it_all() -> None:
    shown = inline(parsed(bisection_markdown(FOUND)))
    for words in (
        "Bisection: nightly",
        "Kernel candidate, commits of /home/me/linux that touch arch/arm64/kvm.",
        "0f1a6c5c9784 subject",
        f"A <a@b>, 2022-12-11, {SHA}",
        "arch/arm64/kvm/arm.c",
        "lost-step of hvc in step/tcg, served by handle_hvc",
        "candidate.hvc.vhe.quiet",
        "candidate loses the step",
        "At aaaaaaaaaaaa subject:",
        "1.2",
        "why",
    ):
        assert words in shown


@given(st.one_of(st.just(HOSTILE), st.text(min_size=1)))
def test_text_of_others_is_shown_as_it_is(text: str) -> None:
    step = replace(STEP, subject=text, reason=text)
    commit = replace(FOUND.found[0], subject=text, author=text, files=(text,))
    tokens = parsed(bisection_markdown(replace(FOUND, steps=(step,), found=(commit,))))
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) == 2 + 4
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "code_inline", "strong_open", "strong_close", "text_special"}
    fields = [one.strip() for one in inline(tokens)]
    assert fields.count(printable(text).strip()) >= 2


@pytest.mark.parametrize(
    ("ending", "message", "said"),
    [
        (
            BisectionEnding.FOUND,
            FOUND.message,
            "The first bad commit is 0f1a6c5c9784 (subject): tested 2 times more from fresh boots, "
            "it is bad and what was before is good.",
        ),
        (BisectionEnding.WRONG_ENDS, "bad is not bad: x", "Bad is not bad: x."),
    ],
)
def test_the_sentence(ending: BisectionEnding, message: str, said: str) -> None:
    assert sentence(replace(FOUND, ending=ending, message=message)) == said


def test_the_terminal_gets_nothing_that_it_would_act_on() -> None:
    printed = io.StringIO()
    hostile = replace(FOUND, sentences=((SHA, (HOSTILE,)),))
    print_bisection(hostile, Console(file=printed, width=200, force_terminal=False))
    assert "\x1b" not in printed.getvalue()
    assert "[x](http://e)" in printed.getvalue()
    assert "arch/arm64/kvm/arm.c" in printed.getvalue()
