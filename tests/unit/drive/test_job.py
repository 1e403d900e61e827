"""Jobs, read back as the step VMM reads them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qemu_diff.abi import (
    JOB_HEADER,
    OPERATION,
    PLACEMENT,
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
    pairs_job,
    periodic_job,
    quiet_job,
    sweep_job,
    table_job,
)
from qemu_diff.drive.script import STEPS_PER_PASS, parsed
from qemu_diff.errors import ConfigError
from qemu_diff.flood.placement import TIMER_KINDS, PairGrid, Placements, Sweep
from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES
from qemu_diff.model import FloodSource, GuestInterrupts, Payload

ENTRY, END = LOAD_ADDRESS + 8, LOAD_ADDRESS + 0x20
BLOB = bytes(range(0x24))
LABELS = ((ENTRY, "entry"), (ENTRY + 8, "vectors"), (END, "step_end"))
PAYLOAD = Payload("test", BLOB, LOAD_ADDRESS, ENTRY, ENTRY, END, labels=LABELS, classes=())
NAMED = ("moved", "resumed", "conditional", "second_hvc", "device_write")
"""Labels that the project's jobs name, each in a payload of theirs."""
ALL_LABELS = (*LABELS, *((ENTRY + 12, name) for name in NAMED))
SETUP, COUNTERS = LOAD_ADDRESS + 0x100, LOAD_ADDRESS + 0x2000
HANDLER = (LOAD_ADDRESS + 0x200, LOAD_ADDRESS + 0x300)
INTERRUPTED = replace(
    PAYLOAD, interrupts=GuestInterrupts(SETUP, HANDLER, LOAD_ADDRESS + 0x800, COUNTERS)
)
"""The same, assembled to take interrupts."""
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
placements = st.lists(
    st.tuples(st.integers(0, U32 - 1), st.sampled_from([*map(int, TimerKind)])), max_size=10
)

TIMER = FloodSource.HOST_TIMER


def table(*rows: tuple[int, int]) -> Placements:
    """Of (delay, kind)."""
    return np.array(list(rows), dtype=PLACEMENT)


@dataclass(frozen=True)
class Decoded:
    header: np.void
    operations: NDArray[np.void]
    placements: list[tuple[int, int]]


def decoded(job: Job) -> Decoded:
    encoded = job.encode(PAYLOAD)
    header = np.frombuffer(encoded, JOB_HEADER, 1)[0]
    body = encoded[JOB_HEADER.itemsize :]
    count = int(header["operations"])
    found = np.frombuffer(body, OPERATION, count)
    rows = np.frombuffer(body[found.nbytes :], PLACEMENT)
    assert len(rows) == header["placements"]
    assert zlib.crc32(body) == header["crc32"]
    return Decoded(header, found, rows.tolist())


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
@given(operations, placements)
def test_an_encoded_job_reads_back(rows: list[Operation], placed: list[tuple[int, int]]) -> None:
    job = decoded(Job(tuple(rows), table(*placed)))
    assert job.placements == placed
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
    assert header["cpu"] == 0


def test_the_header_says_on_which_cpu_l2_runs() -> None:
    encoded = quiet_job(ROUTINE, 3).encode(PAYLOAD, cpu=3)
    assert np.frombuffer(encoded, JOB_HEADER, 1)["cpu"] == 3


def test_the_header_says_where_l2_s_handler_is_or_that_there_is_none() -> None:
    names = ["counters", "handler_begin", "handler_end"]
    header = decoded(quiet_job(ROUTINE, 3)).header
    assert [int(header[name]) for name in names] == [0, 0, 0]
    header = np.frombuffer(quiet_job(ROUTINE, 3).encode(INTERRUPTED), JOB_HEADER, 1)[0]
    assert [int(header[name]) for name in names] == [COUNTERS, *HANDLER]


