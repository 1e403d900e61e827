"""A checked campaign file → :class:`qemu_diff.model.Campaign`: pure but for path look-ups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from qemu_diff.config.paths import SearchPath, is_url
from qemu_diff.config.ranges import expanded
from qemu_diff.config.schema import (
    CampaignFile,
    FloodTable,
    KernelTable,
    MachineTable,
    PairTable,
    QemuTable,
    ScenarioTable,
)
from qemu_diff.model import (
    ADAPTIVE_PROBES,
    ADAPTIVE_STEP_NS,
    STOCK_QEMU,
    Campaign,
    DebianSource,
    Driver,
    ExceptionOrder,
    Exclusion,
    FloodSource,
    FloodSpec,
    GitSource,
    ImageSource,
    KernelSource,
    KernelSpec,
    MachineSpec,
    PairOf,
    PairSpec,
    Placement,
    QemuSpec,
    ScenarioSpec,
    TreeSource,
)


def resolved(file: CampaignFile, path: Path, paths: SearchPath) -> Campaign:
    """The campaign that a checked file describes.

    :param path: the campaign file, absolute.
    """
    file = expanded(file)
    return Campaign(
        path=path,
        name=file.campaign.name,
        seed=file.campaign.seed,
        budget_s=file.campaign.budget_s,
        kernels=tuple(_kernel(name, table, paths) for name, table in file.kernels.items()),
        pairs=tuple(map(_pair, file.pair)),
        scenarios=tuple(spec for table in file.scenario for spec in scenario_specs(table)),
        findings=file.campaign.findings,
        qemus=tuple(_qemu(name, table, paths) for name, table in file.qemu.items()),
        exclusions=tuple(Exclusion(one.cells, one.reason) for one in file.exclude),
        cost_change=file.campaign.cost_change,
    )


def qemu_name(written: str) -> str:
    """What the model calls a QEMU of the file's: the one on ``PATH`` has no name."""
    return "" if written == STOCK_QEMU else written


def _pair(table: PairTable) -> PairSpec:
    if table.of is not PairOf.QEMU:
        return PairSpec(table.baseline, table.candidate, table.of)
    return PairSpec(qemu_name(table.baseline), qemu_name(table.candidate), table.of)


def _qemu(name: str, table: QemuTable, paths: SearchPath) -> QemuSpec:
    program = table.program or ""
    # As in a shell: what has a slash is a path, anything else a name on PATH.
    if "/" in program:
        program = str(paths.resolve(program))
    return QemuSpec(name, program, table.suite or "", table.optional)


def scenario_specs(table: ScenarioTable) -> Iterator[ScenarioSpec]:
    """A scenario with its machines, its floods and its drivers multiplied out."""
    each_of = [[one] for one in table.flood.each_of or ()] or [table.flood.source]
    for sources, driver in product(each_of, table.driver):
        yield _scenario(table, _flood(table.flood, sources), driver)


def _scenario(table: ScenarioTable, flood: FloodSpec, driver: Driver) -> ScenarioSpec:
    return ScenarioSpec(
        payloads=tuple(table.payload),
        machines=tuple(_machines(table.machine)),
        flood=flood,
        driver=driver,
        expect=tuple(
            (kernel, what, tuple(sorted(set(expected))))
            for kernel, of_kernel in table.expect.items()
            for what, expected in of_kernel.items()
        ),
        jobs=tuple(table.job),
        kernels=tuple(table.kernels),
        sessions=tuple(table.session),
        seeds=tuple(table.seeds),
    )


def _machines(table: MachineTable) -> Iterator[MachineSpec]:
    for mode, cpu, memory_mib, cpus, gic_version, page_kib, qemu, nested_qemu, order in product(
        table.kvm_mode,
        table.cpu,
        table.memory_mib,
        table.cpus,
        table.gic_version,
        table.page_kib,
        table.qemu,
        table.nested_qemu,
        table.exception_order,
    ):
        machine = MachineSpec(
            kvm_mode=mode,
            cpu=cpu,
            memory_mib=memory_mib,
            cpus=cpus,
            exception_order=order,
            nested_qemu=nested_qemu,
            gic_version=gic_version,
            page_kib=page_kib,
            qemu=qemu_name(qemu),
        )
        if order is ExceptionOrder.TCG:
            yield machine
            continue
        for pending in table.pending:
            yield replace(
                machine,
                pending=pending,
                redirects=table.redirects,
                redirect_at=tuple(table.redirect_at),
            )


def _flood(table: FloodTable, sources: Sequence[FloodSource]) -> FloodSpec:
    step_ns, count = FloodSpec.step_ns, FloodSpec.count
    if table.placement is Placement.ADAPTIVE:
        step_ns, count = ADAPTIVE_STEP_NS, ADAPTIVE_PROBES
    return FloodSpec(
        sources=tuple(one for one in sources if one is not FloodSource.NONE),
        placement=table.placement,
        first_ns=table.first_ns,
        last_ns=table.last_ns,
        step_ns=step_ns if table.step_ns is None else table.step_ns,
        count=count if table.count is None else table.count,
        period_ns=table.period_ns or FloodSpec.period_ns,
        burst=table.burst or FloodSpec.burst,
    )


def _kernel(name: str, table: KernelTable, paths: SearchPath) -> KernelSpec:
    return KernelSpec(
        name=name,
        source=_source(table, paths),
        patches=tuple(paths.resolve(patch) for patch in table.patches),
        kconfig=tuple(paths.resolve(fragment) for fragment in table.kconfig),
        optional=table.optional,
        reverts=tuple(table.reverts),
    )


def _source(table: KernelTable, paths: SearchPath) -> KernelSource:
    source = table.source
    if isinstance(source, DebianSource):
        return source
    if source.git is not None:
        place = source.git if is_url(source.git) else str(paths.resolve(source.git))
        return GitSource(place, source.rev or GitSource.rev)
    if source.tree is not None:
        return TreeSource(paths.resolve(source.tree))
    if source.debian is not None:
        return DebianSource(source.debian, source.suite or "")
    assert source.image is not None, "the schema lets no empty source through"
    vmlinux = None if source.vmlinux is None else paths.resolve(source.vmlinux)
    return ImageSource(paths.resolve(source.image), vmlinux)
