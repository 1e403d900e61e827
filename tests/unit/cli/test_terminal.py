"""A terminal, and a CI's runner, act on nothing that somebody else has written."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from qemu_diff.cli.terminal import OnlyText
from qemu_diff.model import (
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    FloodSpec,
    MachineSpec,
)
from qemu_diff.report.terminal import print_result

STYLES = re.compile(r"\x1b\[[0-9;]*m")
"""What rich itself sends."""

anything = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
HOSTILE = (
    "\x1b]0;title\x07", "\x1b[2J\x1b[H", "a\rb", "\x9b31m", "\u202egnp.exe", "bell\x07",
    "[red]markup[/red]", "[link=file:///etc/passwd]x[/link]", "\x1bP\x1b\\", "::error::x",
)  # fmt: skip


def result_of(text: str) -> CampaignResult:
    cell = Cell("k.p", "k", "p", MachineSpec(), FloodSpec(), Driver.IN_GUEST, 1)
    lost = CellResult(cell, CellVerdict.LOST, reason=text, warnings=(text, text))
    return CampaignResult("c", (lost,), (), complete=True)


def printed(text: str) -> str:
    """All that is shown of a cell, by all means of ours, on a terminal with colours."""
    stream = io.StringIO()
    console = OnlyText(file=stream, force_terminal=True, width=60, color_system="truecolor")
    print_result(result_of(text), console, details=True)
    console.print(text, markup=False, soft_wrap=True)
    console.print(Text(text, style="bold"))
    return STYLES.sub("", stream.getvalue())


def acts(shown: str) -> list[str]:
    return [one for one in shown if not one.isprintable() and one != "\n"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_are_shown(text: str) -> None:
    assert acts(printed(text)) == []


@given(anything)
def test_whatever_is_said_is_only_shown(text: str) -> None:
    assert acts(printed(text)) == []


def test_words_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert "[red]∅ ünïcödé[/red] ::" in printed("[red]∅ ünïcödé[/red] ::")


@pytest.mark.parametrize(
    "text",
    [
        "::error file=a::b", "x ::stop-commands::t", "##[error]x", "##vso[task.setvariable]x",
        "##teamcity[buildProblem]", " ".join(["word"] * 9) + " ::add-mask::the",
        " ".join(["longer"] * 30) + " ::debug::the",
    ],
)  # fmt: skip
def test_no_line_is_a_command_to_a_runner(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    shown = printed(text)
    # https://github.com/actions/runner: ActionCommand.TryParseV2 takes a line from its first word
    # on, TryParse takes what stands anywhere.
    assert not any(line.lstrip().startswith("::") for line in shown.splitlines())
    assert not re.search(r"##[a-z]*\[", shown)


def test_outside_of_a_runner_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert "::error::x ##[error]" in printed("::error::x ##[error]")
