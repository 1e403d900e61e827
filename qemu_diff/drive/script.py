"""The text form of a job: ``guest_images/jobs/NAME.job``, read into statements.

One statement a line, ``#`` begins a comment. What stands before ``pass:`` is done once per boot,
what follows it once per pass over the payload::

    debug enable singlestep [use_sw_bp] [use_hw breakpoint=VALUE]   |  debug off
    set REG VALUE | set_bits REG VALUE | clear_bits REG VALUE | get REG | expect REG VALUE
    kick | init | unmap | write VALUE VALUE | restore VALUE | run [debug|mmio|system_event]
    step [N] [until VALUE]
    on report|eintr|exit … end
    repeat N … end

``VALUE`` is a number or a name, or several joined by ``+`` and ``|``, from left to right. Names are
labels of a payload and constants; what they stand for is known only with a payload
(:func:`qemu_diff.drive.job.compiled`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from qemu_diff.abi import DebugControl, Occasion, WriteKind
from qemu_diff.config.problems import listing, suggestion
from qemu_diff.drive.registers import REGISTERS
from qemu_diff.errors import ConfigError

STEPS_PER_PASS = 1000
"""Reports after which ``step`` ends even if the PC that it waits for was never reported."""

REPEAT_DEPTH = 3
"""``REPEAT_DEPTH`` of guest_images/stepvmm/job.c, less one: a pass is a repeat, too."""

MOST_TIMES = (1 << 32) - 1
LARGEST_VALUE = (1 << 64) - 1


class RunExit(IntEnum):
    """``kvm_run.exit_reason`` (Linux include/uapi/linux/kvm.h)."""

    DEBUG = 4
    MMIO = 6
    SYSTEM_EVENT = 24


# --- statements ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """A place in a job file, from 1."""

    line: int
    column: int


NOWHERE = Position(0, 0)


@dataclass(frozen=True)
class Term:
    """A number or a name."""

    what: int | str
    at: Position = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return self.what if isinstance(self.what, str) else _number_text(self.what)


@dataclass(frozen=True)
class Value:
    """``first``, and each of ``rest`` joined to what stands before by ``+`` or ``|``."""

    first: Term
    rest: tuple[tuple[str, Term], ...] = ()

    def __str__(self) -> str:
        return str(self.first) + "".join(f"{joint}{term}" for joint, term in self.rest)

    @property
    def at(self) -> Position:
        """Where it begins."""
        return self.first.at


@dataclass(frozen=True)
class Set:
    """``set``, ``set_bits`` or ``clear_bits``."""

    kind: WriteKind
    register: str
    value: Value

    def __str__(self) -> str:
        return f"{_WRITE_NAMES[self.kind]} {self.register} {self.value}"


@dataclass(frozen=True)
class Get:
    """``get``: the register's value goes into the records."""

    register: str

    def __str__(self) -> str:
        return f"get {self.register}"


@dataclass(frozen=True)
class Expect:
    """``expect``: like ``get``, and any other value than this is a violation."""

    register: str
    value: Value

    def __str__(self) -> str:
        return f"expect {self.register} {self.value}"


@dataclass(frozen=True)
class Debug:
    """``debug``: KVM_SET_GUEST_DEBUG.

    :param breakpoint: the first hardware breakpoint's address; with ``USE_HW`` only.
    """

    control: DebugControl
    breakpoint: Value | None = None

    def __str__(self) -> str:
        if not self.control:
            return "debug off"
        words = [name for name, flag in _DEBUG_OPTIONS.items() if flag in self.control]
        where = [] if self.breakpoint is None else [f"breakpoint={self.breakpoint}"]
        return " ".join(["debug", *words, *where])


@dataclass(frozen=True)
class Kick:
    """``kick``: KVM_RUN with immediate_exit."""

    def __str__(self) -> str:
        return "kick"


@dataclass(frozen=True)
class Init:
    """``init``: KVM_ARM_VCPU_INIT again."""

    def __str__(self) -> str:
        return "init"


@dataclass(frozen=True)
class Unmap:
    """``unmap``: L2's memory slot goes and comes back."""

    def __str__(self) -> str:
        return "unmap"


