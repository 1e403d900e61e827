"""The same answer everywhere: what was recorded is what was blessed, wherever it was cut to be
judged."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from golden.blessed import CAMPAIGN, Run, complaint, inputs_here, load, recorded, unknown
from integration.cli_run import CliRun, run_campaign

from qemu_diff.campaign.cell import read_boot
from qemu_diff.compare.contract import Steps, join_steps, judge_windows
from qemu_diff.compare.decode import program_of
from qemu_diff.config.project import project_root
from qemu_diff.drive.in_guest import TRUTH, Tools
from qemu_diff.guest.image import build_payload, build_stepvmm
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import cache_directory
from qemu_diff.truth.plugin import prepare_plugin

pytestmark = pytest.mark.integration

GUEST_IMAGES = project_root() / "guest_images"
SIZES = (40, 1000)
IN_ONE_PIECE = 1 << 30


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> CliRun:
    return run_campaign(CAMPAIGN, tmp_path_factory.mktemp("golden") / "results")


def test_the_run_is_the_one_that_was_blessed(golden: CliRun, tmp_path: Path) -> None:
    assert golden.status == 0
    run, blessed = Run(inputs_here(), recorded(golden.verdicts)), load()
    assert not complaint(run, blessed)
    if new := unknown(run, blessed):
        # A package's point release: what can be said is that a second run says the same.
        warnings.warn(new, stacklevel=1)
        again = run_campaign(CAMPAIGN, tmp_path / "again")
        assert recorded(again.verdicts) == run.cells


def test_the_step_vmm_is_the_same_wherever_it_is_compiled(tmp_path: Path) -> None:
    moved = Path(shutil.copytree(GUEST_IMAGES, tmp_path / "moved" / "guest_images"))

    programs = [
        build_stepvmm(sources, tmp_path / name).program.read_bytes()
        for name, sources in (("here", GUEST_IMAGES), ("there", moved))
    ]

    assert programs[0] == programs[1]


def test_real_traces_are_judged_the_same_wherever_they_are_cut(golden: CliRun) -> None:
    cache, qemu = cache_directory("guest"), find_qemu()
    stepvmm = build_stepvmm(GUEST_IMAGES, cache)
    plugin = prepare_plugin(qemu, GUEST_IMAGES, cache)
    tools = Tools(qemu, plugin, stepvmm, GUEST_IMAGES, cache)
    boots = sorted(golden.results.glob(f"cells/*/*/{TRUTH}"))
    assert len(boots) >= len(golden.verdicts["cells"])

    for truth in boots:
        name = truth.parent.parent.name.split(".")[1]
        judge_everywhere(truth.parent, name, tools)


def judge_everywhere(boot: Path, payload: str, tools: Tools) -> None:
    trace = read_boot(boot, tools)
    program = program_of(build_payload(payload, GUEST_IMAGES, tools.cache))

    def judged(size: int) -> Steps:
        arrays = trace.records, trace.truth, trace.phantom.__getitem__
        return join_steps(list(judge_windows(*arrays, program, size)))

    whole = judged(IN_ONE_PIECE)
    assert len(whole)
    for size in SIZES:
        parts = judged(size)
        for one in fields(Steps):
            assert np.array_equal(getattr(parts, one.name), getattr(whole, one.name)), (boot, size)
