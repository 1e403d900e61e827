"""In which order cells are begun. Nothing boots: there is no selftest in these kernels' source."""

from __future__ import annotations

from pathlib import Path

from qemu_diff.campaign.executor import local
from qemu_diff.campaign.plan import plan
from qemu_diff.campaign.prepare import Kernels, Places, Prepared
from qemu_diff.campaign.runner import run_campaign
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.peer import PeerTools
from qemu_diff.events import Event, subscribe
from qemu_diff.guest.image import StepVmm
from qemu_diff.guest.qemu import Qemu
from qemu_diff.kernels.selftest import NoSelftest
from qemu_diff.model import (
    Build,
    Campaign,
    CampaignResult,
    DebianSource,
    Driver,
    FloodSpec,
    KernelSpec,
    MachineSpec,
    ScenarioSpec,
)
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.plugin import TruthPlugin

COUNTS = (1, 2, 3)


def begun(directory: Path, *in_turn: int) -> tuple[list[str], CampaignResult]:
    """The cells in the order in which one worker began them; and the result.

    :param in_turn: indexes of cells.
    """
    nowhere = directory / "nowhere"
    campaign = Campaign(
        path=directory / "c.toml",
        name="c",
        seed=1,
        budget_s=1.0,
        kernels=(KernelSpec("k", DebianSource("linux-source-6.1")),),
        pairs=(),
        scenarios=tuple(
            ScenarioSpec(
                ("debug-exceptions",), (MachineSpec(),), FloodSpec(count=count), Driver.SELFTEST
            )
            for count in COUNTS
        ),
        findings=False,
    )
    qemu = Qemu(nowhere, "id", "QEMU 1.0", sandbox=False, cpus=())
    plugin = TruthPlugin(nowhere, 1, PhantomRule.INSN_SIZE)
    build = Build("k", "key", nowhere, None, None, None, release="6.1", cached=True, duration_s=0.0)
    prepared = Prepared(
        Tools(qemu, plugin, StepVmm(nowhere, ()), nowhere, nowhere),
        PeerTools(qemu, nowhere, nowhere, nowhere),
        payloads={},
        routines={},
        kernels=Kernels({"k": build}, {"k": NoSelftest("k", "it has none")}, {}, {}),
    )
    cells = plan(campaign)
    seen: list[Event] = []
    with subscribe(seen.append):
        result = run_campaign(
            campaign,
            cells,
            Places(nowhere, nowhere, directory / "cells"),
            prepared,
            executor=local(1),
            publish=lambda _: None,
            in_turn=[cells[index] for index in in_turn],
        )
    return [one.subject for one in seen if one.state == "started"], result


def test_cells_are_begun_as_they_are_given(tmp_path: Path) -> None:
    order, result = begun(tmp_path)
    assert order == [one.cell.id for one in result.cells]
    assert len(order) == len(COUNTS)


def test_results_stay_in_order_whatever_is_begun_first(tmp_path: Path) -> None:
    planned = [one.cell.id for one in begun(tmp_path)[1].cells]
    order, result = begun(tmp_path, 2, 0, 1)
    assert order == [planned[2], planned[0], planned[1]]
    assert [one.cell.id for one in result.cells] == planned
