"""A debugger's job, on a small machine that really runs payloads, judged by the whole chain."""

from __future__ import annotations

import random
import re
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import capstone
import numpy as np
import pytest
from fakes.debuggee import TAKES_IRQ, Debuggee, Event, Interruption
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qemu_diff.abi import (
    PSTATE_EL1H_MASKED,
    REGISTER_MDSCR_EL1,
    REGISTER_PC,
    STEPPING_CONTROL,
    TRUTH_ABI_VERSION,
    TRUTH_HEADER,
    TRUTH_HEADER_BYTES,
    TRUTH_MAGIC,
    TRUTH_RECORD,
    Mark,
    Occasion,
    OperationCode,
    RecordFlag,
    RecordKind,
    SharedState,
    TruthKind,
    TruthRecords,
    WriteKind,
    core_register,
)
from qemu_diff.compare.contract import Judged, Steps, judge
from qemu_diff.compare.decode import program_of
from qemu_diff.drive.debugged_job import DebuggedJob, DebuggedPayload, check_debuggable
from qemu_diff.drive.debugger import Position, Stop
from qemu_diff.drive.job import Job, Operation, Routine, compiled, quiet_job
from qemu_diff.drive.lines import Lines, Qtest, lines_for
from qemu_diff.drive.registers import REGISTERS
from qemu_diff.drive.script import parsed
from qemu_diff.drive.stop_records import StopRecords
from qemu_diff.errors import ConfigError, DebuggerError, UserError
from qemu_diff.guest.image import LOAD_ADDRESS, build_payload
from qemu_diff.guest.shared import seal_log, write_records
from qemu_diff.model import FloodSource, Payload
from qemu_diff.trace.trace import Trace, read_trace
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.reader import mark_truth

GUEST_IMAGES = Path(__file__).parents[3] / "guest_images"
PAYLOADS = sorted(path.stem for path in (GUEST_IMAGES / "payloads").glob("*.S"))
JOBS = sorted(path.stem for path in (GUEST_IMAGES / "jobs").glob("*.job"))

PLAIN = ("straightline", "hvc", "mixed", "mmio_user", "trapped_sysreg", "own_exceptions")
"""With branches of every kind, calls into KVM, user space's MMIO, and exceptions of L2's own."""

_COMPILED = TemporaryDirectory(prefix="qemu-diff-payloads-")


@cache
def payload_named(name: str, *, interrupts: bool = False) -> Payload:
    return build_payload(name, GUEST_IMAGES, Path(_COMPILED.name), interrupts=interrupts)


def routine_of(payload: Payload, name: str = "step") -> Routine:
    path = GUEST_IMAGES / "jobs" / f"{name}.job"
    return compiled(parsed(path.read_text(), path), payload)


def sealed_truth(records: TruthRecords) -> bytes:
    """As the plugin leaves it, without a mark."""
    header = np.zeros(1, TRUTH_HEADER)
    header["magic"], header["version"] = TRUTH_MAGIC, TRUTH_ABI_VERSION
    header["record_bytes"], header["sealed"] = TRUTH_RECORD.itemsize, 1
    header["count"], header["crc32"] = len(records), zlib.crc32(records.tobytes())
    return header.tobytes().ljust(TRUTH_HEADER_BYTES, b"\0") + records.tobytes()


@dataclass(frozen=True)
class Boot:
    """What a boot left behind, read back from its files."""

    machine: Debuggee
    stops: StopRecords
    trace: Trace

    @property
    def steps(self) -> Steps:
        trace = self.trace
        program = program_of(self.machine.payload)
        return judge(trace.records, trace.truth, trace.phantom, program)

    @property
    def lost_at(self) -> list[int]:
        """The instructions whose steps were lost; any other violation is an error."""
        steps = self.steps
        assert {*steps.outcome.tolist()} <= {Judged.OK, Judged.LOST_STEP}
        return [int(pc) for pc in steps.instruction[steps.outcome == Judged.LOST_STEP]]


