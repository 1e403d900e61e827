"""Kernels that are not there: skipped where they are optional, lost where they are broken."""

from __future__ import annotations

from pathlib import Path

from qemu_diff.campaign.executor import local
from qemu_diff.campaign.plan import plan
from qemu_diff.campaign.prepare import Kernels, Places, Prepared
from qemu_diff.campaign.runner import run_campaign
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.peer import PeerTools
from qemu_diff.guest.image import StepVmm
from qemu_diff.guest.qemu import Qemu
from qemu_diff.model import (
    Campaign,
    CampaignResult,
    CellVerdict,
    DebianSource,
    Driver,
    Exclusion,
    FloodSpec,
    KernelSpec,
    MachineSpec,
    PairOutcome,
    PairSpec,
    ScenarioSpec,
)
from qemu_diff.report.results import read_results, write_results
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.plugin import TruthPlugin

SOURCE = DebianSource("linux-image-arm64", "old")


def run(
    directory: Path,
    machine: MachineSpec | None = None,
    exclusions: tuple[Exclusion, ...] = (),
    broken: dict[str, str] | None = None,
    left_out: dict[str, str] | None = None,
) -> CampaignResult:
    """A campaign of one kernel that is left out and one that did not build; nothing boots."""
    campaign = Campaign(
        path=directory / "c.toml",
        name="c",
        seed=1,
        budget_s=1.0,
        kernels=(KernelSpec("witness", SOURCE, optional=True), KernelSpec("broken", SOURCE)),
        pairs=(PairSpec("witness", "broken"),),
        scenarios=(
            ScenarioSpec(("hvc",), (machine or MachineSpec(),), FloodSpec(), Driver.IN_GUEST),
        ),
        exclusions=exclusions,
    )
    nowhere = directory / "nowhere"
    tools = Tools(
        qemu=Qemu(nowhere, "id", "QEMU 1.0", sandbox=False, cpus=()),
        plugin=TruthPlugin(nowhere, 1, PhantomRule.INSN_SIZE),
        stepvmm=StepVmm(nowhere, ()),
        guest_images=nowhere,
        cache=nowhere,
    )
    prepared = Prepared(
        tools,
        PeerTools(tools.qemu, nowhere, nowhere, nowhere),
        payloads={},
        routines={},
        kernels=Kernels(
            builds={},
            selftests={},
            broken={"broken": "the compiler refused"} if broken is None else broken,
            left_out={"witness": "no such suite"} if left_out is None else left_out,
        ),
        no_qemu={"new": "QEMU new: no such suite"},
    )
    places = Places(nowhere, nowhere, directory / "cells")
    return run_campaign(
        campaign,
        plan(campaign),
        places,
        prepared,
        executor=local(1),
        publish=lambda _: None,
    )


def test_a_kernel_that_is_left_out_is_skipped_with_the_reason(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert [(cell.verdict, cell.reason, cell.as_expected) for cell in result.cells] == [
        (CellVerdict.SKIPPED, "no such suite", False),
        (CellVerdict.LOST, "the compiler refused", False),
    ]
    (pair,) = result.pairs
    assert pair.outcome is PairOutcome.INCONCLUSIVE
    assert result.complete
    assert not (tmp_path / "cells").exists()


def test_the_verdict_survives_the_results_file(tmp_path: Path) -> None:
    result = run(tmp_path)
    write_results(result, tmp_path)
    assert read_results(tmp_path) == result
    assert '"verdict": "skipped"' in (tmp_path / "verdicts.json").read_text()


def test_what_is_excluded_is_skipped_with_the_reason_and_needs_no_kernel(tmp_path: Path) -> None:
    result = run(tmp_path, exclusions=(Exclusion("witness.*", "not today"),))
    assert [(cell.verdict, cell.reason) for cell in result.cells] == [
        (CellVerdict.SKIPPED, "not today"),
        (CellVerdict.LOST, "the compiler refused"),
    ]


def test_an_optional_qemu_that_can_t_be_had_skips_its_cells(tmp_path: Path) -> None:
    result = run(tmp_path, machine=MachineSpec(qemu="new"), broken={}, left_out={})
    assert [(cell.verdict, cell.reason) for cell in result.cells] == [
        (CellVerdict.SKIPPED, "QEMU new: no such suite")
    ] * 2


def test_another_page_size_is_another_build(tmp_path: Path) -> None:
    broken = {f"{one}.page-64k": "no such option" for one in ("witness", "broken")}
    result = run(tmp_path, machine=MachineSpec(page_kib=64), broken=broken)
    assert [(cell.verdict, cell.reason) for cell in result.cells] == [
        (CellVerdict.LOST, "no such option")
    ] * 2
