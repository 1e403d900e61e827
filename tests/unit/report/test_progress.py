"""Progress: bars on a terminal, lines elsewhere, and no text that breaks either."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from qemu_diff.events import Event, emit, stage
from qemu_diff.report.progress import show_progress

# ECMA-48, EL and DECTCEM
ERASES_LINE, SHOWS_CURSOR = "\x1b[2K", "\x1b[?25h"


def terminal() -> Console:
    return of_kind("xterm")


def of_kind(name: str) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=100, color_system=None,
        _environ={"TERM": name},
    )  # fmt: skip


def pipe(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=width)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def event(state: str, text: str = "", fraction: float | None = None, subject: str = "x") -> Event:
    return Event("cell", subject, state, text, fraction, wall_s=1.25)


def follow(console: Console, *events: Event) -> str:
    with show_progress(console):
        for one in events:
            emit(one)
    return printed(console)


# --- not a terminal ---


def test_a_pipe_gets_one_line_for_each_stage_that_ends() -> None:
    said = follow(
        pipe(),
        event("started"),
        event("progress", "run: 100 steps", 0.5),
        event("finished"),
        event("started", subject="y"),
        event("failed", "no room on the disk", subject="y"),
    )
    assert said == ("cell x: finished in 1.2 s\ncell y: failed in 1.2 s: no room on the disk\n")


def test_a_long_line_stays_one_line() -> None:
    assert follow(pipe(width=20), event("failed", "word " * 30)).count("\n") == 1


def test_nothing_is_shown_after_the_end() -> None:
    console = pipe()
    follow(console)
    emit(event("finished"))
    assert printed(console) == ""


def test_a_stage_announces_itself() -> None:
    console = pipe()
    with show_progress(console), stage("kernel", "patched") as running:
        running.progress("compiling")
    assert printed(console).startswith("kernel patched: finished in 0.")


@pytest.mark.parametrize(
    ("excused", "state"), [((), "failed"), ((LookupError,), "skipped"), ((OSError,), "failed")]
)
def test_a_stage_that_is_excused_is_skipped(
    excused: tuple[type[BaseException], ...], state: str
) -> None:
    console = pipe()
    with show_progress(console), pytest.raises(KeyError), stage("kernel", "w", excused=excused):
        raise KeyError("suite")
    assert printed(console) == f"kernel w: {state} in 0.0 s: 'suite'\n"


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_terminal_that_can_not_move_its_cursor_gets_lines(name: str) -> None:
    said = follow(of_kind(name), event("started"), event("finished"))
    assert said == "cell x: finished in 1.2 s\n"


# --- a terminal ---


def test_a_bar_shows_what_is_going_on() -> None:
    said = follow(terminal(), event("started"), event("progress", "run: 100 steps", 0.5))
    assert "cell x" in said
    assert "run: 100 steps" in said


def test_bars_are_gone_at_the_end() -> None:
    said = follow(terminal(), event("started"), event("progress", "run: 100 steps", 0.5))
    after_the_last_bar = said.rpartition("run: 100 steps")[2]
    assert after_the_last_bar.endswith(ERASES_LINE)
    assert SHOWS_CURSOR in after_the_last_bar


def test_what_is_skipped_stays_on_the_terminal() -> None:
    said = follow(terminal(), event("started"), event("skipped", "no such suite"))
    assert "cell x: skipped: no such suite\n" in said


def test_a_failure_stays_on_the_terminal() -> None:
    said = follow(terminal(), event("started"), event("failed", "no room on the disk"))
    assert "cell x: no room on the disk\n" in said


@pytest.mark.parametrize("fraction", [None, 0.0, 0.3, 1.0, 1.5])
def test_any_fraction_has_a_bar(fraction: float | None) -> None:
    console = terminal()
    with show_progress(console):
        emit(event("started"))
        emit(event("progress", "begins", 0.5))
        emit(event("progress", "goes on", fraction))
        console.print("between")
    assert "goes on" in printed(console)


def test_a_stage_that_never_started_has_no_bar() -> None:
    said = follow(terminal(), event("progress", "run: 1 step"), event("finished"))
    assert "run: 1 step" not in said


def test_stages_that_run_side_by_side_have_a_bar_each() -> None:
    console = terminal()
    with show_progress(console):
        for subject in ("x", "y"):
            emit(event("started", subject=subject))
        emit(event("finished", subject="x"))
        emit(event("progress", "still running", subject="y"))
        console.print("between")
    assert "still running" in printed(console)


def test_events_come_from_many_threads() -> None:
    def run(subject: str) -> None:
        emit(event("started", subject=subject))
        for number in range(20):
            emit(event("progress", f"{number}", number / 20, subject=subject))
        emit(event("failed", "gone", subject=subject))

    console = terminal()
    with show_progress(console):
        threads = [threading.Thread(target=run, args=(f"cell-{n}",)) for n in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert printed(console).count(": gone\n") == 8


# --- text of a guest ---

ODD = ["[/]", "[/bold] done", "[bold]loud", "[red", "{task.id}", "[link=x]y", ":smile:", "\\[x"]


@pytest.mark.parametrize("text", ODD)
def test_text_in_a_line_is_no_markup(text: str) -> None:
    failed = event("failed", f"reason {text}", subject=f"x-{text}")
    assert follow(pipe(), failed) == f"cell x-{text}: failed in 1.2 s: reason {text}\n"


@pytest.mark.parametrize("text", ODD)
def test_text_beside_a_bar_is_no_markup(text: str) -> None:
    said = follow(
        terminal(),
        event("started", subject=f"x-{text}"),
        event("progress", f"note {text}", 0.5, subject=f"x-{text}"),
        event("started", subject=f"y-{text}"),
        event("failed", f"reason {text}", subject=f"y-{text}"),
    )
    assert f"cell x-{text}" in said
    assert f"note {text}" in said
    assert f"cell y-{text}: reason {text}\n" in said