def run(job: Job, machine: Debuggee) -> Boot:
    stops = StopRecords(lambda: len(machine))
    DebuggedJob(machine, machine.position, machine.payload, stops).run(job)
    stops.check_agreement()
    with TemporaryDirectory() as name:
        records, truth, log = (Path(name) / one for one in ("records", "truth", "log"))
        write_records(records, stops.records, SharedState.DONE)
        truth.write_bytes(sealed_truth(machine.records))
        mark_truth(truth, stops.returns)
        seal_log(log)
        return Boot(machine, stops, read_trace(records, truth, log, PhantomRule.STEP_STATE))


def stepped(name: str, passes: int, *, interrupts: bool = False, **machine: object) -> Boot:
    payload = payload_named(name, interrupts=interrupts)
    debuggee = Debuggee(payload, **machine)  # type: ignore[arg-type]
    return run(quiet_job(routine_of(payload), passes), debuggee)


def executed(boot: Boot) -> list[int]:
    truth = boot.trace.truth
    real = (truth["kind"] == TruthKind.INSTRUCTION) & ~boot.trace.phantom
    return [int(pc) for pc in truth["pc"][real]]


# --- the chain -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_a_right_machine_keeps_the_contract_step_by_step(name: str) -> None:
    boot = stepped(name, 2)

    assert boot.lost_at == []
    assert len(boot.steps) == len(executed(boot)) == len(boot.stops.returns) > 7
    assert {*boot.steps.executed.tolist()} == {1}
    assert boot.trace.records["pc"][-1] == boot.machine.payload.end


def test_the_fake_takes_the_branches_that_the_payload_says_it_takes() -> None:
    boot = stepped("straightline", 1)
    at = {name: address for address, name in boot.machine.payload.labels}

    assert at["wrong"] not in executed(boot)
    assert executed(boot).count(at["loop"]) == 3
    assert executed(boot).count(at["leaf"]) == 2


def test_a_call_into_kvm_is_one_step_entered_again_in_active_pending() -> None:
    boot = stepped("hvc", 1)
    pending = boot.steps.instruction[boot.steps.active_pending]
    at = {name: address for address, name in boot.machine.payload.labels}

    assert pending.tolist() == [at["first_hvc"], at["second_hvc"]]


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), passes=st.integers(1, 3))
def test_steps_are_lost_where_the_machine_loses_them(
    name: str, data: st.DataObject, passes: int
) -> None:
    payload = payload_named(name)
    everywhere = range(payload.begin, payload.end, 4)
    buggy = data.draw(st.frozensets(st.sampled_from(everywhere), min_size=1))

    boot = stepped(name, passes, too_many_at=buggy)

    assert boot.lost_at == boot.machine.lost_at
    assert boot.machine.lost_at or not buggy.intersection(executed(boot))


EVENTS = st.dictionaries(
    st.integers(0, 60), st.builds(Interruption, st.booleans()), min_size=1, max_size=12
)


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=12, deadline=None)
@given(events=EVENTS, data=st.data())
def test_a_stop_from_outside_is_no_report_and_hides_none(
    name: str, events: dict[int, Event], data: st.DataObject
) -> None:
    payload = payload_named(name)
    everywhere = range(payload.begin, payload.end, 4)
    buggy = data.draw(st.frozensets(st.sampled_from(everywhere), max_size=2))

    boot = stepped(name, 2, events=events, too_many_at=buggy)

    assert boot.lost_at == boot.machine.lost_at
    runs = boot.trace.records[boot.trace.records["kind"] == RecordKind.RUN]
    interrupted = (runs["flags"] & RecordFlag.EINTR) != 0
    stood_still = [before for before, after in boot.machine.stopped_at if before == after]
    assert runs["pc"][interrupted].tolist() == stood_still
    assert boot.stops.stopped_on_the_way == len(boot.machine.stopped_at)
    assert boot.stops.stopped_on_the_way == sum(number < boot.machine.steps for number in events)
    assert len(boot.steps) == len(runs) - len(stood_still)
    assert {*runs["error"][interrupted].tolist()} <= {-4}
    assert not runs["error"][~interrupted].any()


