"""What each statement of a job does to a real guest, as the records of the step VMM show it."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from integration.cli_run import ROOT

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    PSTATE_EL1H_MASKED,
    PSTATE_SS,
    ExceptionClass,
    Occasion,
    OperationCode,
    RecordFlag,
    RecordKind,
    SharedState,
)
from qemu_diff.drive.in_guest import RECORDS, Boot, Tools, boot
from qemu_diff.drive.job import Job, Operation, Routine, compiled, quiet_job, sweep_job
from qemu_diff.drive.registers import REGISTERS
from qemu_diff.drive.script import RunExit, parsed
from qemu_diff.flood.placement import Sweep
from qemu_diff.guest.image import build_payload, build_stepvmm
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import cache_directory
from qemu_diff.model import Build, FloodSource, MachineSpec, Payload
from qemu_diff.trace.records import read_records
from qemu_diff.truth.plugin import prepare_plugin

pytestmark = pytest.mark.integration

GUEST_IMAGES = ROOT / "guest_images"
BRK0, NOP = 0xD420_0000, 0xD503_201F
SHUTDOWN = 1
"""``KVM_SYSTEM_EVENT_SHUTDOWN`` (Linux include/uapi/linux/kvm.h)."""

EVERYTHING = """\
	.include "payload.inc"
	classes	alu, load, store, hvc, sysreg, eret, nop

	.equ	NOBODY, 0x09000000
	.equ	SYSTEM_OFF, 0x84000008

	.text
	range_begin
	nop
second:
	nop
third:
	movz	x1, #(NOBODY >> 16), lsl #16
store:
	str	w1, [x1]
