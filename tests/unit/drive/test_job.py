"""Jobs, read back as the step VMM reads them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qemu_diff.abi import (
    JOB_HEADER,
    OPERATION,
    PSTATE_EL1H_MASKED,
    REGISTER_MDSCR_EL1,
    REGISTER_PC,
    REGISTER_PSTATE,
    STEP_ABI_VERSION,
    DebugControl,
    Occasion,
    OperationCode,
    TimerKind,
    WriteKind,
)
from qemu_diff.drive.job import (
    MOST_OPERATIONS,
    STALL_NS,
    Job,
    Operation,
    Routine,
    alone_job,
    compiled,
    fill_job,
    quiet_job,
    sweep_job,
    table_job,
)
from qemu_diff.drive.script import STEPS_PER_PASS, parsed
from qemu_diff.errors import ConfigError
from qemu_diff.flood.placement import Sweep
from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES
from qemu_diff.model import FloodSource, Payload

ENTRY, END = LOAD_ADDRESS + 8, LOAD_ADDRESS + 0x20
BLOB = bytes(range(0x24))
LABELS = ((ENTRY, "entry"), (ENTRY + 8, "vectors"), (END, "step_end"))
PAYLOAD = Payload("test", BLOB, LOAD_ADDRESS, ENTRY, ENTRY, END, labels=LABELS, classes=())
STEP_ON = Operation(OperationCode.DEBUG, n=DebugControl.ENABLE | DebugControl.SINGLESTEP)
ONE_PASS = (
    Operation(OperationCode.SET_REG, a=REGISTER_PC, b=ENTRY),
    Operation(OperationCode.SET_REG, a=REGISTER_PSTATE, b=PSTATE_EL1H_MASKED),
    Operation(OperationCode.STEP, n=STEPS_PER_PASS, a=END),
)
ROUTINE = Routine((STEP_ON,), ONE_PASS)

U32, U64 = 2**32, 2**64

operations = st.lists(
    st.builds(
        Operation,
        st.sampled_from(OperationCode),
        st.integers(0, U32 - 1),
        st.integers(0, U64 - 1),
        st.integers(0, U64 - 1),
    ),
    max_size=10,
)
delay_tables = st.lists(st.integers(0, U32 - 1), max_size=10)

TIMER = FloodSource.HOST_TIMER


def table(*delays: int) -> NDArray[np.uint32]:
    return np.array(delays, dtype=np.uint32)


@dataclass(frozen=True)
class Decoded:
    header: np.void
    operations: NDArray[np.void]
    delays: list[int]


def decoded(job: Job) -> Decoded:
    encoded = job.encode(PAYLOAD)
    header = np.frombuffer(encoded, JOB_HEADER, 1)[0]
    body = encoded[JOB_HEADER.itemsize :]
    count = int(header["operations"])
    found = np.frombuffer(body, OPERATION, count)
    delays = np.frombuffer(body[found.nbytes :], "<u4")
    assert len(delays) == header["delays"]
    assert zlib.crc32(body) == header["crc32"]
    return Decoded(header, found, delays.tolist())


@dataclass(frozen=True)
class Pass:
    """One pass over the payload, and the delay that ``TIMER_SWEEP`` gives it."""

    registers: dict[int, int]
    until: int
    delay: int


def passes(job: Job) -> list[Pass]:
    """What a job comes to; the rules are those of guest_images/stepvmm/job.c."""
    rows = decoded(job).operations
    found: list[Pass] = []
    first, stride, index = 0, 0, 0
    while index < len(rows):
        one = rows[index]
        index += 1
        if one["code"] == OperationCode.TIMER_SWEEP:
            first, stride = int(one["a"]), int(one["b"])
        elif one["code"] == OperationCode.REPEAT:
            body = rows[index : index + int(one["a"])]
            assert len(body) == one["a"] > 0
            assert one["n"] > 0
            for iteration in range(int(one["n"])):
                found.append(pass_of(body, first + stride * iteration))
            index += len(body)
    return found


def pass_of(body: NDArray[np.void], delay: int) -> Pass:
    *writes, step = body
    assert {int(one["code"]) for one in writes} == {OperationCode.SET_REG}
    assert step["code"] == OperationCode.STEP
    assert step["n"] > 0
    return Pass({int(one["a"]): int(one["b"]) for one in writes}, int(step["a"]), delay)


# --- the encoding ---


@settings(deadline=None)
@given(operations, delay_tables)
def test_an_encoded_job_reads_back(rows: list[Operation], delays: list[int]) -> None:
    job = decoded(Job(tuple(rows), table(*delays)))
    assert job.delays == delays
    assert [
        Operation(
            OperationCode(int(one["code"])),
            int(one["n"]),
            int(one["a"]),
            int(one["b"]),
            TimerKind(int(one["kind"])),
        )
        for one in job.operations
    ] == rows


def test_the_header_says_what_the_job_is_for() -> None:
    header = decoded(quiet_job(ROUTINE, 3)).header
    assert header["magic"].tobytes() == b"QDIFFJOB"
    assert header["version"] == STEP_ABI_VERSION
    assert header["load_address"] == LOAD_ADDRESS
    assert header["memory_bytes"] == MEMORY_BYTES
    assert header["stall_ns"] == STALL_NS


def test_any_change_of_the_body_shows_in_the_checksum() -> None:
    encoded = table_job(ROUTINE, TIMER, 2, table(5, 6, 7)).encode(PAYLOAD)
    crc = int(np.frombuffer(encoded, JOB_HEADER, 1)["crc32"][0])
    for index in range(JOB_HEADER.itemsize, len(encoded)):
        damaged = bytearray(encoded)
        damaged[index] ^= 1
        assert zlib.crc32(damaged[JOB_HEADER.itemsize :]) != crc


@pytest.mark.parametrize(
    "too_large",
    [
        Operation(OperationCode.REPEAT, n=U32),
        Operation(OperationCode.TIMER_SWEEP, a=U64),
        Operation(OperationCode.TIMER_SWEEP, b=U64),
        Operation(OperationCode.TIMER_SWEEP, a=-1),
    ],
)
def test_what_struct_operation_has_no_room_for_is_refused_and_not_wrapped(
    too_large: Operation,
) -> None:
    with pytest.raises(OverflowError):
        Job((too_large,)).encode(PAYLOAD)


# --- the jobs ---


def test_every_pass_begins_at_the_entry_and_stops_at_the_end() -> None:
    assert passes(quiet_job(ROUTINE, 2)) == 2 * [
        Pass({REGISTER_PC: ENTRY, REGISTER_PSTATE: PSTATE_EL1H_MASKED}, END, delay=0)
    ]


@pytest.mark.parametrize(
    "job",
    [
        quiet_job(ROUTINE, 1),
        sweep_job(ROUTINE, TIMER, Sweep(1, 1, 5)),
        fill_job(ROUTINE, TIMER, [5]),
        table_job(ROUTINE, TIMER, 1, table(5)),
    ],
)
def test_what_is_done_once_comes_before_anything_else(job: Job) -> None:
    first = decoded(job).operations[0]
    assert (first["code"], first["n"]) == (OperationCode.DEBUG, 0b11)


def test_a_sweep_s_delay_grows_with_each_pass() -> None:
    job = sweep_job(ROUTINE, TIMER, Sweep(first_ns=1200, step_ns=32, passes=4))
    assert [one.delay for one in passes(job)] == [1200, 1232, 1264, 1296]


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), max_size=20))
def test_a_fill_job_has_one_pass_for_each_delay(delays: Sequence[int]) -> None:
    assert [one.delay for one in passes(fill_job(ROUTINE, TIMER, delays))] == delays


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10_000)), max_size=20))
def test_an_alone_job_has_one_placement_in_each_pass(placements: list[tuple[int, int]]) -> None:
    job = alone_job(ROUTINE, TIMER, placements)
    assert job.passes == len(placements)
    delays = job.placements["delay"].tolist()
    timers = [one for one in job.operations if one.code is OperationCode.TIMER_TABLE]
    tables = [delays[one.a : one.a + one.n] for one in timers]
    assert tables == [[*[0] * before, delay] for before, delay in placements]


def test_a_fill_job_has_room_for_no_more_than_records_can_name() -> None:
    most = ROUTINE.most_fills
    operations = fill_job(ROUTINE, TIMER, range(1, most + 1)).operations
    assert len(operations) <= MOST_OPERATIONS < len(operations) + 5
    with pytest.raises(ValueError, match="65536"):
        fill_job(ROUTINE, TIMER, range(1, most + 2))


def test_passes_are_those_of_the_outermost_repeats() -> None:
    script = "on report\nkick\nend\npass:\nrepeat 3\nrepeat 2\nstep\nend\nend\n"
    routine = routine_of(script)
    assert quiet_job(routine, 7).passes == 7
    assert sweep_job(routine, TIMER, Sweep(1, 1, 5)).passes == 5
    assert fill_job(routine, TIMER, [1, 2, 3]).passes == 3


@settings(deadline=None)
@given(st.integers(1, 5), delay_tables)
def test_a_table_job_brings_its_delays_along(count: int, delays: list[int]) -> None:
    job = table_job(ROUTINE, TIMER, count, table(*delays))
    assert len(passes(job)) == count
    read = decoded(job)
    (timer,) = read.operations[read.operations["code"] == OperationCode.TIMER_TABLE]
    assert (timer["a"], timer["n"]) == (0, len(delays))
    assert read.delays == delays


def test_the_table_is_there_before_the_first_step() -> None:
    codes = decoded(table_job(ROUTINE, TIMER, 1, table(5))).operations["code"].tolist()
    assert codes.index(OperationCode.TIMER_TABLE) < codes.index(OperationCode.REPEAT)


@pytest.mark.parametrize(
    ("source", "kind"),
    [(FloodSource.HOST_TIMER, TimerKind.INTERRUPT), (FloodSource.SIGNAL, TimerKind.SIGNAL)],
)
def test_a_flood_names_the_kind_of_its_timer(source: FloodSource, kind: TimerKind) -> None:
    jobs = (
        sweep_job(ROUTINE, source, Sweep(1, 1, 5)),
        fill_job(ROUTINE, source, [5]),
        table_job(ROUTINE, source, 1, table(5)),
    )
    for job in jobs:
        operations = decoded(job).operations
        timers = np.isin(operations["code"], [OperationCode.TIMER_SWEEP, OperationCode.TIMER_TABLE])
        assert set(operations["kind"][timers].tolist()) == {kind}
        assert set(operations["kind"][~timers].tolist()) == {0}


# --- scripts ---

JOBS = Path(__file__).parents[3] / "guest_images" / "jobs"
X0, DBGBCR0 = 0x6030_0000_0010_0000, 0x6030_0000_0013_8005


def routine_of(text: str) -> Routine:
    return compiled(parsed(text, Path("x.job")), PAYLOAD)


def operation_of(statement: str) -> Operation:
    """What one statement of a pass comes to."""
    first, step = routine_of(f"pass:\n{statement}\nstep\n").each_pass
    assert step.code is OperationCode.STEP
    return first


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        ("debug off", Operation(OperationCode.DEBUG)),
        ("debug enable", Operation(OperationCode.DEBUG, n=1)),
        ("debug enable singlestep use_sw_bp", Operation(OperationCode.DEBUG, n=0x1_0003)),
        (
            "debug enable singlestep use_hw breakpoint=entry+8",
            Operation(OperationCode.DEBUG, n=0x2_0003, a=ENTRY + 8, b=0x1E7),
        ),
        ("set x0 7", Operation(OperationCode.SET_REG, a=X0, b=7)),
        (
            "set_bits mdscr_el1 mdscr_ss|mdscr_kde|mdscr_mde",
            Operation(
                OperationCode.SET_REG, a=REGISTER_MDSCR_EL1, b=0xA001, kind=WriteKind.SET_BITS
            ),
        ),
        (
            "clear_bits pstate ss",
            Operation(
                OperationCode.SET_REG, a=REGISTER_PSTATE, b=1 << 21, kind=WriteKind.CLEAR_BITS
            ),
        ),
        ("set dbgbcr0_el1 bcr_el1", Operation(OperationCode.SET_REG, a=DBGBCR0, b=0x1E7)),
        ("set pstate el1h|ss", Operation(OperationCode.SET_REG, a=REGISTER_PSTATE, b=0x2003C5)),
        ("set pstate el0t", Operation(OperationCode.SET_REG, a=REGISTER_PSTATE, b=0x3C0)),
        ("set pc begin", Operation(OperationCode.SET_REG, a=REGISTER_PC, b=ENTRY)),
        ("get pc", Operation(OperationCode.GET_REG, a=REGISTER_PC)),
        ("kick", Operation(OperationCode.KICK)),
        ("init", Operation(OperationCode.VCPU_INIT)),
        ("unmap", Operation(OperationCode.UNMAP)),
        ("write vectors brk0", Operation(OperationCode.WRITE, a=ENTRY + 8, b=0xD420_0000)),
        ("restore entry", Operation(OperationCode.WRITE, a=ENTRY, b=0x0B0A_0908)),
        ("restore step_end+16", Operation(OperationCode.WRITE, a=END + 16, b=0)),
        ("run", Operation(OperationCode.RUN, a=4)),
        ("run mmio", Operation(OperationCode.RUN, a=6)),
        ("run system_event", Operation(OperationCode.RUN, a=24)),
        ("step 1", Operation(OperationCode.STEP, n=1, a=END)),
        ("step until vectors", Operation(OperationCode.STEP, n=STEPS_PER_PASS, a=ENTRY + 8)),
    ],
)
def test_a_statement_is_one_operation(statement: str, operation: Operation) -> None:
    if operation.code is OperationCode.STEP:
        (done,) = routine_of(f"pass:\n{statement}\n").each_pass
    else:
        done = operation_of(statement)
    assert done == operation


def test_a_block_s_operations_follow_it() -> None:
    routine = routine_of("on eintr\nkick\ninit\nend\npass:\nrepeat 3\nstep\nend\non exit\nend\n")
    assert [(one.code, one.kind, one.n, one.a) for one in routine.once] == [
        (OperationCode.ON, Occasion.EINTR, 0, 2),
        (OperationCode.KICK, 0, 0, 0),
        (OperationCode.VCPU_INIT, 0, 0, 0),
    ]
    assert [(one.code, one.kind, one.n, one.a) for one in routine.each_pass] == [
        (OperationCode.REPEAT, 0, 3, 1),
        (OperationCode.STEP, 0, STEPS_PER_PASS, END),
        (OperationCode.ON, Occasion.EXIT, 0, 0),
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "set pc vektors\npass:\nset x0 nix\nstep\n",
            [
                "x.job:1:8: the payload test has no label 'vektors'; did you mean 'vectors'?",
                "x.job:3:8: the payload test has no label 'nix'",
            ],
        ),
        (
            "pass:\nset x0 0xffffffffffffffff+1\nstep\n",
            [
                "x.job:2:8: 0xffffffffffffffff+1 is 0x10000000000000000, "
                "which does not fit into 64 bits"
            ],
        ),
        (
            "pass:\nwrite entry 0x100000000\nrestore 16\nstep\n",
            [
                "x.job:2:13: 0x100000000 is 0x100000000, which does not fit into 32 bits",
                "x.job:3:9: 0x10 is 0x10, outside of L2's memory; "
                "a word there lies at 0x5a5a0000 to 0x5a5afffc",
            ],
        ),
    ],
)
def test_what_a_payload_can_t_mean_is_told(text: str, lines: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        routine_of(text)
    assert str(raised.value).splitlines() == lines


def test_a_script_that_records_can_t_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="comes to 65538 operations; a job has at most 65536"):
        routine_of("pass:\nstep\n" + "kick\n" * (MOST_OPERATIONS - 1))


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.job")), ids=lambda path: path.stem)
def test_a_job_of_the_project_is_right(path: Path) -> None:
    labels = (
        *LABELS,
        *((ENTRY + 12, name) for name in ("moved", "resumed", "conditional", "second_hvc")),
    )
    payload = Payload("test", BLOB, LOAD_ADDRESS, ENTRY, ENTRY, END, labels=labels, classes=())
    text = path.read_text()
    assert text.startswith("# ")
    assert compiled(parsed(text, path), payload).each_pass


def test_the_default_job_steps_from_the_entry_to_the_end() -> None:
    assert routine_of((JOBS / "step.job").read_text()) == ROUTINE