@pytest.mark.parametrize("name", PLAIN)
def test_a_step_is_found_lost_though_somebody_stopped_l2_behind_it(name: str) -> None:
    """PC has moved on, so the stop is a report: of two instructions."""
    payload = payload_named(name)
    everywhere = frozenset(range(payload.begin, payload.end - 4, 4))
    events: dict[int, Event] = dict.fromkeys(range(200), Interruption(executed=True))

    boot = stepped(name, 2, events=events, too_many_at=everywhere)

    assert boot.lost_at == boot.machine.lost_at != []
    moved = sum(before != after for before, after in boot.machine.stopped_at)
    assert boot.stops.stopped_on_the_way == boot.machine.steps
    assert len(boot.steps) == moved


@pytest.mark.parametrize("name", PLAIN)
def test_a_step_is_found_lost_after_stops_before_its_instruction(name: str) -> None:
    payload = payload_named(name)
    everywhere = frozenset(range(payload.begin, payload.end - 4, 4))
    events: dict[int, Event] = {
        number: Interruption(executed=False) for number in range(200) if number % 3
    }

    boot = stepped(name, 2, events=events, too_many_at=everywhere)

    assert boot.lost_at == boot.machine.lost_at != []
    stopped = boot.stops.stopped_on_the_way
    assert stopped + len(boot.steps) == boot.machine.steps == len(boot.stops.returns)
    records = boot.stops.records
    controls = records["detail"][records["kind"] == RecordKind.DEBUG_CONTROL][:, 0].tolist()
    assert controls == [STEPPING_CONTROL, *[0, STEPPING_CONTROL] * stopped]


def test_a_branch_by_register_that_goes_astray_is_seen() -> None:
    """What the register held before the step is what the step is judged by."""

    class Astray(Debuggee):
        def step(self) -> Stop:
            before = self.position().pc
            stop = super().step()
            if DebuggedPayload(self.payload).word(before) & 0xFFFF_FC1F != 0xD61F_0000:
                return stop
            self.go(stop.position.pc + 4)
            return replace(stop, position=self.position())

    payload = payload_named("straightline")
    boot = run(quiet_job(routine_of(payload), 1), Astray(payload))
    wrong = boot.steps.instruction[boot.steps.outcome != Judged.OK]

    assert [DebuggedPayload(payload).word(int(pc)) for pc in wrong] == [0xD61F_0100]  # br x8


def test_branch_registers_are_those_before_the_step() -> None:
    boot = stepped("straightline", 1)
    records, payload = boot.trace.records, boot.machine.payload
    at = {name: address for address, name in payload.labels}
    told = records[(records["flags"] & RecordFlag.BRANCH_REGISTER) != 0]
    # ret (from bl), blr x8, ret, br x8
    calls = [pc + 4 for pc in executed(boot) if DebuggedPayload(payload).word(pc) >> 26 == 0b100101]

    assert told["branch_register"].tolist() == told["pc"].tolist()
    assert told["pc"][:2].tolist() == [calls[0], at["leaf"]]
    assert len(told) == 4


def test_an_eret_s_target_is_in_elr() -> None:
    boot = stepped("own_exceptions", 1)
    records, payload = boot.trace.records, boot.machine.payload
    told = records[(records["flags"] & RecordFlag.BRANCH_REGISTER) != 0]
    erets = [pc for pc in executed(boot) if DebuggedPayload(payload).word(pc) == 0xD69F03E0]

    assert len(told) == len(erets) > 3
    assert told["branch_register"].tolist() == told["pc"].tolist()


@pytest.mark.parametrize("job", ["step", "self-branch", "shifted"])
def test_a_debugger_may_do_jobs_of_steps_and_writes(job: str) -> None:
    name = "self_branch" if job == "self-branch" else "straightline"
    payload = payload_named(name)
    routine = routine_of(payload, job)
    check_debuggable(routine, job)

    boot = run(quiet_job(routine, 2), Debuggee(payload))

    assert boot.lost_at == []
    assert len(boot.steps)
    assert boot.stops.records["iteration"].max() == 1


# --- interrupts ----------------------------------------------------------------------------------


def disassembled(payload: Payload) -> list[tuple[int, str]]:
    """The payload's instructions; what is data reads as one, too."""
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    decoder.skipdata = True
    return [
        (one.address, f"{one.mnemonic} {one.op_str}".strip())
        for one in decoder.disasm(payload.blob, payload.load_address)
    ]


