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


def run(directory: Path) -> CampaignResult:
    """A campaign of one kernel that is left out and one that did not build; nothing boots."""
    campaign = Campaign(
        path=directory / "c.toml",
        name="c",
        seed=1,
        budget_s=1.0,
        kernels=(KernelSpec("witness", SOURCE, optional=True), KernelSpec("broken", SOURCE)),
        pairs=(PairSpec("witness", "broken"),),
        scenarios=(ScenarioSpec(("hvc",), (MachineSpec(),), FloodSpec(), Driver.IN_GUEST),),
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
            broken={"broken": "the compiler refused"},
            left_out={"witness": "no such suite"},
        ),
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
