"""async_first: what is laid over KVM's vectors, and how a chosen step is redirected."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from fakes.gdbstub import SYSTEM_REGISTERS, FakeGdbStub, FakeMachine
from integration.cli_run import ROOT

from qemu_diff.drive.async_first import (
    EXITS_OF_A_STEP,
    GIC_WRITES,
    IRQ_SLOT,
    STUB_BYTES,
    SYNCHRONOUS_SLOT,
    Plan,
    Redirector,
    build_stub,
    install,
    is_pc_relative,
    plan_at,
    plan_of,
    redirect_next_step,
)
from qemu_diff.errors import GdbStubError, UserError
from qemu_diff.guest.gdbstub import CPSR, PC, connected
from qemu_diff.model import ExceptionOrder, MachineSpec, Payload, Pending

GUEST_IMAGES = ROOT / "guest_images"
ENTRY, VECTORS = 0x5A5A_0000, 0xFFFF_FFC0_0804_C000
EL1H = 0x3C5
ESB, BRANCH = 0xD503221F, 0x14000010
STEP, HVC = 0x32 << 26, 0x16 << 26


def plan(pending: Pending, directory: Path, chosen: tuple[int, ...] = ()) -> Plan:
    write = GIC_WRITES.get(pending)
    return Plan(pending, 1, ENTRY, chosen, GUEST_IMAGES, directory, write)


def machine(first_word: int) -> FakeMachine:
    memory = {VECTORS + i: 0xAA for i in range(0x800)}
    for i, byte in enumerate(first_word.to_bytes(4, "little")):
        memory[VECTORS + SYNCHRONOUS_SLOT + i] = byte
    return FakeMachine(
        path=[ENTRY, VECTORS + SYNCHRONOUS_SLOT],
        registers={SYSTEM_REGISTERS["VBAR_EL2"]: VECTORS, CPSR: EL1H},
        memory=memory,
    )


def run_install(fake: FakeMachine, directory: Path) -> None:
    path = directory / "gdb"
    with (
        FakeGdbStub(fake, path),
        connected(path, time.monotonic() + 10, threading.Event()) as gdb,
    ):
        install(gdb, plan(Pending.SGI, directory))


def test_the_stub_keeps_the_slot_but_for_its_first_word(tmp_path: Path) -> None:
    fake = machine(ESB)
    run_install(fake, tmp_path)
    stub = build_stub(GUEST_IMAGES, tmp_path, Pending.SGI, 1, "IFSR32_EL2")
    page = bytes(fake.memory[VECTORS + i] for i in range(0x800))
    displaced = page[stub.displaced : stub.displaced + 4]
    assert int.from_bytes(displaced, "little") == ESB
    assert page[: stub.displaced] == stub.page[: stub.displaced]
    assert page[SYNCHRONOUS_SLOT : SYNCHRONOUS_SLOT + 4] == stub.diversion
    assert set(page[SYNCHRONOUS_SLOT + 4 :]) == {0xAA}
    assert set(page[STUB_BYTES:SYNCHRONOUS_SLOT]) == {0xAA}
    assert fake.detached


def test_a_slot_that_begins_with_a_branch_is_refused(tmp_path: Path) -> None:
    fake = machine(BRANCH)
    with pytest.raises(GdbStubError, match="can't be executed elsewhere"):
        run_install(fake, tmp_path)
    assert int.from_bytes(bytes(fake.memory[VECTORS + i] for i in range(4))) == 0xAAAAAAAA


@pytest.mark.parametrize(
    ("word", "relative"),
    [
        (ESB, False), (0xD503201F, False), (0xA9BF07E0, False), (0xD10083FF, False),
        (BRANCH, True), (0x94000001, True), (0x54000041, True), (0xB4000040, True),
        (0x36000040, True), (0x10000000, True), (0x90000000, True), (0x58000040, True),
    ],
)  # fmt: skip
def test_what_depends_on_its_address(word: int, relative: bool) -> None:
    assert is_pc_relative(word) is relative


@pytest.mark.parametrize("pending", [Pending.SGI, Pending.SPURIOUS, Pending.FLOOD])
@pytest.mark.parametrize("register", ["IFSR32_EL2", "DACR32_EL2", "SCXTNUM_EL2"])
def test_every_stub_assembles(tmp_path: Path, pending: Pending, register: str) -> None:
    stub = build_stub(GUEST_IMAGES, tmp_path, pending, 2, register)
    assert len(stub.page) == STUB_BYTES
    assert stub.page[stub.displaced : stub.displaced + 4] == bytes.fromhex("1f2003d5")


@pytest.mark.parametrize(
    ("syndrome", "pending", "redirected"),
    [(STEP, Pending.SPI, True), (STEP, Pending.SPURIOUS, True), (HVC, Pending.PPI, False)],
)
def test_a_chosen_step_is_redirected_with_an_interrupt_pending(
    tmp_path: Path, syndrome: int, pending: Pending, redirected: bool
) -> None:
    fake = machine(ESB)
    # Each stop at the vector, and the instruction after it.
    fake.path = [VECTORS + SYNCHRONOUS_SLOT, VECTORS + SYNCHRONOUS_SLOT + 4] * EXITS_OF_A_STEP
    fake.registers[SYSTEM_REGISTERS["ESR_EL2"]] = syndrome
    path = tmp_path / "gdb"
    with (
        FakeGdbStub(fake, path),
        connected(path, time.monotonic() + 10, threading.Event()) as gdb,
    ):
        assert redirect_next_step(gdb, VECTORS, plan(pending, tmp_path)) is redirected
    expected = VECTORS + (IRQ_SLOT if redirected else SYNCHRONOUS_SLOT + 4)
    assert fake.registers[PC] == expected
    assert [address for address, _ in fake.physical] == (
        [GIC_WRITES[pending][0]] if redirected and pending in GIC_WRITES else []
    )


def test_a_job_that_ends_ends_the_redirector_in_order(tmp_path: Path) -> None:
    fake = machine(ESB)
    fake.path = [ENTRY, ENTRY + 8, VECTORS + SYNCHRONOUS_SLOT, ENTRY + 12]
    fake.registers[SYSTEM_REGISTERS["ESR_EL2"]] = STEP
    with FakeGdbStub(fake, tmp_path / "gdb"):
        chosen = plan(Pending.SPI, tmp_path, (ENTRY + 8,))
        redirector = Redirector(chosen, tmp_path / "gdb", 10, threading.Event())
        redirector.start()
        assert redirector.finish() == ""
    assert redirector.redirects == 1
    redirector.check()


def test_a_refusal_is_said_while_the_machine_runs(tmp_path: Path) -> None:
    fake = machine(ESB)
    fake.refused = (b"Z1",)
    with FakeGdbStub(fake, tmp_path / "gdb"):
        redirector = Redirector(
            plan(Pending.SGI, tmp_path), tmp_path / "gdb", 10, threading.Event()
        )
        redirector.start()
        assert "refused" in redirector.finish()
    with pytest.raises(GdbStubError, match="refused"):
        redirector.check()


def test_a_cpu_as_it_is_needs_no_gdbstub(tmp_path: Path) -> None:
    payload = Payload("hvc", b"", ENTRY, ENTRY, ENTRY, ENTRY, (), ())
    nothing = plan_of(MachineSpec(), payload, GUEST_IMAGES, tmp_path)
    redirector = Redirector(nothing, tmp_path / "gdb", 10, threading.Event())
    redirector.start()
    redirector.check()
    assert (redirector.socket, redirector.finish()) == (None, "")


def test_labels_that_a_payload_lacks_are_the_users_mistake(tmp_path: Path) -> None:
    payload = Payload("hvc", b"", ENTRY, ENTRY, ENTRY, ENTRY, ((ENTRY, "first_hvc"),), ())
    spec = MachineSpec(
        exception_order=ExceptionOrder.ASYNC_FIRST, redirect_at=("first_hvc", "frist_hvc")
    )
    with pytest.raises(UserError, match=r"no label 'frist_hvc'; it has first_hvc"):
        plan_of(spec, payload, GUEST_IMAGES, tmp_path)


@pytest.mark.parametrize("gic_version", [2, 3])
def test_each_gic_has_its_own_register_for_a_ppi(gic_version: int, tmp_path: Path) -> None:
    machine = MachineSpec(
        exception_order=ExceptionOrder.ASYNC_FIRST,
        pending=Pending.PPI,
        redirect_at=("entry",),
        gic_version=gic_version,
    )
    plan = plan_at(machine, ENTRY, GUEST_IMAGES, tmp_path)
    assert plan is not None
    assert plan.write == ({2: 0x0800_0200, 3: 0x080B_0200}[gic_version], 1 << 23)
