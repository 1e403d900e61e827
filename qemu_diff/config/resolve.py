"""A checked campaign file → :class:`qemu_diff.model.Campaign`: pure but for path look-ups."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from qemu_diff.config.paths import SearchPath
from qemu_diff.config.schema import CampaignFile, FloodTable, KernelTable, ScenarioTable
from qemu_diff.model import (
    Campaign,
    DebianSource,
    FloodSpec,
    ImageSource,
    KernelSource,
    KernelSpec,
    MachineSpec,
    PairSpec,
    ScenarioSpec,
    TreeSource,
)


def resolved(file: CampaignFile, path: Path, paths: SearchPath) -> Campaign:
    """The campaign that a checked file describes.

    :param path: the campaign file, absolute.
    """
    return Campaign(
        path=path,
        name=file.campaign.name,
        seed=file.campaign.seed,
        budget_s=file.campaign.budget_s,
        kernels=tuple(_kernel(name, table, paths) for name, table in file.kernels.items()),
        pairs=tuple(PairSpec(pair.baseline, pair.candidate) for pair in file.pair),
        scenarios=tuple(scenario_spec(table) for table in file.scenario),
    )


def scenario_spec(table: ScenarioTable) -> ScenarioSpec:
    """One scenario with its machines multiplied out."""
    machine = table.machine
    return ScenarioSpec(
        payloads=tuple(table.payload),
        machines=tuple(
            MachineSpec(mode, cpu, machine.memory_mib)
            for mode, cpu in product(machine.kvm_mode, machine.cpu)
        ),
        flood=_flood(table.flood),
        driver=table.driver,
        expect=tuple(
            (kernel, payload, expectation)
            for kernel, expected in table.expect.items()
            for payload, expectation in expected.items()
        ),
    )


def _flood(table: FloodTable) -> FloodSpec:
    return FloodSpec(
        source=table.source,
        placement=table.placement,
        first_ns=table.first_ns,
        last_ns=table.last_ns,
        step_ns=table.step_ns,
        count=FloodSpec.count if table.count is None else table.count,
    )


def _kernel(name: str, table: KernelTable, paths: SearchPath) -> KernelSpec:
    return KernelSpec(
        name=name,
        source=_source(table, paths),
        patches=tuple(paths.resolve(patch) for patch in table.patches),
        kconfig=tuple(paths.resolve(fragment) for fragment in table.kconfig),
    )


def _source(table: KernelTable, paths: SearchPath) -> KernelSource:
    source = table.source
    if isinstance(source, DebianSource):
        return source
    if source.tree is not None:
        return TreeSource(paths.resolve(source.tree))
    assert source.image is not None, "the schema lets no source without tree and image through"
    vmlinux = None if source.vmlinux is None else paths.resolve(source.vmlinux)
    return ImageSource(paths.resolve(source.image), vmlinux)