def branch_behind_done(payload: Payload, begin: int, target: int | None) -> int:
    """The first ``b`` behind a ``say_done``, at or after ``begin``, and to where it must go."""
    listing = [(address, text) for address, text in disassembled(payload) if address >= begin]
    done = [index for index, (_, text) in enumerate(listing) if text == "str w9, [x9, #8]"]
    address, text = listing[done[0] + 1]
    assert text == f"b #{target or address:#x}"
    return address


@pytest.mark.parametrize("name", PAYLOADS)
def test_set_up_and_pass_end_where_l2_says_that_it_is_done(name: str) -> None:
    payload = payload_named(name, interrupts=True)
    assert payload.interrupts is not None
    setup = branch_behind_done(payload, payload.interrupts.setup, None)
    end = branch_behind_done(payload, payload.end, payload.end)

    class Teleports(Debuggee):
        """Everything between is somebody else's: only where the runs go to counts."""

        def run_to(self, address: int) -> Stop:
            self.ran_to.append(address)
            self.go(address)
            return Stop(0, 5, self.position())

    machine = Teleports(payload)
    job = Job((Operation(OperationCode.CALL, a=payload.interrupts.setup),) * 2)
    stops = StopRecords(lambda: 0)
    driver = DebuggedJob(machine, machine.position, payload, stops)
    driver.run(job)
    assert (
        machine.written
        == [
            ("pc", payload.interrupts.setup),
            ("cpsr", PSTATE_EL1H_MASKED),
        ]
        * 2
    )
    driver.run(Job((Operation(OperationCode.CALL),)))

    assert machine.ran_to == [setup, setup, end]
    assert len(machine.written) == 4


@pytest.mark.parametrize("name", ["straightline", "hvc", "sgi"])
@example(irqs={0, 101}, stopped=set(), executed_first=False)
@settings(max_examples=8, deadline=None)
@given(
    irqs=st.sets(st.integers(0, 120), max_size=4),
    stopped=st.sets(st.integers(0, 120), max_size=3),
    executed_first=st.booleans(),
)
def test_a_stepped_handler_is_judged_like_everything_else(
    name: str, irqs: set[int], stopped: set[int], executed_first: bool
) -> None:
    events: dict[int, Event] = dict.fromkeys(stopped, Interruption(executed_first))
    events |= dict.fromkeys(irqs, TAKES_IRQ)

    boot = stepped(name, 2, interrupts=True, events=events)

    assert boot.lost_at == []
    payload = boot.machine.payload
    assert payload.interrupts is not None
    assert len(boot.machine.ran_to) == 1 + 2
    runs = boot.trace.records[boot.trace.records["kind"] == RecordKind.RUN]
    at_vector = runs[(runs["flags"] & RecordFlag.AT_VECTOR) != 0]
    vector = at_vector[at_vector["pc"] == payload.interrupts.vectors + 0x280]
    assert len(vector) >= len(irqs & {0} - stopped)
    assert not (vector["detail"][:, 1] & 0x80).any()


def test_an_interrupt_s_vector_comes_with_where_it_came_from() -> None:
    boot = stepped("straightline", 1, interrupts=True, events={3: TAKES_IRQ})
    payload, runs = boot.machine.payload, boot.trace.records
    runs = runs[runs["kind"] == RecordKind.RUN]
    assert payload.interrupts is not None
    (vector,) = runs[runs["pc"] == payload.interrupts.vectors + 0x280]

    assert vector["flags"] & RecordFlag.AT_VECTOR
    assert vector["detail"].tolist() == [payload.entry + 12, 0x345, 0, 0]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_lost_steps_of_a_payload_that_takes_interrupts(data: st.DataObject) -> None:
    payload = payload_named("hvc", interrupts=True)
    everywhere = range(payload.begin, payload.end - 4, 4)
    buggy = data.draw(st.frozensets(st.sampled_from(everywhere), min_size=1))

    boot = stepped("hvc", 2, interrupts=True, too_many_at=buggy)

    assert boot.lost_at == boot.machine.lost_at != []