@dataclass(frozen=True)
class Write:
    """``write ADDRESS WORD``: a 32-bit word of L2's memory."""

    address: Value
    word: Value

    def __str__(self) -> str:
        return f"write {self.address} {self.word}"


@dataclass(frozen=True)
class Restore:
    """``restore ADDRESS``: the payload's own word is written back."""

    address: Value

    def __str__(self) -> str:
        return f"restore {self.address}"


@dataclass(frozen=True)
class Run:
    """``run``: KVM_RUN until it returns for another reason than a signal, which must be this."""

    exit: RunExit = RunExit.DEBUG

    def __str__(self) -> str:
        return f"run {self.exit.name.lower()}"


@dataclass(frozen=True)
class Step:
    """``step``: so many reports, or fewer where one shows the PC ``until``.

    :param until: None: the payload's end.
    """

    reports: int = STEPS_PER_PASS
    until: Value | None = None

    def __str__(self) -> str:
        return f"step {self.reports}" + ("" if self.until is None else f" until {self.until}")


@dataclass(frozen=True)
class On:
    """``on OCCASION … end``: the body is done whenever ``step`` meets the occasion."""

    occasion: Occasion
    body: tuple[Statement, ...]

    def __str__(self) -> str:
        return f"on {self.occasion.name.lower()}"


@dataclass(frozen=True)
class Repeat:
    """``repeat N … end``"""

    times: int
    body: tuple[Statement, ...]

    def __str__(self) -> str:
        return f"repeat {self.times}"


Statement = (
    Set | Get | Expect | Debug | Kick | Init | Unmap | Write | Restore | Run | Step | On | Repeat
)


@dataclass(frozen=True)
class Script:
    """A job file.

    :param once: done once per boot.
    :param each_pass: done once per pass over the payload.
    """

    path: Path
    once: tuple[Statement, ...]
    each_pass: tuple[Statement, ...]

    @property
    def name(self) -> str:
        """What campaigns call it."""
        return self.path.stem

    def __str__(self) -> str:
        lines = [*_lines(self.once, ""), "pass:", *_lines(self.each_pass, "")]
        return "\n".join(lines) + "\n"


def _lines(statements: Iterable[Statement], indent: str) -> Iterator[str]:
    for one in statements:
        yield f"{indent}{one}"
        if isinstance(one, On | Repeat):
            yield from _lines(one.body, indent + "    ")
            yield f"{indent}end"


def _number_text(number: int) -> str:
    return str(number) if number < 10 else f"{number:#x}"


# --- reading -------------------------------------------------------------------------------------


def script_path(guest_images: Path, name: str, beside: Path | None = None) -> Path:
    """Where the job of this name is.

    :param beside: the campaign file's directory: a job of its own wins over one of ours.
    """
    own = beside / "jobs" / f"{name}.job" if beside else None
    return own if own and own.is_file() else guest_images / "jobs" / f"{name}.job"


def read_script(path: Path) -> Script:
    """Read a job file.

    :raises ConfigError: it can't be read, or used; ``str()`` has one line for each mistake.
    """
    return parsed(text_of(path), path)


def text_of(path: Path) -> str:
    """A file's text.

    :raises ConfigError: it can't be read, or is none.
    """
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        text = f"byte 0x{error.object[error.start]:02x} at offset {error.start} is not UTF-8"
        raise ConfigError(path, 0, 0, text) from None
    except OSError as error:
        raise ConfigError(path, 0, 0, f"can't be read: {error.strerror}") from None


def parsed(text: str, path: Path) -> Script:
    """The script that a text describes.

    :param path: the file that it is from, for errors.
    :raises ConfigError: see :func:`read_script`.
    """
    parser = _Parser()
    for number, line in enumerate(text.split("\n"), start=1):
        parser.read(line.removesuffix("\r"), number)
    once, each_pass = parser.finish()
    if parser.mistakes:
        raise mistakes_error(path, parser.mistakes)
    return Script(path, once, each_pass)


