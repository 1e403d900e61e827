"""Job files: what a right one reads as, and what is said about each wrong one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.abi import REGISTER_MDSCR_EL1, DebugControl, Occasion, WriteKind
from qemu_diff.drive.registers import REGISTERS, register_name
from qemu_diff.drive.script import (
    Debug,
    Get,
    Init,
    Kick,
    On,
    Repeat,
    Restore,
    Run,
    RunExit,
    Script,
    Set,
    Statement,
    Step,
    Term,
    Unmap,
    Value,
    Write,
    parsed,
    read_script,
    script_path,
)
from qemu_diff.errors import ConfigError

PATH = Path("some/x.job")
END = "pass:\nstep\n"


def mistakes(text: str) -> list[str]:
    """What is said about a wrong text, without the file's name."""
    with pytest.raises(ConfigError) as raised:
        parsed(text, PATH)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{PATH}:") for line in lines)
    return [line.removeprefix(f"{PATH}:") for line in lines]


# --- right ones ---


def test_a_whole_script() -> None:
    script = parsed(
        """\
# why
debug enable singlestep   # on
on eintr
\tset_bits pstate ss | 0b1
end

pass:
set pc entry+ 0x8
repeat 2
    step 3 until vectors
end
step
""",
        PATH,
    )
    assert script.name == "x"
    assert script.once == (
        Debug(DebugControl.ENABLE | DebugControl.SINGLESTEP),
        On(
            Occasion.EINTR,
            (Set(WriteKind.SET_BITS, "pstate", Value(Term("ss"), (("|", Term(1)),))),),
        ),
    )
    assert script.each_pass == (
        Set(WriteKind.VALUE, "pc", Value(Term("entry"), (("+", Term(8)),))),
        Repeat(2, (Step(3, Value(Term("vectors"))),)),
        Step(1000, None),
    )


@pytest.mark.parametrize("text", ["pass:\r\nstep\r\n", "pass :\nstep", "\n\npass:#\n\tstep\t# x"])
def test_layout_means_nothing(text: str) -> None:
    assert parsed(text, PATH) == parsed(END, PATH)


# --- wrong ones ---

