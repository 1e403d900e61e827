"""The driver ``gdb`` against a gdb that is a script, and GDB/MI records of every kind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fakes.gdb_mi import fake_gdb
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.drive.debugger import SIGTRAP, Debugger, Position, Stop
from qemu_diff.drive.gdb import Breakpoint, GdbDebugger, mi_string
from qemu_diff.drive.mi import mi_process, record_of
from qemu_diff.errors import DebuggerError, InfrastructureError

AFTER_STEP = Stop(0, SIGTRAP, Position(0x5A5A_0004, 0x3C5))


@contextmanager
def debugger(
    directory: Path,
    answers: Mapping[str, Sequence[str]] | None = None,
    *,
    seconds: float = 10,
    cancel: threading.Event | None = None,
    say: list[str] | None = None,
) -> Iterator[GdbDebugger]:
    program = fake_gdb(directory / "gdb", answers or {})
    deadline = time.monotonic() + seconds
    with mi_process(deadline, cancel or threading.Event(), str(program)) as mi:
        found = GdbDebugger(mi, [].append if say is None else say.append)
        found.start()
        found.connect(Path("/some/socket"))
        yield found


def test_a_step_as_the_user_sees_it(tmp_path: Path) -> None:
    shown: list[str] = []
    with debugger(tmp_path, say=shown) as gdb:
        as_protocol: Debugger = gdb
        assert as_protocol.step() == AFTER_STEP
        gdb.leave()
    assert shown == [
        "(gdb) target remote /some/socket",
        "(gdb) stepi",
        "0x000000005a5a0004 in entry ()",
        "(gdb) disconnect",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['^error,msg="Remote connection closed"'], "gdb refused -exec-step-instruction: 'Remote "
         "connection closed'"),
        (["EXIT 7"], "gdb has ended with status 7"),
        (["^running", "*running,thread-id={"], "gdb sent a damaged record: '*running,thread-id={'"),
        (["^running", '~"Remote communication error\\n"', '=thread-group-exited,id="i1"'],
         "gdb has lost L2: 'Remote communication error'"),
        (["^running", '*stopped,reason="signal-received",signal-name="SIGSEGV",thread-id="1"'],
         "gdb says that L2 got SIGSEGV"),
        (["^running", '*stopped,thread-id="9"'], "gdb names a thread 9, which L2 has not"),
        (["^done"], "gdb refused -exec-step-instruction: 'done'"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said_in_one_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    answers = {"-exec-step-instruction": lines}
    with debugger(tmp_path, answers) as gdb, pytest.raises(DebuggerError) as raised:
        gdb.step()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "answer", ["^done", "^done,register-values=[]", '^done,register-values=[{value="x"},{}]']
)
def test_registers_that_make_no_sense(tmp_path: Path, answer: str) -> None:
    answers = {"-data-list-register-values": [answer]}
    with debugger(tmp_path, answers) as gdb, pytest.raises(DebuggerError, match="gdb"):
        gdb.position()


def test_silence_ends_at_the_deadline(tmp_path: Path) -> None:
    answers = {"-exec-step-instruction": ["^running"]}
    asked = "^no answer of gdb to '-exec-step-instruction' in time$"
    silence = pytest.raises(DebuggerError, match=asked)
    with debugger(tmp_path, answers, seconds=1.5) as gdb, silence:
        gdb.step()


def test_cancelling_ends_a_wait_at_once(tmp_path: Path) -> None:
    cancel = threading.Event()
    with debugger(tmp_path, {"-exec-step-instruction": ["^running"]}, cancel=cancel) as gdb:
        gdb.request_step()
        timer = threading.Timer(0.2, cancel.set)
        timer.start()
        begun = time.monotonic()
        with pytest.raises(DebuggerError, match="called off"):
            gdb.await_stop()
        assert time.monotonic() - begun < 1


def test_gdb_is_gone_afterwards(tmp_path: Path) -> None:
    program = fake_gdb(tmp_path / "gdb", {})
    with mi_process(time.monotonic() + 5, threading.Event(), str(program)) as mi:
        pid = mi.pid
        assert os.getpgid(pid) == pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_gdb_that_cannot_be_started(tmp_path: Path) -> None:
    refused = pytest.raises(InfrastructureError, match=r"starting .*none: No such file")
    program, cancel = tmp_path / "none", threading.Event()
    with refused, mi_process(time.monotonic() + 5, cancel, str(program)):
        pass


def test_breakpoints_of_every_kind(tmp_path: Path) -> None:
    rows = (
        'bkpt={number="1",type="breakpoint",disp="keep",enabled="y",addr="0x5a5a0008",'
        'script={"silent","x/i $pc"}},'
        'bkpt={number="2",type="hw breakpoint",enabled="y",addr="0x5a5a000c",cond="$x0 == 0"},'
        'bkpt={number="3",type="hw watchpoint",enabled="y",what="-location cell"},'
        'bkpt={number="4",type="breakpoint",enabled="n",addr="0x5a5a0010"},'
        'bkpt={number="5",type="catchpoint",enabled="y",what="load"}'
    )
    answers = {
        "-break-list": [f'^done,BreakpointTable={{nr_rows="5",body=[{rows}]}}'],
        "-data-evaluate-expression": ['^done,value="8"'],
    }
    with debugger(tmp_path, answers) as gdb:
        assert gdb.breakpoints() == (
            Breakpoint(1, 0x5A5A_0008, 0, "breakpoint", conditional=False),
            Breakpoint(2, 0x5A5A_000C, 0, "hw breakpoint", conditional=True),
            Breakpoint(3, 8, 8, "hw watchpoint", conditional=False),
        )


def test_a_stop_that_a_command_follows_is_not_the_end(tmp_path: Path) -> None:
    stop = '*stopped,reason="{}",frame={{addr="0x5a5a0008",func="f",args=[]}},thread-id="1"'
    answers = {
        "-interpreter-exec": [
            "^running", '*running,thread-id="all"', stop.format("breakpoint-hit"),
            '*running,thread-id="all"', '~"0x5a5a000c in f ()\\n"',
            stop.format("end-stepping-range"),
        ],
    }  # fmt: skip
    shown: list[str] = []
    with debugger(tmp_path, answers, say=shown) as gdb:
        answer = gdb.console("continue")
    assert [stop["reason"] for stop in answer.stops] == ["breakpoint-hit", "end-stepping-range"]
    assert shown[-2:] == ["(gdb) continue", "0x5a5a000c in f ()"]


def test_a_refusal_is_what_the_user_sees(tmp_path: Path) -> None:
    answers = {"-interpreter-exec": ['&"No symbol.\\n"', '^error,msg="No symbol."']}
    with debugger(tmp_path, answers) as gdb:
        answer = gdb.console("print x")
    assert (answer.error, answer.printed, answer.stops) == ("No symbol.", "No symbol.", ())


@pytest.mark.parametrize(
    ("text", "string"), [("a b", '"a b"'), ('p "x"', '"p \\"x\\""'), ("a\\b\n", '"a\\\\b\\n"')]
)
def test_strings(text: str, string: str) -> None:
    assert mi_string(text) == string


PIECES = st.sampled_from(
    ["^done", "*stopped", "=x", "12", ",", "a=", '"v"', "{", "}", "[", "]", '"', "\\", "bkpt=", "~"]
)


@given(st.one_of(st.lists(PIECES, max_size=14).map("".join), st.text(max_size=40)))
def test_any_line_is_a_record_or_an_error_of_ours(line: str) -> None:
    with suppress(DebuggerError):
        record_of(line.replace("\n", " "))


VALUES = st.recursive(
    st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), max_size=6),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "thread-id", "b_2"]), inner, max_size=3),
    ),
    max_leaves=8,
)


def written(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}={written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(one) for one in value) + "]"
    return mi_string(str(value))


@given(st.dictionaries(st.sampled_from(["msg", "frame", "x-y"]), VALUES, max_size=3))
def test_a_record_is_read_as_it_was_written(payload: dict[str, object]) -> None:
    text = "".join(f",{key}={written(value)}" for key, value in payload.items())
    record = record_of(f"7^done{text}")
    assert (record.kind, record.message, record.token) == ("result", "done", 7)
    assert record.payload == payload