class Mistake(Exception):  # noqa: N818 - one of several, which make up one error
    """One mistake in a job file."""

    def __init__(self, at: Position, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.at = at
        self.problem = problem
        self.remedy = remedy


def mistakes_error(path: Path, mistakes: Iterable[Mistake]) -> ConfigError:
    """One error for all mistakes, in the order of the file."""
    errors = [
        ConfigError(path, one.at.line, one.at.column, one.problem, one.remedy)
        for one in sorted(mistakes, key=lambda one: (one.at.line, one.at.column))
    ]
    first, others = errors[0], tuple(errors[1:])
    return ConfigError(path, first.line, first.column, first.problem, first.remedy, others=others)


# --- one line ------------------------------------------------------------------------------------

_TOKEN = re.compile(r"(?P<blank>[ \t]+|#.*)|(?P<word>[A-Za-z0-9_.$]+)|(?P<sign>[+|=:])", re.DOTALL)
_NUMBER = re.compile(r"0[xX](?P<hex>[0-9a-fA-F_]+)|0[bB](?P<binary>[01_]+)|(?P<decimal>[0-9_]+)")
_BASES = {"hex": 16, "binary": 2, "decimal": 10}
_MOST_DIGITS = 80
"""More than any 64-bit number has; Python's own limit for digits raises ValueError."""


@dataclass(frozen=True)
class _Token:
    text: str
    at: Position

    @property
    def is_word(self) -> bool:
        return self.text not in "+|=:"


def _tokens(line: str, number: int) -> Iterator[_Token]:
    column = 0
    while column < len(line):
        at = Position(number, column + 1)
        match = _TOKEN.match(line, column)
        if match is None:
            raise Mistake(at, f"the character {line[column]!r} has no meaning here")
        if match.lastgroup != "blank":
            yield _Token(match[0], at)
        column = match.end()


class _Line:
    """The tokens of one line, taken from left to right."""

    def __init__(self, tokens: list[_Token], end: Position) -> None:
        self._tokens = tokens
        self._next = 0
        self._end = end

    @property
    def at(self) -> Position:
        return self._tokens[self._next].at if self.more else self._end

    @property
    def more(self) -> bool:
        return self._next < len(self._tokens)

    def take_if(self, text: str) -> bool:
        """Take the next token if it is this."""
        if not self.more or self._tokens[self._next].text != text:
            return False
        self._next += 1
        return True

    def word(self, what: str) -> str:
        """Take a word.

        :param what: what it is to be, for the error.
        """
        if not self.more or not self._tokens[self._next].is_word:
            raise Mistake(self.at, f"expected {what}, got {self._shown()}")
        self._next += 1
        return self._tokens[self._next - 1].text

    def one_of(self, names: Iterable[str], what: str) -> str:
        """Take a word that must be one of these."""
        at, word, known = self.at, self.word(what), list(names)
        if word in known:
            return word
        remedy = suggestion(word, known)
        if not remedy and len(known) <= 20:
            remedy = f"there are {listing(known)}"
        raise Mistake(at, f"{word!r} is not {what}", remedy)

    def times(self, what: str) -> int:
        """Take a number of times."""
        at = self.at
        number = _number(self.word(what), at)
        if not 1 <= number <= MOST_TIMES:
            raise Mistake(at, f"expected {what}, got {number}", f"from 1 to {MOST_TIMES}")
        return number

    def value(self) -> Value:
        """Take a VALUE, as far as it goes."""
        first, rest = self._term(), []
        while joint := next((sign for sign in "+|" if self.take_if(sign)), ""):
            rest.append((joint, self._term()))
        return Value(first, tuple(rest))

    def is_number(self) -> bool:
        """Whether the next token begins with a digit."""
        return self.more and self._tokens[self._next].text[0].isdigit()

    def finished(self) -> None:
        """See that nothing is left."""
        if self.more:
            raise Mistake(self.at, f"expected the end of the line, got {self._shown()}")

    def _term(self) -> Term:
        at = self.at
        numeric = self.is_number()
        word = self.word("a value (a number, a label or a constant)")
        return Term(_number(word, at) if numeric else word, at)

    def _shown(self) -> str:
        return repr(self._tokens[self._next].text) if self.more else "the end of the line"


def _number(word: str, at: Position) -> int:
    match = _NUMBER.fullmatch(word)
    digits = match[match.lastgroup or 0].replace("_", "") if match else ""
    if not match or not digits:
        raise Mistake(at, f"{word!r} is not a number", "write 12, 0xc or 0b1100")
    if len(digits.lstrip("0")) > _MOST_DIGITS:
        raise Mistake(at, "the number does not fit into 64 bits")
    number = int(digits, _BASES[match.lastgroup or "decimal"])
    if number > LARGEST_VALUE:
        raise Mistake(at, f"{word} does not fit into 64 bits")
    return number


# --- statements of one line ----------------------------------------------------------------------

_WRITE_NAMES = {
    WriteKind.VALUE: "set",
    WriteKind.SET_BITS: "set_bits",
    WriteKind.CLEAR_BITS: "clear_bits",
}

_DEBUG_OPTIONS = {
    "enable": DebugControl.ENABLE,
    "singlestep": DebugControl.SINGLESTEP,
    "use_sw_bp": DebugControl.USE_SW_BP,
    "use_hw": DebugControl.USE_HW,
}

_EXITS = {one.name.lower(): one for one in RunExit}
_OCCASIONS = {one.name.lower(): one for one in Occasion}


def _register(line: _Line) -> str:
    return line.one_of(REGISTERS, "a register")


def _setter(kind: WriteKind) -> Callable[[_Line], Statement]:
    def read(line: _Line) -> Statement:
        return Set(kind, _register(line), line.value())

    return read


def _debug(line: _Line) -> Statement:
    if line.take_if("off"):
        return Debug(DebugControl(0))
    if not line.take_if("enable"):
        raise Mistake(line.at, "expected `off` or `enable`", "KVM ignores all else without enable")
    at, control, where = line.at, DebugControl.ENABLE, None
    options = [name for name in (*_DEBUG_OPTIONS, "breakpoint") if name != "enable"]
    while line.more:
        at, word = line.at, line.one_of(options, "an option of `debug enable`")
        if word == "breakpoint":
            if not line.take_if("="):
                raise Mistake(line.at, "expected = after `breakpoint`")
            where = line.value()
        else:
            control |= _DEBUG_OPTIONS[word]
        options.remove(word)
    if (where is None) == (DebugControl.USE_HW in control):
        raise Mistake(at, "`use_hw` and `breakpoint=VALUE` go together", "add the other")
    return Debug(control, where)


def _step(line: _Line) -> Statement:
    reports = line.times("a number of reports") if line.is_number() else STEPS_PER_PASS
    return Step(reports, line.value() if line.take_if("until") else None)


def _run(line: _Line) -> Statement:
    return Run(_EXITS[line.one_of(_EXITS, "an exit")] if line.more else RunExit.DEBUG)


_SIMPLE: dict[str, Callable[[_Line], Statement]] = {
    **{name: _setter(kind) for kind, name in _WRITE_NAMES.items()},
    "get": lambda line: Get(_register(line)),
    "expect": lambda line: Expect(_register(line), line.value()),
    "debug": _debug,
    "kick": lambda _: Kick(),
    "init": lambda _: Init(),
    "unmap": lambda _: Unmap(),
    "write": lambda line: Write(line.value(), line.value()),
    "restore": lambda line: Restore(line.value()),
    "run": _run,
    "step": _step,
}

_Close = Callable[[tuple[Statement, ...]], Statement]


def _open_on(line: _Line) -> _Close:
    occasion = _OCCASIONS[line.one_of(_OCCASIONS, "an occasion")]
    return lambda body: On(occasion, body)


def _open_repeat(line: _Line) -> _Close:
    times = line.times("a number of times")
    return lambda body: Repeat(times, body)


_BLOCKS: dict[str, Callable[[_Line], _Close]] = {"on": _open_on, "repeat": _open_repeat}

_KEYWORDS = (*_SIMPLE, *_BLOCKS, "end", "pass")
_UNJUDGED = ("step", "repeat")
"""Before ``pass:`` there is no pass that a report could be counted in."""
_NOT_IN_ON = ("step", "repeat", "on")


# --- all lines -----------------------------------------------------------------------------------


@dataclass
class _Block:
    """A block whose ``end`` was not read yet.

    :param close: makes the statement; None where the block's first line holds a mistake.
    :param mistakes: so many were known before.
    """

    keyword: str
    at: Position
    close: _Close | None
    mistakes: int
    body: list[Statement] = field(default_factory=list)


class _Parser:
    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self._once: list[Statement] = []
        self._each_pass: list[Statement] = []
        self._blocks: list[_Block] = []
        self._in_pass = False
        self._steps = False
        self._last = Position(1, 1)

    def read(self, text: str, number: int) -> None:
        """Read the next line; what is wrong with it goes to ``mistakes``."""
        try:
            tokens = list(_tokens(text, number))
            if tokens:
                self._last = tokens[0].at
                self._statement(_Line(tokens, Position(number, len(text.rstrip()) + 1)))
        except Mistake as mistake:
            self.mistakes.append(mistake)

    def finish(self) -> tuple[tuple[Statement, ...], tuple[Statement, ...]]:
        """Once per boot, and once per pass."""
        self._close_all()
        if not self._in_pass:
            self.mistakes.append(
                Mistake(self._last, "there is no `pass:`", "it stands before what each pass does")
            )
        elif not self._steps:
            self.mistakes.append(
                Mistake(self._last, "a pass holds no `step`, so nothing would be judged")
            )
        return tuple(self._once), tuple(self._each_pass)

    def _statement(self, line: _Line) -> None:
        at, keyword = line.at, line.one_of(_KEYWORDS, "a statement")
        if keyword == "pass":
            self._begin_pass(line, at)
        elif keyword == "end":
            self._end(line, at)
        elif keyword in _BLOCKS:
            self._open(line, keyword, at)
        else:
            self._steps = self._steps or keyword == "step"
            self._check_place(keyword, at)
            statement = _SIMPLE[keyword](line)
            line.finished()
            self._add(statement)

    def _begin_pass(self, line: _Line, at: Position) -> None:
        self._close_all()
        again, self._in_pass = self._in_pass, True
        if again:
            raise Mistake(at, "`pass:` stands here for the second time", "remove it")
        if not line.take_if(":"):
            raise Mistake(line.at, "expected : after `pass`")
        line.finished()

    def _open(self, line: _Line, keyword: str, at: Position) -> None:
        # Open it, whatever is wrong with its first line: its `end` is right.
        block = _Block(keyword, at, None, len(self.mistakes))
        outer, self._blocks = self._blocks, [*self._blocks, block]
        self._check_place(keyword, at, outer)
        close = _BLOCKS[keyword](line)
        line.finished()
        block.close = close

    def _end(self, line: _Line, at: Position) -> None:
        if not self._blocks:
            raise Mistake(at, "`end` ends no block")
        block = self._blocks.pop()
        if block.close is not None:
            self._add(block.close(tuple(block.body)))
        if block.keyword == "repeat" and not block.body and len(self.mistakes) == block.mistakes:
            self.mistakes.append(Mistake(block.at, "`repeat` repeats nothing"))
        line.finished()

    def _add(self, statement: Statement) -> None:
        if self._blocks:
            self._blocks[-1].body.append(statement)
        else:
            (self._each_pass if self._in_pass else self._once).append(statement)

    def _close_all(self) -> None:
        for block in self._blocks:
            self.mistakes.append(
                Mistake(block.at, f"the block that `{block.keyword}` opens has no `end`")
            )
        self._blocks = []

    def _check_place(self, keyword: str, at: Position, blocks: list[_Block] | None = None) -> None:
        blocks = self._blocks if blocks is None else blocks
        if keyword in _NOT_IN_ON and any(block.keyword == "on" for block in blocks):
            raise Mistake(at, f"`{keyword}` has no place in an `on` block", "move it out")
        if keyword in _UNJUDGED and not self._in_pass:
            raise Mistake(at, f"`{keyword}` has no place before `pass:`", "move it behind")
        if keyword == "repeat" and len(blocks) >= REPEAT_DEPTH:
            raise Mistake(at, f"more than {REPEAT_DEPTH} nested repeats")
