"""Identities: what a result depends on changes them, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qemu_diff.campaign.identity import cell_identities, code_identity
from qemu_diff.campaign.prepare import Kernels, Prepared
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.job import Operation, OperationCode, Routine
from qemu_diff.drive.peer import PeerTools
from qemu_diff.guest.image import StepVmm
from qemu_diff.guest.qemu import Qemu
from qemu_diff.kernels.selftest import NoSelftest, Selftest
from qemu_diff.model import (
    Build,
    Campaign,
    Cell,
    Driver,
    Expectation,
    FloodSource,
    FloodSpec,
    KvmMode,
    MachineSpec,
    Payload,
    Placement,
)
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.plugin import TruthPlugin

CAMPAIGN = Campaign(Path("/c.toml"), "c", 1, 60.0, (), (), ())
CELL = Cell("k.hvc.vhe.quiet", "k", "hvc", MachineSpec(), FloodSpec(), Driver.IN_GUEST, seed=7)
PEER = replace(CELL, id="k.debug-exceptions", payload="debug-exceptions", driver=Driver.SELFTEST)
PAYLOAD = Payload(
    "hvc", b"\x02\0\0\xd4", 0x1000, 0x1000, 0x1000, 0x1004, ((0x1000, "entry"),), ("hvc",)
)
ROUTINE = Routine((Operation(OperationCode.DEBUG, a=3),), (Operation(OperationCode.RUN),))
BUILD = Build("k", "key", Path("Image"), None, None, None, "6.1", cached=True, duration_s=1.0)

Change = Callable[[Prepared], Prepared]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    for name in ("truth.so", "stepvmm", "init"):
        (tmp_path / name).write_text(name)
    (tmp_path / "async_first").mkdir()
    (tmp_path / "async_first" / "stub.S").write_text("nop")
    tools = Tools(
        qemu=Qemu(tmp_path / "qemu", "id", "QEMU 1.0", sandbox=False, cpus=()),
        plugin=TruthPlugin(tmp_path / "truth.so", 1, PhantomRule.INSN_SIZE),
        stepvmm=StepVmm(tmp_path / "stepvmm", ()),
        guest_images=tmp_path,
        cache=tmp_path,
    )
    return Prepared(
        tools,
        PeerTools(tools.qemu, tmp_path / "init", tmp_path, tmp_path),
        payloads={("hvc", False): PAYLOAD},
        routines={("step", ("hvc", False)): ROUTINE},
        kernels=Kernels(
            builds={"k": BUILD},
            selftests={"k": Selftest("k", "one", Path("program"), cached=True, duration_s=0.0)},
            broken={},
            left_out={},
        ),
    )


def identity(prepared: Prepared, cell: Cell = CELL, campaign: Campaign = CAMPAIGN) -> str:
    return cell_identities(campaign, [cell], prepared, prepared.tools.guest_images)[cell.id]


def test_what_is_expected_is_no_part_of_it(prepared: Prepared) -> None:
    cell = replace(CELL, expected=(Expectation.LOST_STEP,))
    assert identity(prepared, cell) == identity(prepared)


def test_what_is_not_run_has_none(prepared: Prepared) -> None:
    excluded = replace(CELL, excluded="slow")
    assert cell_identities(CAMPAIGN, [excluded], prepared, prepared.tools.guest_images) == {}


def test_a_cell_s_own_qemu_and_pages_are_part_of_it(prepared: Prepared) -> None:
    new = replace(prepared.tools, qemu=replace(prepared.tools.qemu, identity="new"))
    newer = replace(prepared.tools, qemu=replace(prepared.tools.qemu, identity="newer"))
    cell = replace(CELL, machine=MachineSpec(qemu="q"))
    with_new = replace(prepared, further_tools={"q": new})
    assert identity(with_new) == identity(prepared)
    assert identity(with_new, cell) != identity(replace(prepared, further_tools={"q": newer}), cell)
    pages = replace(CELL, machine=MachineSpec(page_kib=64))
    builds = [{"k": BUILD, "k.page-64k": replace(BUILD, key=key)} for key in ("a", "b")]
    first, second = (
        replace(prepared, kernels=replace(prepared.kernels, builds=one)) for one in builds
    )
    assert identity(first) == identity(second)
    assert identity(first, pages) != identity(second, pages)


@pytest.mark.parametrize(
    "cell",
    [
        replace(CELL, seed=8),
        replace(CELL, job="toggle"),
        replace(CELL, machine=MachineSpec(KvmMode.NVHE)),
        replace(CELL, machine=MachineSpec(redirect_at=("entry",))),
        replace(CELL, flood=FloodSpec((FloodSource.SIGNAL,), Placement.RANDOM, count=3)),
    ],
)
def test_a_cell_s_description_is(prepared: Prepared, cell: Cell) -> None:
    prepared.routines["toggle", ("hvc", False)] = ROUTINE
    assert identity(prepared, cell) != identity(prepared)


@pytest.mark.parametrize(
    "campaign", [replace(CAMPAIGN, budget_s=61.0), replace(CAMPAIGN, findings=False)]
)
def test_the_campaign_s_settings_are(prepared: Prepared, campaign: Campaign) -> None:
    assert identity(prepared, campaign=campaign) != identity(prepared)


def test_the_campaign_s_name_and_cells_are_not(prepared: Prepared) -> None:
    assert identity(prepared, campaign=replace(CAMPAIGN, name="other")) == identity(prepared)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.payloads.update({("hvc", False): replace(PAYLOAD, blob=b"\x22\0\0\xd4")}),
        lambda one: one.payloads.update({("hvc", False): replace(PAYLOAD, end=0x1000)}),
        lambda one: one.routines.update({("step", ("hvc", False)): Routine((), ())}),
        lambda one: one.kernels.builds.update({"k": replace(BUILD, key="another")}),
        lambda one: one.tools.stepvmm.program.write_text("changed"),
        lambda one: one.tools.plugin.library.write_text("changed"),
        lambda one: (one.tools.guest_images / "async_first" / "stub.S").write_text("wfi"),
    ],
)
def test_contents_are(prepared: Prepared, change: Callable[[Prepared], object]) -> None:
    before = identity(prepared)
    change(prepared)
    assert identity(prepared) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda tools: replace(tools, qemu=replace(tools.qemu, identity="another")),
        lambda tools: replace(tools, plugin=replace(tools.plugin, rule=list(PhantomRule)[-1])),
    ],
)
def test_qemu_and_its_rule_are(prepared: Prepared, change: Callable[[Tools], Tools]) -> None:
    assert list(PhantomRule)[-1] is not PhantomRule.INSN_SIZE
    assert identity(replace(prepared, tools=change(prepared.tools))) != identity(prepared)


def test_where_things_lie_is_not(prepared: Prepared, tmp_path: Path) -> None:
    before = identity(prepared)
    prepared.payloads["hvc", False] = replace(PAYLOAD, program=tmp_path / "hvc.elf")
    prepared.kernels.builds["k"] = replace(BUILD, image=Path("elsewhere"), cached=False)
    assert identity(prepared) == before


def test_a_peer_s_program_is(prepared: Prepared) -> None:
    first = identity(prepared, PEER)
    prepared.kernels.selftests["k"] = replace(prepared.kernels.selftests["k"], key="two")
    second = identity(prepared, PEER)
    prepared.kernels.selftests["k"] = NoSelftest("k", "its source has none")
    assert len({first, second, identity(prepared, PEER)}) == 3


def test_a_kernel_that_is_not_there_has_none(prepared: Prepared) -> None:
    absent = replace(CELL, kernel="absent")
    assert cell_identities(CAMPAIGN, [absent], prepared, prepared.tools.guest_images) == {}


def test_our_own_code_counts_as_far_as_it_decides(tmp_path: Path) -> None:
    def seen(path: str, text: str) -> str:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
        code_identity.cache_clear()
        return code_identity(tmp_path)

    (tmp_path / "abi.py").write_text("")
    (tmp_path / "model.py").write_text("")
    first = seen("compare/contract.py", "strict")
    assert seen("report/html.py", "pretty") == first
    assert seen("compare/contract.py", "lenient") != first
    assert seen("truth/plugin.c", "int x;") != seen("truth/plugin.c", "int y;")
    code_identity.cache_clear()