WRONG = {
    "nothing": ("", "1:1: there is no `pass:`; it stands before what each pass does"),
    "no pass": ("\nkick\n", "2:1: there is no `pass:`; it stands before what each pass does"),
    "no step": ("pass:\nkick\n", "2:1: a pass holds no `step`, so nothing would be judged"),
    "unknown statement": (END + "kik\n", "3:1: 'kik' is not a statement; did you mean 'kick'?"),
    "unknown register": (END + "get pcc\n", "3:5: 'pcc' is not a register; did you mean 'pc'?"),
    "unknown occasion": (
        "on signal\nend\n" + END,
        "1:4: 'signal' is not an occasion; there are report, eintr, exit",
    ),
    "unknown exit": (END + "run mmi", "3:5: 'mmi' is not an exit; did you mean 'mmio'?"),
    "no value": (
        END + "set pc  # here",
        "3:15: expected a value (a number, a label or a constant), got the end of the line",
    ),
    "no register": (END + "get", "3:4: expected a register, got the end of the line"),
    "sign for a word": (END + "get +", "3:5: expected a register, got '+'"),
    "open sum": (
        END + "set pc entry|",
        "3:14: expected a value (a number, a label or a constant), got the end of the line",
    ),
    "too much": (END + "kick kick", "3:6: expected the end of the line, got 'kick'"),
    "bad number": (
        END + "set pc 0xg",
        "3:8: '0xg' is not a number; write 12, 0xc or 0b1100",
    ),
    "large number": (
        END + "set pc 0x10000000000000000",
        "3:8: 0x10000000000000000 does not fit into 64 bits",
    ),
    "very large number": (
        END + "set pc " + "9" * 5000,
        "3:8: the number does not fit into 64 bits",
    ),
    "no report": (
        "pass:\nstep 0\n",
        "2:6: expected a number of reports, got 0; from 1 to 4294967295",
    ),
    "odd character": (END + "set pc entry-4", "3:13: the character '-' has no meaning here"),
    "debug without enable": (
        "debug singlestep\n" + END,
        "1:7: expected `off` or `enable`; KVM ignores all else without enable",
    ),
    "breakpoint without use_hw": (
        "debug enable breakpoint=entry\n" + END,
        "1:14: `use_hw` and `breakpoint=VALUE` go together; add the other",
    ),
    "option twice": (
        "debug enable singlestep singlestep\n" + END,
        "1:25: 'singlestep' is not an option of `debug enable`;"
        " there are use_sw_bp, use_hw, breakpoint",
    ),
    "end of nothing": (END + "end\n", "3:1: `end` ends no block"),
    "no end": (END + "on exit\nkick\n", "3:1: the block that `on` opens has no `end`"),
    "no end before the pass": ("on exit\n" + END, "1:1: the block that `on` opens has no `end`"),
    "step in a block": (
        "on report\nstep\nend\n" + END,
        "2:1: `step` has no place in an `on` block; move it out",
    ),
    "block in a block": (
        "on report\non eintr\nend\nend\n" + END,
        "2:1: `on` has no place in an `on` block; move it out",
    ),
    "step without a pass": (
        "step\n" + END,
        "1:1: `step` has no place before `pass:`; move it behind",
    ),
    "repeat of nothing": (END + "repeat 2\nend\n", "3:1: `repeat` repeats nothing"),
    "deep repeats": (
        "pass:\n" + "repeat 2\n" * 4 + "step\n" + "end\n" * 4,
        "5:1: more than 3 nested repeats",
    ),
    "pass twice": (END + "pass:\n", "3:1: `pass:` stands here for the second time; remove it"),
    "pass without a colon": (
        "pass\nstep\n",
        "1:5: expected : after `pass`",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_script_is_told_in_one_line(case: str) -> None:
    text, expected = WRONG[case]
    assert mistakes(text) == [expected]


def test_mistakes_come_all_at_once_in_the_order_of_the_file() -> None:
    text = "on reprot\nstep\nkik\nend\nrepeat 2\nset pc\nend\npass:\nset x31 0\nstep x\n"
    places = [line.split(": ")[0] for line in mistakes(text)]
    assert places == ["1:4", "2:1", "3:1", "5:1", "6:7", "9:5", "10:6"]


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    path = script_path(tmp_path, "kick")
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}/jobs/kick.job: can't be read: ")):
        read_script(path)


def test_a_script_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.job").write_bytes(b"pass:\n\xff")
    with pytest.raises(ConfigError, match="byte 0xff at offset 6 is not UTF-8"):
        read_script(tmp_path / "x.job")


# --- any text ---

words = st.sampled_from(
    ["debug", "enable", "off", "use_hw", "breakpoint", "=", "on", "report", "end", "repeat", "pass",
     ":", "step", "until", "set", "get", "pc", "entry", "+", "|", "1", "0x", "#", "write", "run"]
)  # fmt: skip
nearly = st.lists(st.lists(words, max_size=5).map(" ".join), max_size=12).map("\n".join)


@settings(deadline=None)
@given(st.text() | nearly)
def test_any_text_is_a_script_or_has_located_mistakes(text: str) -> None:
    script = script_or_error(text)
    if isinstance(script, Script):
        assert parsed(str(script), PATH) == script
        return
    lines = text.split("\n")
    assert len(str(script).split("\n")) == 1 + len(script.others)
    for one in (script, *script.others):
        assert 1 <= one.line <= len(lines)
        assert 1 <= one.column <= len(lines[one.line - 1]) + 1


def script_or_error(text: str) -> Script | ConfigError:
    try:
        return parsed(text, PATH)
    except ConfigError as error:
        return error


terms = st.builds(
    Term,
    st.integers(0, 2**64 - 1) | st.from_regex(r"[A-Za-z_.$][A-Za-z0-9_.$]{0,5}", fullmatch=True),
)
values = st.builds(
    Value, terms, st.lists(st.tuples(st.sampled_from("+|"), terms), max_size=3).map(tuple)
)
registers = st.sampled_from(sorted(REGISTERS))
times = st.integers(1, 2**32 - 1)


simple = st.one_of(
    st.builds(Set, st.sampled_from(WriteKind), registers, values),
    st.builds(Get, registers),
    st.sampled_from([Debug(DebugControl(0)), Kick(), Init(), Unmap()]),
    st.builds(Debug, st.sampled_from([DebugControl(1), DebugControl(3), DebugControl(0x10003)])),
    st.builds(Debug, st.sampled_from([DebugControl(0x20001), DebugControl(0x30003)]), values),
    st.builds(Write, values, values),
    st.builds(Restore, values),
    st.builds(Run, st.sampled_from(RunExit)),
)
blocks = st.builds(On, st.sampled_from(Occasion), st.lists(simple, max_size=3).map(tuple))
steps = st.builds(Step, times, st.none() | values)


def repeated(body: st.SearchStrategy[Statement]) -> st.SearchStrategy[Statement]:
    return st.builds(Repeat, times, st.lists(body, min_size=1, max_size=3).map(tuple))


in_pass = simple | blocks | steps
in_pass |= repeated(in_pass | repeated(in_pass | repeated(in_pass)))
scripts = st.builds(
    Script,
    st.just(PATH),
    st.lists(simple | blocks, max_size=3).map(tuple),
    st.tuples(st.lists(in_pass, max_size=4).map(tuple), steps).map(lambda two: (*two[0], two[1])),
)


@settings(deadline=None)
@given(scripts)
def test_a_printed_script_reads_back(script: Script) -> None:
    assert parsed(str(script), PATH) == script


# --- registers ---


def test_registers_have_names_both_ways() -> None:
    assert len(set(REGISTERS.values())) == len(REGISTERS)
    assert all(register_name(number) == name for name, number in REGISTERS.items())
    assert register_name(REGISTER_MDSCR_EL1) == "mdscr_el1"
    assert register_name(0x6030_0000_0013_FFFF) == "0x603000000013ffff"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("x30", 0x6030_0000_0010_003C),
        ("sp", 0x6030_0000_0010_003E),
        ("pc", 0x6030_0000_0010_0040),
        ("pstate", 0x6030_0000_0010_0042),
        ("sp_el1", 0x6030_0000_0010_0044),
        ("elr_el1", 0x6030_0000_0010_0046),
        ("spsr_el1", 0x6030_0000_0010_0048),
        # ARM64_SYS_REG() of Linux arch/arm64/include/uapi/asm/kvm.h.
        ("sctlr_el1", 0x6030_0000_0013_C080),
        ("cpacr_el1", 0x6030_0000_0013_C082),
        ("esr_el1", 0x6030_0000_0013_C290),
        ("far_el1", 0x6030_0000_0013_C300),
        ("vbar_el1", 0x6030_0000_0013_C600),
        ("tpidr_el1", 0x6030_0000_0013_C684),
        ("tpidr_el0", 0x6030_0000_0013_DE82),
        ("dbgbvr0_el1", 0x6030_0000_0013_8004),
        ("dbgbcr1_el1", 0x6030_0000_0013_800D),
        ("dbgwvr2_el1", 0x6030_0000_0013_8016),
        ("dbgwcr3_el1", 0x6030_0000_0013_801F),
        ("mdscr_el1", 0x6030_0000_0013_8012),
    ],
)
def test_register_ids_are_kvm_s(name: str, number: int) -> None:
    assert REGISTERS[name] == number
