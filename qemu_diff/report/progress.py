"""Progress on a terminal; elsewhere one line for each stage that ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from qemu_diff.events import Event, subscribe


@contextmanager
def show_progress(console: Console) -> Iterator[None]:
    """Follow the event stream while the context lasts.

    :param console: bars if it is a terminal, plain lines if not.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        with subscribe(_PlainLines(console)):
            yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True)
    with progress, subscribe(_Bars(progress)):
        yield


class _PlainLines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event) -> None:
        if event.state in ("finished", "failed", "skipped"):
            text = f": {event.text}" if event.text else ""
            line = f"{event.stage} {event.subject}: {event.state} in {event.wall_s:.1f} s{text}"
            self._console.print(Text(line), soft_wrap=True)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        key = event.stage, event.subject
        with self._lock:
            if event.state == "started":
                name = f"{event.stage} {event.subject}"
                self._tasks[key] = self._progress.add_task(name, total=None, note="")
            elif event.state == "progress" and key in self._tasks:
                known = event.fraction is not None
                self._progress.update(
                    self._tasks[key],
                    total=1.0 if known else None,
                    completed=event.fraction or 0.0,
                    note=event.text,
                )
            elif key in self._tasks:
                self._progress.remove_task(self._tasks.pop(key))
                if event.text:
                    skipped = "skipped: " if event.state == "skipped" else ""
                    self._progress.console.print(Text(f"{key[0]} {key[1]}: {skipped}{event.text}"))
