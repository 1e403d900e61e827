"""What is believed of a boot that left nothing to judge, and what quiet passes teach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qemu_diff.abi import STEP_RECORD, TRUTH_RECORD, RecordFlag, RecordKind, SharedState
from qemu_diff.campaign.cell import (
    ASSUMED_RECORDS,
    ASSUMED_RUNS,
    LEARNING_PASSES,
    OUR_PANICS,
    STARVED,
    Learnt,
    _believed,
    _no_progress,
    _Unjudged,
    _unjudged,
    assumed,
    learnt_from,
    longest_window,
)
from qemu_diff.drive.in_guest import Boot
from qemu_diff.guest.process import Ending, GuestExit
from qemu_diff.guest.shared import SharedHeader
from qemu_diff.model import CellVerdict, Payload
from qemu_diff.trace.trace import Trace

BUDGET_S = 60.0
PANIC = "Kernel panic - not syncing: Oops: Fatal exception"


def header(state: SharedState, heartbeat: int = 0, message: str = "") -> SharedHeader:
    return SharedHeader(
        state=state,
        count=0,
        dropped=0,
        heartbeat=heartbeat,
        crc32=0,
        counter_hz=10**9,
        message=message,
    )


DONE, STALLED, FAILED, NO_KVM, UNEXPECTED, RUNNING, EMPTY = (
    header(SharedState.DONE, 200, "done"),
    header(SharedState.STALLED, 100, "no return from KVM_RUN within 200000000 ns; PC 0x5a5a0004"),
    header(SharedState.FAILED, 0, "KVM_CREATE_VM: Invalid argument"),
    header(SharedState.NO_KVM, 0, "this kernel offers no KVM: /dev/kvm: No such file or directory"),
    header(SharedState.UNEXPECTED, 100, "operation 4: exit reason 17 (error 0) at PC 0x5a5a0004"),
    header(SharedState.RUNNING, 100),
    header(SharedState.EMPTY),
)


def boot(
    state: SharedHeader | None,
    ending: Ending = Ending.EXITED,
    *,
    status: int = 0,
    death: str = "",
    last_line: str = "Booting Linux",
    idle_s: float = 0.0,
    starved_s: float | None = None,
    silent_s: float = 0.0,
    timed: bool = False,
    damage: str = "",
) -> Boot:
    ended = GuestExit(
        ending=ending,
        status=status,
        death=death,
        warnings=(),
        registers="",
        last_line=last_line,
        wall_s=1.0,
        starved_s=starved_s,
        silent_s=silent_s,
    )
    return Boot(Path("/boot"), ended, state, idle_s, timed=timed, damage=damage)


def unjudged(done: Boot) -> _Unjudged:
    found = _unjudged(done, BUDGET_S)
    assert found is not None
    return found


# --- one boot ---


def test_a_boot_that_ran_to_its_end_can_be_judged() -> None:
    assert _unjudged(boot(DONE), BUDGET_S) is None


@pytest.mark.parametrize(
    "done",
    [
        boot(DONE, Ending.DIED, status=-9),
        boot(DONE, Ending.OUT_OF_BUDGET),
        boot(RUNNING),
        boot(EMPTY),
        boot(None),
        boot(None, Ending.OUT_OF_BUDGET),
        boot(RUNNING, Ending.DIED, status=1),
    ],
)
def test_whatever_else_ends_a_boot_is_lost_at_first(done: Boot) -> None:
    assert unjudged(done).verdict is CellVerdict.LOST
    assert unjudged(done).worth_another_try


@pytest.mark.parametrize("state", [DONE, STALLED, FAILED, NO_KVM, UNEXPECTED, RUNNING, EMPTY, None])
@pytest.mark.parametrize("ending", Ending)
def test_a_kernel_that_dies_is_believed_at_once(state: SharedHeader | None, ending: Ending) -> None:
    found = unjudged(boot(state, ending, death=PANIC))
    assert found == _Unjudged(CellVerdict.KERNEL_OOPS, PANIC, worth_another_try=False)


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        (
            boot(RUNNING, Ending.DIED, status=-9),
            "QEMU died (signal 9); its last line: Booting Linux",
        ),
        (
            boot(None, Ending.DIED, status=1, last_line="qemu: no such machine"),
            "QEMU died (exit status 1); its last line: qemu: no such machine",
        ),
        (
            boot(EMPTY, Ending.OUT_OF_BUDGET, last_line=""),
            "the kernel did not start the step VMM within 60 s; it printed nothing",
        ),
        (boot(RUNNING), "L1 went down before the job was done; its last line: Booting Linux"),
    ],
)
def test_a_loss_says_what_was_lost_and_the_last_thing_that_was_printed(
    done: Boot, reason: str
) -> None:
    assert unjudged(done).reason == reason


def test_a_kernel_without_kvm_will_not_get_one() -> None:
    assert unjudged(boot(NO_KVM)) == _Unjudged(
        CellVerdict.LOST, NO_KVM.message, worth_another_try=False
    )


def test_a_step_vmm_that_gave_up_will_give_up_again() -> None:
    assert unjudged(boot(FAILED)) == _Unjudged(
        CellVerdict.LOST,
        "the step VMM gave up: KVM_CREATE_VM: Invalid argument",
        worth_another_try=False,
    )


def test_a_qemu_that_died_is_to_blame_even_if_the_step_vmm_gave_up() -> None:
    assert unjudged(boot(FAILED, Ending.DIED, status=-11)).reason.startswith(
        "QEMU died (signal 11)"
    )


def test_a_qemu_that_outlives_its_job_did_start_the_step_vmm() -> None:
    assert "did not start" not in unjudged(boot(DONE, Ending.OUT_OF_BUDGET)).reason


# --- a boot that a debugger drove ---


@pytest.mark.parametrize("state", [DONE, FAILED, NO_KVM, UNEXPECTED, EMPTY, None])
@pytest.mark.parametrize("ending", Ending)
def test_a_debugger_that_can_not_go_on_is_lost_and_may_try_again(
    state: SharedHeader | None, ending: Ending
) -> None:
    """Its driver has said why, in one line (drive/out_of_reach.py): nothing is added."""
    found = unjudged(replace(boot(state, ending), debugger="gdb went away, after 7 stops"))
    reason = "gdb went away, after 7 stops"
    assert found == _Unjudged(CellVerdict.LOST, reason, worth_another_try=True)


def test_a_kernel_that_dies_under_a_debugger_is_believed() -> None:
    found = unjudged(replace(boot(FAILED, death=PANIC), debugger="gdb went away"))
    assert found == _Unjudged(CellVerdict.KERNEL_OOPS, PANIC, worth_another_try=False)


def test_a_guest_that_is_given_up_is_not_judged_even_if_its_job_is_done() -> None:
    found = unjudged(boot(DONE, Ending.GIVEN_UP))
    assert (found.verdict, found.worth_another_try) == (CellVerdict.LOST, True)


# --- no progress ---


@pytest.mark.parametrize("ending", Ending)
def test_a_stall_is_a_hang_with_the_step_vmm_s_words(ending: Ending) -> None:
    assert _no_progress(boot(STALLED, ending), STALLED, BUDGET_S) == _Unjudged(
        CellVerdict.HANG, STALLED.message, worth_another_try=True, evidence=100
    )


def test_a_job_that_stood_still_when_the_budget_cut_it_off_may_be_a_hang() -> None:
    stood_still = boot(RUNNING, Ending.OUT_OF_BUDGET, idle_s=BUDGET_S * 0.6)
    assert _no_progress(stood_still, RUNNING, BUDGET_S) == _Unjudged(
        CellVerdict.HANG,
        "no return from KVM_RUN for 30 s, after 100 steps",
        worth_another_try=True,
        evidence=100,
    )


def test_a_slow_job_is_lost_and_says_what_to_raise() -> None:
    found = unjudged(boot(RUNNING, Ending.OUT_OF_BUDGET, idle_s=0.2))
    assert found.verdict is CellVerdict.LOST
    assert found.reason == "not done within 60 s, after 100 steps; raise campaign.budget_s"


def test_a_job_that_never_stepped_is_no_hang() -> None:
    never = header(SharedState.RUNNING, 0)
    done = boot(never, Ending.OUT_OF_BUDGET, idle_s=BUDGET_S)
    assert unjudged(done).verdict is CellVerdict.LOST


@pytest.mark.parametrize("words", OUR_PANICS)
def test_a_panic_for_want_of_our_program_is_not_the_kernel_s(words: str) -> None:
    found = unjudged(boot(RUNNING, death=f"Kernel panic - not syncing: {words}!"))
    assert (found.verdict, found.worth_another_try) == (CellVerdict.LOST, True)


# --- what L1 does to itself, or to us ---


NEVER = header(SharedState.RUNNING, 0)
CUT_OFF = Ending.OUT_OF_BUDGET


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (NEVER, "no return from KVM_RUN for 30 s, after 0 steps"),
        (
            EMPTY,
            "the kernel did not start the step VMM within 60 s; its last line: Booting Linux",
        ),
    ],
)
def test_a_kernel_that_was_alive_and_had_a_cpu_hangs_by_itself(
    state: SharedHeader, reason: str
) -> None:
    done = boot(state, CUT_OFF, idle_s=BUDGET_S, timed=True, starved_s=1.0, silent_s=BUDGET_S - 1)
    expected = _Unjudged(CellVerdict.HANG, reason, worth_another_try=True, evidence=0)
    assert unjudged(done) == expected


@pytest.mark.parametrize("state", [NEVER, EMPTY])
@pytest.mark.parametrize(
    ("timed", "starved_s", "silent_s"),
    [
        (False, 1.0, BUDGET_S),
        (True, BUDGET_S, BUDGET_S),
        (True, None, BUDGET_S),
        (True, BUDGET_S * STARVED, BUDGET_S),
        (True, 1.0, BUDGET_S / 2),
    ],
)
def test_a_kernel_that_had_no_cpu_or_shows_no_life_or_still_prints_is_no_hang(
    state: SharedHeader, timed: bool, starved_s: float | None, silent_s: float
) -> None:
    done = boot(
        state, CUT_OFF, idle_s=BUDGET_S, timed=timed, starved_s=starved_s, silent_s=silent_s
    )
    assert unjudged(done).verdict is CellVerdict.LOST


@pytest.mark.parametrize("state", [RUNNING, EMPTY])
def test_a_kernel_that_goes_down_by_itself_is_to_blame_if_it_does_so_again(
    state: SharedHeader,
) -> None:
    found = unjudged(boot(state, timed=True))
    assert (found.verdict, found.worth_another_try) == (CellVerdict.KERNEL_OOPS, True)
    assert _believed([found, found]).verdict is CellVerdict.KERNEL_OOPS
    assert _believed([found]).verdict is CellVerdict.LOST


@pytest.mark.parametrize(
    "last_line",
    [
        "qemu-system-aarch64: terminating on signal 15 from pid 7",
        "stepvmm: no ivshmem device (0x1af4:0x1110) on the PCI bus",
    ],
)
def test_a_machine_that_was_told_to_go_or_had_no_device_is_not_the_kernel_s(
    last_line: str,
) -> None:
    assert unjudged(boot(EMPTY, timed=True, last_line=last_line)).verdict is CellVerdict.LOST


@pytest.mark.parametrize("ending", Ending)
def test_a_header_that_l1_wrote_over_is_the_kernel_s_unless_qemu_died(ending: Ending) -> None:
    found = unjudged(boot(None, ending, damage="records.bin: not a record file"))
    of_kernel = ending in (Ending.EXITED, Ending.OUT_OF_BUDGET)
    assert found.verdict is (CellVerdict.FAIL if of_kernel else CellVerdict.LOST)
    assert found.worth_another_try


INIT_KILLED = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"
INIT_ENDED = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"


@pytest.mark.parametrize(
    ("state", "death", "verdict"),
    [
        (RUNNING, INIT_KILLED, CellVerdict.KERNEL_OOPS),
        (NEVER, INIT_KILLED, CellVerdict.LOST),
        (EMPTY, INIT_KILLED, CellVerdict.LOST),
        (RUNNING, INIT_ENDED, CellVerdict.LOST),
    ],
)
def test_who_kills_the_step_vmm_in_the_midst_of_its_job_is_the_kernel(
    state: SharedHeader, death: str, verdict: CellVerdict
) -> None:
    found = unjudged(boot(state, death=death))
    assert (found.verdict, found.worth_another_try) == (verdict, True)


@pytest.mark.parametrize(
    ("heartbeat", "message", "verdict"),
    [
        (20, "KVM_GET_ONE_REG 0x6030000000100040: Invalid argument", CellVerdict.FAIL),
        (0, "KVM_GET_ONE_REG 0x6030000000100040: Invalid argument", CellVerdict.LOST),
        (20, "operation 3: placements beyond the table", CellVerdict.LOST),
    ],
)
def test_kvm_that_refuses_what_it_did_before_is_to_blame(
    heartbeat: int, message: str, verdict: CellVerdict
) -> None:
    assert unjudged(boot(header(SharedState.FAILED, heartbeat, message))).verdict is verdict


def test_an_exit_that_no_job_expects_is_the_kernel_s() -> None:
    assert _no_progress(boot(UNEXPECTED), UNEXPECTED, BUDGET_S) == _Unjudged(
        CellVerdict.FAIL,
        f"an exit that no job expects: {UNEXPECTED.message}",
        worth_another_try=True,
        evidence=100,
    )


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (Ending.EXITED, RUNNING),
        (Ending.DIED, RUNNING),
        (Ending.OUT_OF_BUDGET, EMPTY),
        (Ending.OUT_OF_BUDGET, DONE),
        *((ending, state) for ending in Ending for state in (DONE, FAILED, NO_KVM)),
    ],
)
def test_nothing_else_is_a_lack_of_progress(ending: Ending, state: SharedHeader) -> None:
    assert _no_progress(boot(state, ending), state, BUDGET_S) is None


# --- several boots ---


def hang(steps: int) -> _Unjudged:
    return _Unjudged(CellVerdict.HANG, f"stalled after {steps}", True, evidence=steps)


def unexpected_exit(steps: int) -> _Unjudged:
    return _Unjudged(CellVerdict.FAIL, f"exit 17 after {steps}", True, evidence=steps)


LOST = _Unjudged(CellVerdict.LOST, "QEMU died", True)
WITHOUT_KVM = _Unjudged(CellVerdict.LOST, "no KVM", False)
OOPS = _Unjudged(CellVerdict.KERNEL_OOPS, PANIC, False)


@pytest.mark.parametrize(
    ("endings", "verdict", "reason"),
    [
        ([OOPS], CellVerdict.KERNEL_OOPS, PANIC),
        ([LOST, OOPS], CellVerdict.KERNEL_OOPS, PANIC),
        ([hang(7), OOPS], CellVerdict.KERNEL_OOPS, PANIC),
        ([WITHOUT_KVM], CellVerdict.LOST, "no KVM"),
        ([LOST, LOST], CellVerdict.LOST, "QEMU died"),
        ([hang(7), LOST], CellVerdict.LOST, "QEMU died"),
        ([hang(7), hang(7)], CellVerdict.HANG, "stalled after 7; the same on every try"),
        (
            [unexpected_exit(7), unexpected_exit(7)],
            CellVerdict.FAIL,
            "exit 17 after 7; the same on every try",
        ),
        # One try is no evidence, and neither are two that differ.
        ([hang(7)], CellVerdict.LOST, "stalled after 7; not the same on another try"),
        ([hang(7), hang(8)], CellVerdict.LOST, "stalled after 8; not the same on another try"),
        ([LOST, hang(7)], CellVerdict.LOST, "stalled after 7; not the same on another try"),
        (
            [hang(7), unexpected_exit(7)],
            CellVerdict.LOST,
            "exit 17 after 7; not the same on another try",
        ),
        (
            [unexpected_exit(7), unexpected_exit(8)],
            CellVerdict.LOST,
            "exit 17 after 8; not the same on another try",
        ),
    ],
)
def test_what_is_believed_of_several_boots(
    endings: list[_Unjudged], verdict: CellVerdict, reason: str
) -> None:
    believed = _believed(endings)
    assert (believed.verdict, believed.reason) == (verdict, reason)


# --- what quiet passes teach ---


def quiet(*runs: tuple[int, int]) -> Trace:
    """A boot of (reported PC, ns from arming to the return) for each KVM_RUN."""
    records = np.zeros(2 * len(runs), STEP_RECORD)
    for index, (pc, length) in enumerate(runs):
        record = records[2 * index]
        record["kind"], record["pc"] = RecordKind.RUN, pc
        record["armed_at"], record["returned_at"] = 10_000 * index, 10_000 * index + length
        record["flags"] = RecordFlag.TIMER_ARMED
        # Other records have no window, whatever they hold.
        records[2 * index + 1]["kind"] = RecordKind.PASS
        records[2 * index + 1]["returned_at"] = 99_999
    return Trace(records, np.zeros(0, TRUTH_RECORD), np.zeros(0, bool), np.zeros(0, np.uint64))


def test_the_longest_window_is_that_of_the_slowest_instruction() -> None:
    assert longest_window(quiet((0x1000, 3500), (0x1004, 4700), (0x1008, 3400))) == 4700


def test_of_each_instruction_the_fastest_pass_counts() -> None:
    first_pass = [(0x1000, 60_000), (0x1004, 4700), (0x1008, 9000)]
    second_pass = [(0x1000, 3500), (0x1004, 5000), (0x1008, 3400)]
    assert longest_window(quiet(*first_pass, *second_pass)) == 4700


def test_a_return_without_a_timer_has_no_window() -> None:
    learnt = quiet((0x1000, 3500), (0x1004, 4700))
    learnt.records["flags"][2], learnt.records["armed_at"][2] = 0, 0
    assert longest_window(learnt) == 3500


def test_one_pass_is_enough_to_learn_from() -> None:
    assert longest_window(quiet((0x1000, 3500))) == 3500


def test_a_pass_has_its_share_of_returns_and_of_all_records() -> None:
    # Each return has a record of another kind behind it.
    runs = [(0x1000 + 4 * index, 3_000 + index) for index in range(3)]
    assert learnt_from(quiet(*runs * LEARNING_PASSES)) == Learnt(3_002, 3.0, 6.0, placed_per_pass=3)


def test_what_is_left_over_of_a_pass_counts_too() -> None:
    learnt = learnt_from(quiet(*[(0x1000, 3_000)] * (LEARNING_PASSES + 1)))
    assert learnt.runs_per_pass == 1 + 1 / LEARNING_PASSES
    assert learnt.records_per_pass == 2 * learnt.runs_per_pass


def program(instructions: int) -> Payload:
    end = 0x1000 + 4 * instructions
    return Payload("p", b"", 0x1000, 0x1000, 0x1000, end, labels=(), classes=())


def test_where_nothing_is_learnt_the_interval_is_the_campaign_s() -> None:
    assert assumed(program(10), 4_200).longest_ns == 4_200


@pytest.mark.parametrize("instructions", [1, 9, 40, 1_000])
def test_more_is_assumed_than_a_payload_takes(instructions: int) -> None:
    """A pass of jobs that walk it twice, with a signal and a block of reads in each step."""
    guess = assumed(program(instructions), 1)
    assert guess.runs_per_pass >= ASSUMED_RUNS * instructions
    assert guess.records_per_pass == ASSUMED_RECORDS * guess.runs_per_pass
    # The shortest payload may be a loop.
    assert guess.runs_per_pass > 2 * 16