load:
	ldr	w0, [x1, #8]
loaded:
	movz	w0, #(SYSTEM_OFF >> 16), lsl #16
	movk	w0, #(SYSTEM_OFF & 0xffff)
off:
	hvc	#0
	adr	x2, back
	msr	elr_el1, x2
	mov	x3, #0x3c5
	msr	spsr_el1, x3
there:
	eret
	nop
back:
	nop
	range_end
"""

Records = list[np.void]
RunJob = Callable[[Job], Records]
BootJob = Callable[[Job], Boot]
START = "set pc entry\nset pstate el1h\n"


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    """A payload of the test's own, with every exit that a job may serve."""
    images = tmp_path_factory.mktemp("guest_images")
    (images / "payloads").mkdir()
    shutil.copy(GUEST_IMAGES / "payloads" / "payload.inc", images / "payloads")
    (images / "payloads" / "everything.S").write_text(EVERYTHING)
    return build_payload("everything", images, cache_directory("guest"))


@pytest.fixture
def boot_job(builds: dict[str, Build], payload: Payload, tmp_path: Path) -> BootJob:
    """Boot the patched kernel with a job."""
    qemu, cache = find_qemu(), cache_directory("guest")
    tools = Tools(
        qemu,
        prepare_plugin(qemu, GUEST_IMAGES, cache),
        build_stepvmm(GUEST_IMAGES, cache),
        GUEST_IMAGES,
        cache,
    )

    def run(job: Job) -> Boot:
        return boot(
            tools, builds["patched"], payload, job, machine=MachineSpec(), seed=1,
            directory=tmp_path / "boot", budget_s=60, cancel=threading.Event(),
        )  # fmt: skip

    return run


@pytest.fixture
def run_job(boot_job: BootJob) -> RunJob:
    """The records of a job, which must get to its end."""

    def run(job: Job) -> Records:
        done = boot_job(job)
        assert done.header is not None
        assert done.header.state is SharedState.DONE, done.header.message
        return list(read_records(done.directory / RECORDS))

    return run


def routine(payload: Payload, text: str) -> Routine:
    return compiled(parsed(text, Path("test.job")), payload)


def labels(payload: Payload) -> dict[str, int]:
    return {name: address for address, name in payload.labels}


def of_kind(records: Sequence[np.void], kind: RecordKind) -> Records:
    return [one for one in records if one["kind"] == kind]


def has(record: np.void, flag: RecordFlag) -> bool:
    return bool(int(record["flags"]) & flag)


def is_report(record: np.void) -> bool:
    is_run = record["kind"] == RecordKind.RUN
    return bool(is_run and record["error"] == 0 and record["exit_reason"] == KVM_EXIT_DEBUG)


def reports(records: Sequence[np.void]) -> list[tuple[ExceptionClass, int]]:
    """(exception class, PC) of each debug exit."""
    return [
        (ExceptionClass(int(one["esr"]) >> 26), int(one["pc"])) for one in records if is_report(one)
    ]


def register_reads(records: Sequence[np.void], name: str) -> list[int]:
    return [
        int(one["detail"][1])
        for one in of_kind(records, RecordKind.REGISTER)
        if one["detail"][0] == REGISTERS[name]
    ]


def test_exits_are_served_and_every_block_is_done(run_job: RunJob, payload: Payload) -> None:
    at = labels(payload)
    script = f"""
debug enable singlestep
on report
    kick
    get x0
end
on exit
    get pstate
end
pass:
{START}step
"""
    job = quiet_job(routine(payload, script), 2)
    records = run_job(job)

    assert [int(one["detail"][0]) for one in of_kind(records, RecordKind.PASS)] == [0, 1]
    steps = [pc for ec, pc in reports(records) if ec is ExceptionClass.SOFTWARE_STEP]
    instructions = [*range(payload.entry + 4, at["there"] + 4, 4), at["back"], payload.end]
    assert steps == 2 * instructions
    # Each report is followed by its block, and so is each exit.
    runs = of_kind(records, RecordKind.RUN)
    for run in runs:
        after = [one["kind"] for one in records[int(run["sequence"]) + 1 :][:2]]
        if is_report(run):
            assert after == [RecordKind.RUN, RecordKind.REGISTER]
        elif not has(run, RecordFlag.KICKED):
            assert after[0] == RecordKind.REGISTER
    kicks = [one for one in runs if has(one, RecordFlag.KICKED)]
    assert len(kicks) == len(steps)
    for kick in kicks:
        before = records[int(kick["sequence"]) - 1]
        assert is_report(before)
        assert kick["pc"] == before["pc"]
        assert has(kick, RecordFlag.EINTR)
        assert job.operations[int(kick["operation"])].code.name == "KICK"
    exits = [one for one in runs if not has(one, RecordFlag.KICKED) and not is_report(one)]
    mmio, event = RunExit.MMIO, RunExit.SYSTEM_EVENT
    assert [(int(one["exit_reason"]), int(one["pc"])) for one in exits] == 2 * [
        (mmio, at["store"]),
        (mmio, at["load"]),
        (event, at["off"] + 4),
    ]
    assert exits[0]["detail"].tolist() == [0x0900_0000, 0x0900_0000, 4, 1]
    assert exits[2]["detail"][0] == SHUTDOWN
    after_load = steps.index(at["loaded"])
    assert register_reads(records, "x0")[after_load] == 0x5A5A_5A5A


def test_a_kick_completes_the_instruction_that_an_exit_stands_at(
    run_job: RunJob, payload: Payload
) -> None:
    """Without a word on the steps around it: Linux 6.1 loses one there."""
    at = labels(payload)
    script = f"""
debug enable singlestep
on exit
    kick
    get pc
end
pass:
{START}step until store
step 1
"""
    records = run_job(quiet_job(routine(payload, script), 1))

    (exit_, *_) = [
        one
        for one in of_kind(records, RecordKind.RUN)
        if not is_report(one) and not has(one, RecordFlag.KICKED)
    ]
    kick, read = records[int(exit_["sequence"]) + 1 :][:2]
    assert int(exit_["pc"]) == at["store"]
    assert has(kick, RecordFlag.KICKED)
    assert int(kick["pc"]) == at["load"]
    assert int(read["detail"][1]) == at["load"]


def test_only_there_is_an_eret_s_target_known(run_job: RunJob, payload: Payload) -> None:
    at = labels(payload)
    records = run_job(
        quiet_job(routine(payload, f"debug enable singlestep\npass:\n{START}step\n"), 1)
    )
    runs = of_kind(records, RecordKind.RUN)
    known = [
        (int(before["pc"]), int(run["branch_register"]))
        for before, run in pairwise(runs)
        if has(run, RecordFlag.BRANCH_REGISTER)
    ]
    assert known == [(at["there"], at["back"])]


def test_what_is_done_in_mid_step_after_a_signal(run_job: RunJob, payload: Payload) -> None:
    """A step has one placement: after its signal nothing is armed until it is reported."""
    script = f"""
debug enable singlestep
on eintr
    set_bits pstate ss
    get pstate
    clear_bits pstate ss
    get pstate
    debug enable
    debug enable singlestep
end
pass:
{START}step until store
"""
    job = sweep_job(routine(payload, script), FloodSource.SIGNAL, Sweep(2400, 100, 15))
    records = run_job(job)

    signalled = [one for one in of_kind(records, RecordKind.RUN) if has(one, RecordFlag.EINTR)]
    assert len(signalled) > 5
    begin = next(i for i, one in enumerate(job.operations) if one.code.name == "ON") + 1
    for run in signalled:
        assert has(run, RecordFlag.TIMER_ARMED | RecordFlag.TIMER_FIRED)
        block = records[int(run["sequence"]) + 1 : int(run["sequence"]) + 7]
        assert [int(one["operation"]) for one in block] == list(range(begin, begin + 6))
        assert [int(one["iteration"]) for one in block] == [int(run["iteration"])] * 6
        was = int(run["pstate"])
        assert int(block[0]["detail"][1]) == int(block[1]["detail"][1]) == was | PSTATE_SS
        assert int(block[2]["detail"][1]) == int(block[3]["detail"][1]) == was & ~PSTATE_SS
        assert [int(one["detail"][0]) for one in block[4:]] == [1, 3]
        again = records[int(run["sequence"]) + 7]
        assert again["kind"] == RecordKind.RUN
        assert not has(again, RecordFlag.TIMER_ARMED)
    # A stop whose PC ends the steps does so, whatever its block has written since.
    assert [int(one["detail"][0]) for one in of_kind(records, RecordKind.PASS)] == list(range(15))


def test_breakpoints_beside_single_step(run_job: RunJob, payload: Payload) -> None:
    at = labels(payload)
    script = f"""
pass:
debug enable singlestep use_sw_bp
{START}write second brk0
step until second
step 1
restore second
debug enable singlestep use_hw breakpoint=third
step until third
step 1
debug off
get mdscr_el1
get dbgbvr0_el1
get dbgbcr0_el1
debug enable singlestep
step until store
"""
    records = run_job(quiet_job(routine(payload, script), 2))

    step = ExceptionClass.SOFTWARE_STEP
    assert reports(records) == 2 * [
        (step, at["second"]),
        (ExceptionClass.BRK, at["second"]),
        (step, at["third"]),
        (ExceptionClass.BREAKPOINT, at["third"]),
        (step, at["store"]),
    ]
    writes = [one["detail"][:3].tolist() for one in of_kind(records, RecordKind.WRITE)]
    assert writes == 2 * [[at["second"], NOP, BRK0], [at["second"], BRK0, NOP]]
    controls = [one["detail"][:3].tolist() for one in of_kind(records, RecordKind.DEBUG_CONTROL)]
    assert controls == 2 * [
        [0x1_0003, 0, 0],
        [0x2_0003, at["third"], 0x1E7],
        [0, 0, 0],
        [3, 0, 0],
    ]
    assert all(has(one, RecordFlag.STEPPING) for one in of_kind(records, RecordKind.RUN))
    for name in ("mdscr_el1", "dbgbvr0_el1", "dbgbcr0_el1"):
        assert len(set(register_reads(records, name))) == 1


def test_the_vcpu_is_reset_and_stage_2_is_emptied(run_job: RunJob, payload: Payload) -> None:
    at = labels(payload)
    script = f"""
set vbar_el1 entry
set x7 0x1234
debug enable singlestep
pass:
unmap
{START}repeat 2
    step 1
end
init
get x7
get pc
set pc second
set pstate el1h|ss
set x7 0x5678
get pstate
step until third
debug off
{START}run mmio
debug enable singlestep
step until loaded
"""
    records = run_job(quiet_job(routine(payload, script), 2))

    step = ExceptionClass.SOFTWARE_STEP
    assert reports(records) == 2 * [
        (step, at["second"]),
        (step, at["third"]),
        (step, at["third"]),
        (step, at["load"]),
        (step, at["loaded"]),
    ]
    # Only passes count as such: no repeat within one does.
    assert [int(one["detail"][0]) for one in of_kind(records, RecordKind.PASS)] == [0, 1]
    assert len(of_kind(records, RecordKind.UNMAP)) == 2
    assert len(of_kind(records, RecordKind.VCPU_INIT)) == 2
    assert register_reads(records, "x7") == register_reads(records, "pc") == [0, 0]
    assert register_reads(records, "pstate") == 2 * [PSTATE_EL1H_MASKED | PSTATE_SS]
    unstepped = [
        one for one in of_kind(records, RecordKind.RUN) if not has(one, RecordFlag.STEPPING)
    ]
    assert [int(one["exit_reason"]) for one in unstepped] == 2 * [RunExit.MMIO]


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (
            [
                Operation(OperationCode.ON, a=1, kind=Occasion.REPORT),
                Operation(OperationCode.STEP, n=1),
                Operation(OperationCode.DEBUG, n=3),
                Operation(OperationCode.STEP, n=1),
            ],
            "operation 1: code 5 is unknown, or has no place in a block",
        ),
        (
            [Operation(OperationCode.REPEAT, n=1, a=1), Operation(OperationCode.ON, a=1)],
            "operation 1: a block for no occasion, or one without an end",
        ),
        (
            [Operation(OperationCode.WRITE, a=0x1000)],
            "no memory of L2 is at 0x1000",
        ),
    ],
)
def test_a_job_that_can_t_be_is_refused(
    boot_job: BootJob, payload: Payload, operations: list[Operation], message: str
) -> None:
    begin = routine(payload, f"pass:\n{START}step\n").each_pass[:2]
    moved = len(begin)
    done = boot_job(Job((*begin, *operations)))
    assert done.header is not None
    assert done.header.state is SharedState.FAILED
    numbered = re.sub(r"operation (\d+)", lambda it: f"operation {int(it[1]) + moved}", message)
    assert done.header.message == numbered
