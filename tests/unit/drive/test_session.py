"""Session files: what a right one reads as, and what is said about each wrong one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.drive.session import (
    Command,
    CommandKind,
    parsed,
    read_session,
    session_names,
    session_path,
)
from qemu_diff.errors import ConfigError

PATH = Path("some/x.gdb")
GUEST_IMAGES = Path(__file__).parents[3] / "guest_images"
HEAD = "#! payload hvc\n"


def mistakes(text: str) -> list[str]:
    """What is said about a wrong text, without the file's name."""
    with pytest.raises(ConfigError) as raised:
        parsed(text, PATH)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{PATH}:") for line in lines)
    return [line.removeprefix(f"{PATH}:") for line in lines]


def one(line: str) -> Command:
    """The only command of a session."""
    (command,) = parsed(HEAD + line + "\n", PATH).commands
    return command


# --- right ones ---


def test_a_whole_session() -> None:
    session = parsed(
        """\
# what it is about
#! payload polling
#! vcpus 2
#! interrupts
#! writer in_loop+0x4
break *step_end
#! interrupt 0.25
  c
while $pc != poll
  stepi
end
#! monitor stop
#! reconnect
si 3
""",
        PATH,
    )
    assert (session.payload, session.vcpus, session.interrupts) == ("polling", 2, True)
    assert session.writers == (("in_loop", 4),)
    assert session.commands == (
        Command("break *step_end", CommandKind.OTHER),
        Command("c", CommandKind.CONTINUE, interrupt_after=0.25),
        Command("while $pc != poll\n  stepi\nend", CommandKind.STEPI, None),
        Command("stop", CommandKind.MONITOR),
        Command("reconnect", CommandKind.RECONNECT),
        Command("si 3", CommandKind.STEPI, 3),
    )
    assert [command.line for command in session.commands] == [6, 8, 9, 12, 13, 14]


@pytest.mark.parametrize(
    ("line", "kind", "count", "location"),
    [
        ("stepi", CommandKind.STEPI, 1, ""),
        ("ni 12", CommandKind.NEXTI, 12, ""),
        ("fin", CommandKind.FINISH, 1, ""),
        ("until", CommandKind.UNTIL, 1, ""),
        ("until *first_hvc + 4", CommandKind.UNTIL, 1, "first_hvc + 4"),
        ("advance *0x5a5a0010", CommandKind.ADVANCE, 1, "0x5a5a0010"),
        ("x/2i $pc", CommandKind.OTHER, 1, ""),
        ("python print(1)", CommandKind.OTHER, 1, ""),
    ],
)
def test_commands(line: str, kind: CommandKind, count: int, location: str) -> None:
    assert one(line) == Command(line, kind, count, location)


@pytest.mark.parametrize(
    "block",
    [
        "while $n\nnexti\nend",
        "if $n\nstepi\njump *4\nend",
        "commands 1\nsilent\nif $x0\nstepi\nend\nend",
        "python\nif True:\n  pass\nend",
    ],
)
def test_nothing_is_claimed_of_other_blocks(block: str) -> None:
    assert one(block) == Command(block, CommandKind.OTHER)


@pytest.mark.parametrize("name", list(session_names(GUEST_IMAGES)))
def test_our_own_sessions(name: str) -> None:
    path = session_path(GUEST_IMAGES, name)
    session = read_session(path)
    assert (GUEST_IMAGES / "payloads" / f"{session.payload}.S").is_file()
    assert path.read_text().startswith("# ")


# --- wrong ones ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: the session holds no command"),
        ("stepi\n", "1:1: no `#! payload NAME` says what L2 runs; add it"),
        (HEAD + "kill\n", "2:1: `kill` has no place in a session; it would end L1's QEMU, or gdb"),
        (HEAD + " disconnect", "2:2: `disconnect` has no place in a session; write #! reconnect"),
        (HEAD + "stepi 0", "2:7: expected a count, got '0'; from 1 to 10000"),
        (HEAD + "stepi $n", "2:7: expected a count, got '$n'; from 1 to 10000"),
        (HEAD + "advance x", "2:9: expected *ADDRESS after `advance`; write advance *x"),
        (HEAD + "finish 2", "2:8: expected the end of the line, got '2'"),
        (HEAD + "c&", "2:1: a command in the background has no end that could be judged"),
        (HEAD + "while 1\nstepi", "2:1: `while` has no `end`"),
        (HEAD + "while 1\n quit\nend", "3:2: `quit` has no place in a session; it would end L1's "
         "QEMU, or gdb"),
        (HEAD + "end", "2:1: `end` ends no block"),
        (HEAD + "#! interupt 2\nc", "2:4: 'interupt' is no directive; did you mean 'interrupt'?"),
        (HEAD + "#! interrupt soon\nc", "2:14: expected seconds, got 'soon'; at most 60"),
        (HEAD + "#! interrupt 1\n", "2:14: no command follows `#! interrupt`"),
        (HEAD + "#! interrupt 1\nx $pc", "3:1: `#! interrupt` before `x`, which lets L2 stand"),
        (HEAD + "#! interrupt 1\n#! reconnect\nc",
         "3:13: `#! interrupt` stands before a command of gdb's"),
        (HEAD + "#! writer 3+x\nc", "2:11: expected LABEL or LABEL+OFFSET, got '3+x'"),
        (HEAD + "#! vcpus 99\nc", "2:10: expected a number, got '99'; from 1 to 8"),
        (HEAD + HEAD + "c", "2:12: `#! payload` stands once, before the first command"),
    ],
)  # fmt: skip
def test_one_line_for_a_mistake(text: str, said: str) -> None:
    assert mistakes(text)[0] == said


def test_all_mistakes_at_once() -> None:
    assert [line[:3] for line in mistakes(HEAD + "kill\nstepi x\nend\n")] == ["2:1", "3:7", "4:1"]


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.gdb"
    path.write_bytes(b"stepi \xff")
    with pytest.raises(ConfigError, match="byte 0xff at offset 6 is not UTF-8"):
        read_session(path)
    with pytest.raises(ConfigError, match="can't be read"):
        read_session(tmp_path / "none.gdb")


WORDS = st.sampled_from(
    ["stepi", "si 2", "c", "while 1", "end", "#! interrupt 1", "#! reconnect", "until *a",
     "x/i $pc", "# why", "", "#! monitor info status", "commands", "python", "kill", "#!",
     "  nexti 3"]
)  # fmt: skip


@given(st.lists(st.one_of(WORDS, st.text(max_size=20)), max_size=12))
def test_any_text_is_a_session_or_an_error_with_places(lines: list[str]) -> None:
    text = HEAD + "\n".join(lines)
    try:
        session = parsed(text, PATH)
    except ConfigError as error:
        places = (error, *error.others)
    else:
        places = ()
    assert all(place.line >= 1 <= place.column for place in places)
    if places:
        return
    typed = "\n".join(command.text for command in session.commands)
    for line in text.split("\n"):
        if line.strip() and not line.strip().startswith("#"):
            assert line.strip().removesuffix("\r") in typed


@given(st.lists(st.sampled_from(["stepi", "c", "ni 4", "until *x", "info threads"]), min_size=1))
def test_each_line_is_a_command(lines: list[str]) -> None:
    with suppress(ConfigError):
        session = parsed(HEAD + "\n".join(lines), PATH)
        assert [command.text for command in session.commands] == lines