def test_a_call_is_not_judged_and_stepping_goes_on_after_it() -> None:
    boot = stepped("hvc", 1, interrupts=True)
    records = boot.trace.records
    runs = records[records["kind"] == RecordKind.RUN]
    unstepped = runs[(runs["flags"] & RecordFlag.STEPPING) == 0]

    assert unstepped["pc"].tolist() == boot.machine.ran_to
    assert len(boot.steps) == len(runs) - 2
    wanted = records["detail"][records["kind"] == RecordKind.DEBUG_CONTROL][:, 0]
    assert wanted.tolist() == [0, STEPPING_CONTROL, STEPPING_CONTROL, 0, STEPPING_CONTROL]


def test_a_payload_without_interrupts_has_nothing_to_be_called() -> None:
    payload = payload_named("hvc")
    with pytest.raises(DebuggerError, match=r"^the payload has nothing to be called$"):
        run(Job((Operation(OperationCode.CALL),)), Debuggee(payload))


# --- what a debugger writes and reads ------------------------------------------------------------


def written_by(*operations: Operation) -> Debuggee:
    machine = Debuggee(payload_named("hvc"), registers={"x3": 0xFF00, "sp": 8})
    stops = StopRecords(lambda: 0)
    DebuggedJob(machine, machine.position, machine.payload, stops).run(Job(operations))
    told = stops.records[stops.records["kind"] == RecordKind.SET_REGISTER]["detail"][:, 1]
    assert [value for _, value in machine.written] == told.tolist()
    return machine


def test_registers_are_written_by_gdb_s_names() -> None:
    names = {f"x{number}": f"x{number}" for number in range(31)}
    for name, of_gdb in {**names, "sp": "sp", "pc": "pc", "pstate": "cpsr"}.items():
        one = Operation(
            OperationCode.SET_REG, a=REGISTERS[name], b=0x5A5A_0000, kind=WriteKind.VALUE
        )
        assert written_by(one).written == [(of_gdb, 0x5A5A_0000)]


def test_bits_are_set_and_cleared_in_what_is_there() -> None:
    x3 = REGISTERS["x3"]
    machine = written_by(
        Operation(OperationCode.SET_REG, a=x3, b=0x11, kind=WriteKind.SET_BITS),
        Operation(OperationCode.SET_REG, a=x3, b=0x0F01, kind=WriteKind.CLEAR_BITS),
    )
    assert machine.written == [("x3", 0xFF11), ("x3", 0xF010)]


def test_the_passes_are_those_of_the_outermost_repeat() -> None:
    payload = payload_named("hvc")
    machine = Debuggee(payload)
    inner = Operation(OperationCode.REPEAT, n=2, a=1)
    step = Operation(OperationCode.STEP, n=1, a=payload.end)
    pc = Operation(OperationCode.SET_REG, a=REGISTER_PC, b=payload.entry, kind=WriteKind.VALUE)
    outer = Operation(OperationCode.REPEAT, n=3, a=3)
    boot = run(Job((outer, pc, inner, step, outer, pc, inner, step)), machine)

    passes = boot.stops.records[boot.stops.records["kind"] == RecordKind.PASS]
    assert passes["detail"][:, 0].tolist() == [*range(6)]
    assert machine.steps == 2 * 3 * 2


class Told(Lines):
    """Lines that only note where L2 stood."""

    def __init__(self, machine: Debuggee) -> None:
        left, self.right = socket.socketpair()
        qtest = Qtest(left, "/gic")
        super().__init__(qtest, machine.payload, machine.read_memory, random.Random(0))
        self.told: list[int] = []

    def between(self, pc: int) -> None:
        self.told.append(pc)


def test_what_interrupts_is_told_of_each_report_and_of_nothing_else() -> None:
    payload = payload_named("hvc", interrupts=True)
    events: dict[int, Event] = {3: Interruption(executed=False), 5: Interruption(executed=True)}
    machine = Debuggee(payload, events=events)
    stops, lines = StopRecords(lambda: len(machine)), Told(machine)

    DebuggedJob(machine, machine.position, payload, stops, lines).run(
        quiet_job(routine_of(payload), 1)
    )

    stood_still, moved = machine.stopped_at
    assert stood_still[0] == stood_still[1]
    assert lines.told == [*range(payload.entry + 4, payload.end + 4, 4)]
    assert moved[1] in lines.told