def test_any_change_of_the_body_shows_in_the_checksum() -> None:
    encoded = table_job(ROUTINE, 2, table((5, 0), (6, 1), (7, 2))).encode(PAYLOAD)
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
        alone_job(ROUTINE, TIMER, [(3, 5)]),
        table_job(ROUTINE, 1, table((5, 0))),
        pairs_job(ROUTINE, TIMER, PairGrid(1, 1, 5)),
        periodic_job(ROUTINE, TIMER, 1000, 5),
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
@given(st.integers(1, 5), placements)
def test_a_table_job_brings_its_placements_along(count: int, placed: list[tuple[int, int]]) -> None:
    job = table_job(ROUTINE, count, table(*placed))
    assert len(passes(job)) == count
    read = decoded(job)
    (timer,) = read.operations[read.operations["code"] == OperationCode.TIMER_TABLE]
    assert (timer["a"], timer["n"]) == (0, len(placed))
    assert OperationCode.TIMER_BURST not in read.operations["code"]
    assert read.placements == placed


def test_a_table_job_may_have_a_burst_for_each_placement() -> None:
    job = table_job(ROUTINE, 2, table((5, 2)), burst=4, spacing_ns=300)
    (burst,) = [one for one in job.operations if one.code is OperationCode.TIMER_BURST]
    assert burst == Operation(OperationCode.TIMER_BURST, n=3, a=300)


def test_a_burst_of_one_is_none() -> None:
    alone, burst = (table_job(ROUTINE, 2, table((5, 2)), burst=1, spacing_ns=ns) for ns in (0, 9))
    assert alone.operations == burst.operations


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (table_job(ROUTINE, 1, table((5, 0)), burst=2, spacing_ns=9), OperationCode.TIMER_TABLE),
        (table_job(ROUTINE, 1, table((5, 0)), burst=2, spacing_ns=9), OperationCode.TIMER_BURST),
        (pairs_job(ROUTINE, TIMER, PairGrid(1, 1, 5)), OperationCode.TIMER_SECOND),
        (periodic_job(ROUTINE, TIMER, 1000, 5), OperationCode.TIMER_PERIODIC),
    ],
)
def test_a_flood_is_there_before_the_first_step(job: Job, code: OperationCode) -> None:
    codes = decoded(job).operations["code"].tolist()
    assert codes.index(code) < codes.index(OperationCode.REPEAT)


@settings(deadline=None)
@given(st.integers(1, U32 - 1), st.integers(1, U32 - 1), st.integers(1, 60_000))
def test_pairs_make_a_pass_for_each_two_delays(first: int, step: int, side: int) -> None:
    job = pairs_job(ROUTINE, FloodSource.PPI, PairGrid(first, step, side))
    outer, inner = job.operations[1:3]
    assert job.passes == side * side
    assert (outer.code, inner.code) == (OperationCode.TIMER_SWEEP, OperationCode.TIMER_SECOND)
    assert (outer.n, inner.n) == (side, 1)
    for one in (outer, inner):
        assert (one.a, one.b % U32, one.b >> 32) == (first, step, side)
    job.encode(PAYLOAD)


def test_a_periodic_timer_runs_from_the_first_pass_to_the_last() -> None:
    job = periodic_job(ROUTINE, FloodSource.SIGNAL, 70_000, 5)
    begin, repeat, *each, end, count = job.operations[1:]
    assert begin == Operation(OperationCode.TIMER_PERIODIC, a=70_000, kind=TimerKind.SIGNAL)
    assert (repeat.code, repeat.n, tuple(each)) == (OperationCode.REPEAT, 5, ONE_PASS)
    assert end == Operation(OperationCode.TIMER_PERIODIC, kind=TimerKind.SIGNAL)
    assert count == Operation(OperationCode.INTERRUPTS)


def all_jobs(routine: Routine, source: FloodSource) -> list[Job]:
    return [
        sweep_job(routine, source, Sweep(1, 1, 5)),
        fill_job(routine, source, [5, 6]),
        alone_job(routine, source, [(3, 5), (0, 2)]),
        pairs_job(routine, source, PairGrid(1, 1, 5)),
        periodic_job(routine, source, 1000, 5),
    ]


def test_interrupts_are_counted_once_at_the_end() -> None:
    jobs = [
        quiet_job(ROUTINE, 3),
        table_job(ROUTINE, 3, table((5, 0))),
        *all_jobs(ROUTINE, TIMER),
        *all_jobs(routine_of("pass:\nstep\n", INTERRUPTED), FloodSource.LPI),
    ]
    for job in jobs:
        codes = [one.code for one in job.operations]
        assert codes[-1] is OperationCode.INTERRUPTS
        assert codes.count(OperationCode.INTERRUPTS) == 1


