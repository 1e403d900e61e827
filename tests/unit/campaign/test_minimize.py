"""The campaign that a minimised finding becomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from unit.campaign.test_finding_directory import RECORD

from qemu_diff.campaign.finding_directory import FindingRecord
from qemu_diff.campaign.minimize import (
    CAMPAIGN,
    Shrunk,
    campaign_text,
    flood_text,
    minimize_sentences,
)
from qemu_diff.config import load_campaign
from qemu_diff.model import (
    CellResult,
    CellVerdict,
    DebianSource,
    ExceptionOrder,
    Expectation,
    FloodSource,
    FloodSpec,
    ImageSource,
    KernelSource,
    KvmMode,
    MachineSpec,
    Pending,
    Placement,
    TreeSource,
    ViolationKind,
)

RESULT = CellResult(
    RECORD.cell,
    CellVerdict.FAIL,
    violations=((ViolationKind.LOST_STEP, 1), (ViolationKind.SS_LEAK, 2)),
)


def loaded(directory: Path, record: FindingRecord, delay_ns: int | None, passes: int = 1):  # type: ignore[no-untyped-def]
    (directory / "payloads").mkdir()
    (directory / "payloads" / "p_min.S").touch()
    (directory / "patch-0").touch()
    path = directory / CAMPAIGN
    path.write_text(
        campaign_text(record, flood_text(FloodSource.HOST_TIMER, delay_ns, passes), RESULT)
    )
    return load_campaign(path)


def test_it_names_the_payload_beside_it_and_one_placement(tmp_path: Path) -> None:
    campaign = loaded(tmp_path, RECORD, 3777)
    (scenario,) = campaign.scenarios
    assert scenario.payloads == ("p_min",)
    assert scenario.flood == FloodSpec(
        (FloodSource.HOST_TIMER,), Placement.SWEEP, first_ns=3777, last_ns=3777
    )
    assert scenario.expect == (("k", "p_min", (Expectation.LOST_STEP, Expectation.SS_LEAK)),)
    assert campaign.kernels[0].patches == (tmp_path / "patch-0",)
    assert campaign.seed == RECORD.cell.seed


def test_two_passes_are_two_placements_and_none_is_quiet(tmp_path: Path) -> None:
    (scenario,) = loaded(tmp_path, RECORD, 10, 2).scenarios
    assert (scenario.flood.first_ns, scenario.flood.last_ns) == (10, 11)
    (tmp_path / "quiet").mkdir()
    (scenario,) = loaded(tmp_path / "quiet", RECORD, None).scenarios
    assert scenario.flood == FloodSpec()


@pytest.mark.parametrize(
    "machine",
    [
        MachineSpec(KvmMode.NVHE, "cortex-a57", 512),
        MachineSpec(exception_order=ExceptionOrder.ASYNC_FIRST, redirects=2),
        MachineSpec(
            exception_order=ExceptionOrder.ASYNC_FIRST, pending=Pending.SPI, redirect_at=("a",)
        ),
    ],
)
def test_the_machine_is_the_finding_s(tmp_path: Path, machine: MachineSpec) -> None:
    record = replace(RECORD, cell=replace(RECORD.cell, machine=machine))
    assert loaded(tmp_path, record, None).scenarios[0].machines == (machine,)


def test_the_kernel_is_the_finding_s(tmp_path: Path) -> None:
    tree, image, vmlinux = (tmp_path / name for name in ("a tree", "Image", 'vm"linux'))
    tree.mkdir()
    image.touch()
    vmlinux.touch()
    sources: tuple[KernelSource, ...] = (
        DebianSource("linux-image-cloud-arm64", "bullseye"),
        TreeSource(tree),
        ImageSource(image, vmlinux),
    )
    for number, source in enumerate(sources):
        directory = tmp_path / str(number)
        directory.mkdir()
        record = replace(RECORD, kernel=replace(RECORD.kernel, source=source, patches=()))
        assert loaded(directory, record, None).kernels[0].source == source


def test_it_says_what_is_left() -> None:
    done = Shrunk(4, ("mrs x0, id_aa64pfr0_el1",), True, steps=1, passes=1, interrupts=1, boots=6)
    said = "\n".join(minimize_sentences(RECORD, done, Path("out")))
    assert "1 of 4 instructions are left, and none of them can go:" in said
    assert "1 pass, 1 step reported, 1 placed interrupt; 6 boots" in said
    assert "qemu-diff run out/campaign.toml" in said
    cut = replace(done, minimal=False, interrupts=2)
    assert "some may still go" in "\n".join(minimize_sentences(RECORD, cut, Path("out")))