def test_what_was_sent_is_recorded_where_the_job_asks_for_it() -> None:
    payload = payload_named("hvc", interrupts=True)
    machine = Debuggee(payload)
    stops, lines = StopRecords(lambda: len(machine)), Told(machine)
    lines.lines += lines_for([FloodSource.PPI])
    job = Job((Operation(OperationCode.INTERRUPTS),))

    DebuggedJob(machine, machine.position, payload, stops, lines).run(job)
    assert stops.records["kind"].tolist() == [RecordKind.SOURCE, RecordKind.GUEST]
    DebuggedJob(machine, machine.position, payload, stops).run(job)
    assert len(stops.records) == 2


def test_a_monitor_that_shows_another_place_is_told() -> None:
    payload = payload_named("hvc")
    machine = Debuggee(payload)
    stops = StopRecords(lambda: len(machine))

    def elsewhere() -> Position:
        return replace(machine.position(), pc=machine.position().pc + 4)

    DebuggedJob(machine, elsewhere, payload, stops).run(quiet_job(routine_of(payload), 1))
    with pytest.raises(DebuggerError, match=r"^at stop 0 the driver shows .* \(and at 8 more\)$"):
        stops.check_agreement()


# --- words and branches --------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-(1 << 40), -0x1000, -12, -8, -4, 0x1000, 1 << 40])
def test_there_are_no_instructions_outside_of_the_payload(offset: int) -> None:
    payload = payload_named("hvc")
    end = 0 if offset < 0 else len(payload.blob) & ~3
    assert DebuggedPayload(payload).word(LOAD_ADDRESS + offset + end) == 0


def test_words_are_the_payload_s() -> None:
    payload = payload_named("hvc")
    l2 = DebuggedPayload(payload)
    words = np.frombuffer(payload.blob[: len(payload.blob) & ~3], "<u4").tolist()
    assert [l2.word(payload.load_address + 4 * index) for index in range(len(words))] == words


def test_a_branch_that_is_not_there_is_the_user_s_mistake() -> None:
    payload = payload_named("hvc")
    with pytest.raises(UserError) as caught:
        DebuggedPayload(payload).branch_to(0x1234, payload.begin)
    assert str(caught.value) == "payload hvc: nothing branches to 0x1234"


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_branches_go_forward_and_backward(here: int, there: int) -> None:
    word = 0x1400_0000 | there - here & 0x3FF_FFFF
    nops: Sequence[int] = [0xD503201F] * 41
    blob = b"".join(
        (word if index == here else nop).to_bytes(4, "little") for index, nop in enumerate(nops)
    )
    payload = replace(payload_named("hvc"), blob=blob)
    l2 = DebuggedPayload(payload)
    assert l2.branch_to(LOAD_ADDRESS + 4 * there, LOAD_ADDRESS) == LOAD_ADDRESS + 4 * here
    with pytest.raises(UserError):
        l2.branch_to(LOAD_ADDRESS + 4 * there, LOAD_ADDRESS + 4 * here + 4)


# --- what can't be debugged ----------------------------------------------------------------------


def complaint(*operations: Operation, each_pass: bool = False) -> str:
    once, rest = ((), operations) if each_pass else (operations, ())
    with pytest.raises(UserError) as caught:
        check_debuggable(Routine(once, rest), "mine")
    assert "\n" not in str(caught.value)
    return str(caught.value)


REFUSED = {
    Operation(OperationCode.SET_REG, a=REGISTER_MDSCR_EL1): "a debugger can't write mdscr_el1",
    Operation(OperationCode.SET_REG, a=core_register(68)): "a debugger can't write sp_el1",
    Operation(OperationCode.SET_REG, a=0x1234): "a debugger can't write 0x1234",
    Operation(OperationCode.DEBUG, n=0): "a debugger only turns stepping on",
    Operation(OperationCode.DEBUG, n=1): "a debugger only turns stepping on",
    Operation(
        OperationCode.DEBUG, n=STEPPING_CONTROL | 1 << 17
    ): "a debugger only turns stepping on",
    Operation(OperationCode.DEBUG, n=STEPPING_CONTROL, a=8): "a debugger only turns stepping on",
    Operation(OperationCode.GET_REG): "a debugger has no get_reg",
    Operation(OperationCode.KICK): "a debugger has no kick",
    Operation(OperationCode.RUN): "a debugger has no run",
    Operation(OperationCode.ON, kind=Occasion.EINTR): "a debugger has no on",
    Operation(OperationCode.VCPU_INIT): "a debugger has no vcpu_init",
    Operation(OperationCode.WRITE): "a debugger has no write",
    Operation(OperationCode.UNMAP): "a debugger has no unmap",
    Operation(OperationCode.TIMER_SWEEP): "a debugger has no timer_sweep",
}


