"""A session with gdb as text: ``guest_images/sessions/NAME.gdb``, read into commands.

One command a line, as people type it, abbreviated or not; ``#`` begins a comment line, and the
comment at the top says what the session is about. Lines from ``while``, ``if``, ``commands``,
``define`` or ``python`` to their ``end`` are one command. What gdb can't say itself stands in
directives::

    #! payload NAME             what L2 runs; before the first command
    #! vcpus N                  how many L2 has; 1 without it
    #! interrupts               it is assembled with a GIC set-up (payloads/interrupts.inc)
    #! writer LABEL[+OFFSET]    an instruction that changes what is watched
    #! interrupt SECONDS        Ctrl-C, so long after the next command was given
    #! monitor COMMAND          of QEMU's monitor, from beside gdb
    #! reconnect                gdb disconnects, and connects again
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from qemu_diff.config.problems import listing, suggestion
from qemu_diff.drive.script import Mistake, Position, mistakes_error, text_of

SESSIONS = "sessions"
"""The folder of sessions, among our own sources for guests."""

MOST_VCPUS = 8
MOST_SECONDS = 60.0
MOST_STEPS = 10_000


class CommandKind(StrEnum):
    """What a command does with L2."""

    STEPI = "stepi"
    NEXTI = "nexti"
    STEP = "step"
    NEXT = "next"
    FINISH = "finish"
    UNTIL = "until"
    ADVANCE = "advance"
    CONTINUE = "continue"
    RECONNECT = "reconnect"
    MONITOR = "monitor"
    OTHER = "other"
    """It lets nothing run, or what nothing is claimed of."""


@dataclass(frozen=True)
class Command:
    """What is typed.

    :param text: as it stands in the file; of a block all lines.
    :param count: of ``stepi``, ``nexti``, ``step``, ``next``, ``continue``. None for a block whose
        only commands that let L2 run are ``stepi``: it is stepped as often as it stops.
    :param location: of ``until`` and ``advance``: an expression for an address; may be empty.
    :param interrupt_after: seconds, or None for no Ctrl-C.
    :param line: of the file, from 1.
    """

    text: str
    kind: CommandKind
    count: int | None = 1
    location: str = ""
    interrupt_after: float | None = None
    line: int = field(default=0, compare=False)

    @property
    def first_line(self) -> str:
        """What is said of it in a message."""
        return self.text.partition("\n")[0]


@dataclass(frozen=True)
class Session:
    """A session file.

    :param payload: what L2 runs.
    :param interrupts: with a GIC set-up.
    :param writers: instructions that change what is watched, as (label, offset in bytes).
    """

    path: Path
    payload: str
    vcpus: int
    interrupts: bool
    writers: tuple[tuple[str, int], ...]
    commands: tuple[Command, ...]


def session_path(guest_images: Path, name: str, beside: Path | None = None) -> Path:
    """Where the session of that name is.

    :param beside: the campaign file's directory: a session of its own wins over one of ours.
    """
    own = beside / SESSIONS / f"{name}.gdb" if beside else None
    return own if own and own.is_file() else guest_images / SESSIONS / f"{name}.gdb"


def read_session(path: Path) -> Session:
    """Read a session file.

    :raises ConfigError: it can't be read, or used; ``str()`` has one line for each mistake.
    """
    return parsed(text_of(path), path)


def parsed(text: str, path: Path) -> Session:
    """The session that a text describes.

    :param path: the file that it is from, for errors.
    :raises ConfigError: see :func:`read_session`.
    """
    parser = _Parser()
    for number, line in enumerate(text.split("\n"), start=1):
        parser.read(line.removesuffix("\r"), number)
    parser.finish()
    if parser.mistakes:
        raise mistakes_error(path, parser.mistakes)
    return Session(
        path,
        parser.payload,
        parser.vcpus,
        parser.interrupts,
        tuple(parser.writers),
        tuple(parser.commands),
    )


# --- commands ------------------------------------------------------------------------------------

_RESUMING = {
    CommandKind.STEPI: ("stepi", "si"),
    CommandKind.NEXTI: ("nexti", "ni"),
    CommandKind.STEP: ("step", "s"),
    CommandKind.NEXT: ("next", "n"),
    CommandKind.FINISH: ("finish", "fin"),
    CommandKind.UNTIL: ("until", "u"),
    CommandKind.ADVANCE: ("advance", "adv"),
    CommandKind.CONTINUE: ("continue", "cont", "c", "fg"),
}
_KINDS = {word: kind for kind, words in _RESUMING.items() for word in words}
_UNCLAIMED = (
    "jump", "j", "signal", "call", "reverse-stepi", "reverse-nexti", "reverse-step",
    "reverse-next", "reverse-continue", "rsi", "rni", "rs", "rn", "rc",
)  # fmt: skip
"""They let L2 run, too; nothing is claimed of where to."""

_FORBIDDEN = {
    **dict.fromkeys(("kill", "k", "quit", "q", "exit"), "it would end L1's QEMU, or gdb"),
    **dict.fromkeys(("run", "r", "start", "starti", "attach"), "L2 runs already"),
    **dict.fromkeys(("target", "tar", "disconnect", "detach"), "write #! reconnect"),
    **dict.fromkeys(("shell", "!", "make", "source"), "a session says itself what it does"),
}

_BLOCKS = ("while", "if", "commands", "define", "document", "python", "py")

_COUNTED = (
    CommandKind.STEPI, CommandKind.NEXTI, CommandKind.STEP, CommandKind.NEXT, CommandKind.CONTINUE,
)  # fmt: skip
_WORD = re.compile(r"!|[^\s!/]+")
_COUNT = re.compile(r"[0-9]{1,9}")


def _first_word(line: str) -> str:
    match = _WORD.match(line.strip())
    return match[0] if match else ""


def _command(text: str, at: Position, interrupt_after: float | None) -> Command:
    """A command of one line."""
    word = _first_word(text)
    if word in _FORBIDDEN:
        raise Mistake(at, f"`{word}` has no place in a session", _FORBIDDEN[word])
    if text.endswith("&"):
        raise Mistake(at, "a command in the background has no end that could be judged")
    kind = _KINDS.get(word, CommandKind.OTHER)
    rest = text[len(word) :].strip()
    at = Position(at.line, at.column + len(text) - len(rest))
    if interrupt_after is not None and kind is CommandKind.OTHER and word not in _UNCLAIMED:
        raise Mistake(Position(at.line, 1), f"`#! interrupt` before `{word}`, which lets L2 stand")
    count, location = 1, ""
    if kind in _COUNTED and rest:
        count = _count(rest, at)
    elif kind in (CommandKind.UNTIL, CommandKind.ADVANCE):
        location = _location(word, kind, rest, at)
    elif kind is CommandKind.FINISH and rest:
        raise Mistake(at, f"expected the end of the line, got {rest!r}")
    return Command(text, kind, count, location, interrupt_after, at.line)


def _count(rest: str, at: Position) -> int:
    if not _COUNT.fullmatch(rest) or not 1 <= int(rest) <= MOST_STEPS:
        raise Mistake(at, f"expected a count, got {rest!r}", f"from 1 to {MOST_STEPS}")
    return int(rest)


def _location(word: str, kind: CommandKind, rest: str, at: Position) -> str:
    if not rest and kind is CommandKind.UNTIL:
        return ""
    if not rest.startswith("*") or not rest[1:].strip():
        # gdb goes to where it thinks that a function's prologue ends.
        wanted = f"{word} *{rest.lstrip('*') or 'LABEL'}"
        raise Mistake(at, f"expected *ADDRESS after `{word}`", f"write {wanted}")
    return rest[1:].strip()


def _block(lines: list[str], at: Position, interrupt_after: float | None) -> Command:
    """A command of several lines."""
    for number, line in enumerate(lines):
        if (word := _first_word(line)) in _FORBIDDEN:
            where = Position(at.line + number, len(line) - len(line.lstrip()) + 1)
            raise Mistake(where, f"`{word}` has no place in a session", _FORBIDDEN[word])
    text, word = "\n".join(lines), _first_word(lines[0])
    kinds = {_KINDS[inner] for line in lines if (inner := _first_word(line)) in _KINDS}
    other = {inner for line in lines if (inner := _first_word(line)) in _UNCLAIMED}
    if word in ("while", "if") and kinds == {CommandKind.STEPI} and not other:
        return Command(text, CommandKind.STEPI, None, "", interrupt_after, at.line)
    return Command(text, CommandKind.OTHER, 1, "", interrupt_after, at.line)


# --- directives ----------------------------------------------------------------------------------


def _number_of(text: str, at: Position, most: int) -> int:
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= most:
        raise Mistake(at, f"expected a number, got {text!r}", f"from 1 to {most}")
    return int(text)


def _seconds(text: str, at: Position) -> float:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text) or not 0 < float(text) <= MOST_SECONDS:
        raise Mistake(at, f"expected seconds, got {text!r}", f"at most {MOST_SECONDS:g}")
    return float(text)


_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PLACE = re.compile(
    r"(?P<label>[A-Za-z_.$][\w.$]*)(\+(?P<offset>0[xX][0-9a-fA-F]{1,8}|[0-9]{1,8}))?"
)


def _place(text: str, at: Position) -> tuple[str, int]:
    match = _PLACE.fullmatch(text)
    if match is None:
        raise Mistake(at, f"expected LABEL or LABEL+OFFSET, got {text!r}")
    offset = match["offset"] or "0"
    return match["label"], int(offset, 16 if offset[:2] in ("0x", "0X") else 10)


class _Parser:
    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.payload = ""
        self.vcpus = 1
        self.interrupts = False
        self.writers: list[tuple[str, int]] = []
        self.commands: list[Command] = []
        self._interrupt: tuple[float, Position] | None = None
        self._block: list[str] = []
        self._depth = 0
        self._began = Position(1, 1)
        self._directives: dict[str, Callable[[str, Position], None]] = {
            "payload": self._take_payload,
            "vcpus": self._take_vcpus,
            "interrupts": self._take_interrupts,
            "writer": self._take_writer,
            "interrupt": self._take_interrupt,
            "monitor": self._take_monitor,
            "reconnect": self._take_reconnect,
        }

    def read(self, line: str, number: int) -> None:
        """Read the next line; what is wrong with it goes to ``mistakes``."""
        text = line.strip()
        at = Position(number, len(line) - len(line.lstrip()) + 1)
        try:
            if self._depth:
                self._in_block(line, text)
            elif text.startswith("#!"):
                self._directive(text, at)
            elif text and not text.startswith("#"):
                self._line(line, text, at)
        except Mistake as mistake:
            self.mistakes.append(mistake)

    def finish(self) -> None:
        """What can be said only at the end."""
        if self._depth:
            word = _first_word(self._block[0])
            self.mistakes.append(Mistake(self._began, f"`{word}` has no `end`"))
        elif self._interrupt is not None:
            self.mistakes.append(Mistake(self._interrupt[1], "no command follows `#! interrupt`"))
        if not self.commands and not self.mistakes:
            self.mistakes.append(Mistake(Position(1, 1), "the session holds no command"))
        if not self.payload and not self.mistakes:
            self.mistakes.append(
                Mistake(Position(1, 1), "no `#! payload NAME` says what L2 runs", "add it")
            )

    def _line(self, line: str, text: str, at: Position) -> None:
        word = _first_word(text)
        if word == "end":
            raise Mistake(at, "`end` ends no block")
        if _opens(text):
            self._depth, self._block, self._began = 1, [line.rstrip()], at
            return
        self.commands.append(_command(text, at, self._take_pending()))

    def _in_block(self, line: str, text: str) -> None:
        self._block.append(line.rstrip())
        if _first_word(text) == "end" and text == "end":
            self._depth -= 1
        elif _opens(text) and _first_word(self._block[0]) not in ("python", "py"):
            self._depth += 1
        if not self._depth:
            self.commands.append(_block(self._block, self._began, self._take_pending()))

    def _take_pending(self) -> float | None:
        pending, self._interrupt = self._interrupt, None
        return None if pending is None else pending[0]

    def _directive(self, text: str, at: Position) -> None:
        name, _, rest = text[2:].strip().partition(" ")
        where = Position(at.line, at.column + text.find(name, 2)) if name else at
        if name not in self._directives:
            remedy = suggestion(name, self._directives) or (
                f"there are {listing(list(self._directives))}"
            )
            raise Mistake(where, f"{name!r} is no directive", remedy)
        rest = rest.strip()
        behind = Position(at.line, at.column + len(text) - len(rest))
        self._directives[name](rest, behind)

    def _take_payload(self, rest: str, at: Position) -> None:
        if self.payload or self.commands:
            raise Mistake(at, "`#! payload` stands once, before the first command")
        if not _NAME.fullmatch(rest):
            raise Mistake(at, f"expected the name of a payload, got {rest!r}")
        self.payload = rest

    def _take_vcpus(self, rest: str, at: Position) -> None:
        if self.commands:
            raise Mistake(at, "`#! vcpus` stands before the first command")
        self.vcpus = _number_of(rest, at, MOST_VCPUS)

    def _take_interrupts(self, rest: str, at: Position) -> None:
        if rest or self.commands:
            raise Mistake(at, "`#! interrupts` stands alone, before the first command")
        self.interrupts = True

    def _take_writer(self, rest: str, at: Position) -> None:
        self.writers.append(_place(rest, at))

    def _take_interrupt(self, rest: str, at: Position) -> None:
        if self._interrupt is not None:
            raise Mistake(at, "two `#! interrupt` for one command")
        self._interrupt = _seconds(rest, at), at

    def _take_monitor(self, rest: str, at: Position) -> None:
        if not rest:
            raise Mistake(at, "expected a command of QEMU's monitor")
        self._beside(Command(rest, CommandKind.MONITOR, line=at.line), at)

    def _take_reconnect(self, rest: str, at: Position) -> None:
        if rest:
            raise Mistake(at, f"expected the end of the line, got {rest!r}")
        self._beside(Command("reconnect", CommandKind.RECONNECT, line=at.line), at)

    def _beside(self, command: Command, at: Position) -> None:
        if self._interrupt is not None:
            raise Mistake(at, "`#! interrupt` stands before a command of gdb's")
        self.commands.append(command)


def _opens(text: str) -> bool:
    """Whether a line begins a block; ``python PRINT`` is complete by itself."""
    word = _first_word(text)
    return word in _BLOCKS and (word not in ("python", "py") or text == word)


def session_names(guest_images: Path) -> Iterator[str]:
    """The sessions that there are, in order."""
    for path in sorted((guest_images / SESSIONS).glob("*.gdb")):
        yield path.stem
