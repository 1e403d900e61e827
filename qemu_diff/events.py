"""One stream of stage events: it feeds the progress display, the log and the timings.

A stage announces what it does with :func:`stage`; whoever wants to know subscribes with
:func:`subscribe`. Subscribers are called in the announcing thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Something that happened in a stage.

    :param stage: ``kernel``, ``cell``, …
    :param subject: what it is about: a kernel's name, a cell's id, a boot's directory.
    :param state: ``started``, ``progress``, ``finished``, ``failed`` or ``skipped``; of the stage
        ``boot`` only ``exited``: its QEMU is gone, after ``wall_s``.
    :param text: one line for people; may be empty.
    :param fraction: how much of the subject is done, 0.0 to 1.0, or None where unknown.
    :param wall_s: seconds since the stage started.
    """

    stage: str
    subject: str
    state: str
    text: str = ""
    fraction: float | None = None
    wall_s: float = 0.0


Subscriber = Callable[[Event], None]
_subscribers: list[Subscriber] = []
_lock = threading.Lock()


def emit(event: Event) -> None:
    """Hand an event to every subscriber."""
    with _lock:
        subscribers = list(_subscribers)
    for subscriber in subscribers:
        subscriber(event)


@contextmanager
def subscribe(subscriber: Subscriber) -> Iterator[None]:
    """Call ``subscriber`` for every event while the context lasts."""
    with _lock:
        _subscribers.append(subscriber)
    try:
        yield
    finally:
        with _lock:
            _subscribers.remove(subscriber)


class Stage:
    """A running stage; :meth:`progress` reports how far it is.

    ``outcome`` is said when it has finished, in one line; empty for what speaks for itself.
    """

    def __init__(self, stage: str, subject: str) -> None:
        self.stage = stage
        self.subject = subject
        self.started = time.monotonic()
        self.outcome = ""

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Say how far the stage is.

        :param fraction: 0.0 to 1.0, or None where unknown.
        """
        self._emit("progress", text, fraction)

    def _emit(self, state: str, text: str = "", fraction: float | None = None) -> None:
        wall = time.monotonic() - self.started
        emit(Event(self.stage, self.subject, state, text, fraction, wall))


@contextmanager
def stage(
    name: str, subject: str, *, excused: tuple[type[BaseException], ...] = ()
) -> Iterator[Stage]:
    """Announce a stage's start, and its end or failure.

    :param excused: what is no failure when it is raised: the stage is then skipped.
    """
    running = Stage(name, subject)
    running._emit("started")
    try:
        yield running
    except BaseException as error:
        state = "skipped" if isinstance(error, excused) else "failed"
        running._emit(state, str(error) or type(error).__name__)
        raise
    running._emit("finished", running.outcome)