@pytest.mark.parametrize("each_pass", [False, True])
@pytest.mark.parametrize("one", REFUSED, ids=lambda one: f"{one.code.name}-{one.n}-{one.a:x}")
def test_what_a_debugger_can_not_do_is_told_in_one_line(one: Operation, each_pass: bool) -> None:
    step = Operation(OperationCode.STEP, n=1)
    expected = f"job mine: {REFUSED[one]}: only driver in_guest does that"
    assert complaint(step, one, step, each_pass=each_pass) == expected


DEBUGGABLE = {"self-branch", "shifted", "step"}


@pytest.mark.parametrize("job", JOBS)
def test_which_of_our_jobs_a_debugger_can_do(job: str) -> None:
    for name in PAYLOADS:
        try:
            routine = routine_of(payload_named(name), job)
        except ConfigError:
            continue
        if job in DEBUGGABLE:
            check_debuggable(routine, job)
            continue
        pattern = rf"^job {re.escape(job)}: a debugger [^\n]+: only driver in_guest does that$"
        with pytest.raises(UserError, match=pattern):
            check_debuggable(routine, job)


def test_the_marks_that_the_chain_reads_are_one_for_each_stop() -> None:
    boot = stepped("hvc", 2, interrupts=True)
    marks = boot.trace.truth["detail"][boot.trace.truth["kind"] == TruthKind.MARK]
    assert marks.tolist() == [
        Mark.JOB_BEGIN,
        *[Mark.RETURNED] * len(boot.stops.returns),
        Mark.JOB_END,
    ]


def test_a_register_that_the_branch_itself_writes_is_read_before_the_step() -> None:
    adr_x30, blr_x30, nop = 0x1000007E, 0xD63F03C0, 0xD503201F
    words = (adr_x30, blr_x30, nop, nop)
    blob = b"".join(word.to_bytes(4, "little") for word in words)
    end = LOAD_ADDRESS + 4 * len(words)
    payload = Payload("blr", blob, LOAD_ADDRESS, LOAD_ADDRESS, end, end, (), ())
    operations = (
        Operation(OperationCode.SET_REG, a=REGISTER_PC, b=LOAD_ADDRESS),
        Operation(OperationCode.STEP, n=5, a=end),
    )
    stops = run(Job(operations), Debuggee(payload)).stops.records
    (told,) = stops[(stops["flags"] & RecordFlag.BRANCH_REGISTER) != 0]

    assert told["branch_register"] == told["pc"] == LOAD_ADDRESS + 12


def test_a_branch_may_come_first_where_the_job_wrote_pc() -> None:
    ret, nop = 0xD65F03C0, 0xD503201F
    blob = b"".join(word.to_bytes(4, "little") for word in (nop, ret, nop, nop))
    end = LOAD_ADDRESS + len(blob)
    payload = Payload("ret", blob, LOAD_ADDRESS, LOAD_ADDRESS, end, end, (), ())
    operations = (
        Operation(OperationCode.SET_REG, a=REGISTERS["x30"], b=LOAD_ADDRESS + 12),
        Operation(OperationCode.SET_REG, a=REGISTER_PC, b=LOAD_ADDRESS + 4),
        Operation(OperationCode.STEP, n=1, a=end),
    )
    stops = run(Job(operations), Debuggee(payload)).stops.records
    (told,) = stops[(stops["flags"] & RecordFlag.BRANCH_REGISTER) != 0]

    assert told["branch_register"] == told["pc"] == LOAD_ADDRESS + 12