TIMERS = (
    OperationCode.TIMER_SWEEP,
    OperationCode.TIMER_SECOND,
    OperationCode.TIMER_PERIODIC,
)
"""Operations that have one source."""


@pytest.mark.parametrize(("source", "kind"), TIMER_KINDS.items())
def test_a_flood_names_the_kind_of_its_timer(source: FloodSource, kind: TimerKind) -> None:
    for job in all_jobs(ROUTINE, source):
        rows = decoded(job)
        timers = np.isin(rows.operations["code"], TIMERS)
        named = {*rows.operations["kind"][timers].tolist(), *(one for _, one in rows.placements)}
        assert named == {kind}
        assert set(rows.operations["kind"][~timers].tolist()) == {0}


# --- scripts ---

JOBS = Path(__file__).parents[3] / "guest_images" / "jobs"
X0, DBGBCR0 = 0x6030_0000_0010_0000, 0x6030_0000_0013_8005


def routine_of(text: str, payload: Payload = PAYLOAD) -> Routine:
    return compiled(parsed(text, Path("x.job")), payload)


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
                "a word there lies at 0x5a5a0000 to 0x5a61fffc",
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
    text = path.read_text()
    assert text.startswith("# ")
    assert compiled(parsed(text, path), replace(PAYLOAD, labels=ALL_LABELS)).each_pass


def test_the_default_job_steps_from_the_entry_to_the_end() -> None:
    assert routine_of((JOBS / "step.job").read_text()) == ROUTINE


# --- L2 that takes interrupts ---

CALL_SETUP = Operation(OperationCode.CALL, a=SETUP)
DRAIN = Operation(OperationCode.CALL)


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.job")), ids=lambda path: path.stem)
def test_l2_sets_itself_up_first_and_ends_what_it_handles_after_each_pass(path: Path) -> None:
    script = parsed(path.read_text(), path)
    quiet = compiled(script, replace(PAYLOAD, labels=ALL_LABELS))
    interrupted = compiled(script, replace(INTERRUPTED, labels=ALL_LABELS))
    codes = [[one.code for one in part] for part in (quiet.once, quiet.each_pass)]
    assert interrupted.once[0] == CALL_SETUP
    assert interrupted.each_pass[-1] == DRAIN
    assert [one.code for one in interrupted.once[1:]] == codes[0]
    assert [one.code for one in interrupted.each_pass[:-1]] == codes[1]


def test_what_l2_ends_is_in_the_pass_that_is_repeated() -> None:
    job = quiet_job(routine_of("pass:\nstep\n", INTERRUPTED), 7)
    assert job.passes == 7
    _, repeat, step, drain, _ = job.operations
    assert (repeat.code, repeat.a, step.code) == (OperationCode.REPEAT, 2, OperationCode.STEP)
    assert drain == DRAIN


def test_there_is_room_for_fewer_fills_where_each_pass_has_more_to_do() -> None:
    routine = routine_of("pass:\nstep\n", INTERRUPTED)
    most = routine.most_fills
    assert most < routine_of("pass:\nstep\n").most_fills
    assert len(fill_job(routine, TIMER, range(1, most + 1)).operations) <= MOST_OPERATIONS
    with pytest.raises(ValueError, match="65536"):
        fill_job(routine, TIMER, range(1, most + 2))


@pytest.mark.parametrize(
    ("value", "quiet", "interrupted"),
    [
        ("el1h", 0x3C5, 0x345),
        ("el0t", 0x3C0, 0x340),
        ("el1h|ss", 0x2003C5, 0x200345),
        ("0x3c5", 0x3C5, 0x3C5),
    ],
)
def test_l2_begins_with_irqs_unmasked_where_it_takes_any(
    value: str, quiet: int, interrupted: int
) -> None:
    def pstate(payload: Payload) -> int:
        return routine_of(f"pass:\nset pstate {value}\nstep\n", payload).each_pass[0].b

    assert pstate(PAYLOAD) == quiet
    assert pstate(INTERRUPTED) == interrupted
    assert pstate(PAYLOAD) == quiet  # the table of constants is as it was
