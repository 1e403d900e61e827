"""What cells need before the first of them boots: tools, payloads, jobs, kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qemu_diff.campaign.finding_directory import tool_version
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.verdict import unjudged_cell
from qemu_diff.drive.async_first import plan_of
from qemu_diff.drive.debugged_job import check_debuggable
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.job import Routine, compiled
from qemu_diff.drive.peer import PeerTools, prepare_peer
from qemu_diff.drive.script import read_script, script_path
from qemu_diff.drive.session import Session, read_session, session_path
from qemu_diff.errors import (
    CompileError,
    InfrastructureError,
    KernelBuildError,
    UnavailableSourceError,
    UserError,
)
from qemu_diff.guest.gdb import require_gdb
from qemu_diff.guest.host_qemu import qemu_of
from qemu_diff.guest.image import build_payload, build_stepvmm, payload_source
from qemu_diff.guest.qemu import Qemu, check_cpu, check_qtest, find_qemu
from qemu_diff.guest.qemu_bundle import QemuBundle, fetch_bundle
from qemu_diff.kernels import build_kernel, pinned
from qemu_diff.kernels.pages import with_pages
from qemu_diff.kernels.selftest import NoSelftest, Selftest, build_selftest
from qemu_diff.model import (
    FROM_OUTSIDE,
    Build,
    Campaign,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    FloodSource,
    KernelIdentity,
    KernelSpec,
    MachineSpec,
    Payload,
    Provenance,
)
from qemu_diff.report.results import FINDINGS
from qemu_diff.truth.plugin import prepare_plugin


@dataclass(frozen=True)
class Places:
    """Directories of a run.

    :param cells: gets one directory per cell.
    """

    guest_images: Path
    cache: Path
    cells: Path

    @property
    def findings(self) -> Path:
        """Gets one directory per confirmed finding."""
        return self.cells.with_name(FINDINGS)


@dataclass(frozen=True)
class Kernels:
    """The kernels of a campaign, as far as they could be had.

    :param selftests: kernel → its own single-step test, where a cell asks for it.
    :param builds: by :func:`build_name`.
    :param broken: likewise: why it or its selftest could not be built.
    :param left_out: likewise: why an optional one can't be had here.
    """

    builds: dict[str, Build]
    selftests: dict[str, Selftest | NoSelftest]
    broken: dict[str, str]
    left_out: dict[str, str]


def build_name(kernel: str, page_kib: int) -> str:
    """What a kernel's build for a page size is called; names of kernels hold no dots."""
    return kernel if page_kib == MachineSpec.page_kib else f"{kernel}.page-{page_kib}k"


PayloadKey = tuple[str, bool]
"""A payload's name, and whether it is assembled to take interrupts."""


def _key(cell: Cell, sessions: Mapping[str, Session]) -> PayloadKey:
    """A session says itself whether its L2 takes interrupts."""
    asks = bool(cell.session) and sessions[cell.session].interrupts
    return cell.payload, asks or cell.flood.into_guest


@dataclass(frozen=True)
class Prepared:
    """What is ready before the first cell boots.

    :param peer: what the kernels' own selftests need.
    :param routines: what each job comes to on each payload.
    :param bundles: suite → L1's QEMU, where a cell asks for it and it can be had.
    :param no_bundle: suite → why it can't.
    :param sessions: by name.
    :param tools: with the QEMU on ``PATH``.
    :param further_tools: the same with each further L0 QEMU, by its name.
    :param no_qemu: optional L0 QEMU → why it can't be had here.
    """

    tools: Tools
    peer: PeerTools
    payloads: dict[PayloadKey, Payload]
    routines: dict[tuple[str, PayloadKey], Routine]
    kernels: Kernels
    bundles: dict[str, QemuBundle] = field(default_factory=dict)
    no_bundle: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    further_tools: dict[str, Tools] = field(default_factory=dict)
    no_qemu: dict[str, str] = field(default_factory=dict)

    def tools_of(self, cell: Cell) -> Tools:
        """What the cell's boots need, its own L0 QEMU among it."""
        return self.further_tools[cell.machine.qemu] if cell.machine.qemu else self.tools

    def peer_of(self, cell: Cell) -> PeerTools:
        """The same, where L1 runs somebody else's program."""
        return replace(self.peer, qemu=self.tools_of(cell).qemu)

    def build_of(self, cell: Cell) -> Build:
        """The cell's kernel, with its page size."""
        return self.kernels.builds[build_name(cell.kernel, cell.machine.page_kib)]

    def payload_of(self, cell: Cell) -> Payload:
        """What L2 runs."""
        return self.payloads[_key(cell, self.sessions)]

    def routine_of(self, cell: Cell) -> Routine:
        """The cell's job, for its payload."""
        return self.routines[cell.job, _key(cell, self.sessions)]

    def unjudged(self, cell: Cell) -> CellResult | None:
        """The result of a cell that can't be run here; None of one that can."""
        kernel = build_name(cell.kernel, cell.machine.page_kib)
        if cell.excluded:
            return unjudged_cell(cell, CellVerdict.SKIPPED, cell.excluded)
        if kernel in self.kernels.broken:
            return unjudged_cell(cell, CellVerdict.LOST, self.kernels.broken[kernel])
        if kernel in self.kernels.left_out:
            return unjudged_cell(cell, CellVerdict.SKIPPED, self.kernels.left_out[kernel])
        if missing := self.no_qemu.get(cell.machine.qemu):
            return unjudged_cell(cell, CellVerdict.SKIPPED, missing)
        if missing := self.missing_for(cell):
            return unjudged_cell(cell, CellVerdict.LOST, missing)
        return None

    def missing_for(self, cell: Cell) -> str:
        """Why the cell can't be run here, or nothing."""
        if cell.driver not in FROM_OUTSIDE:
            return ""
        return self.no_bundle.get(cell.machine.nested_qemu, "")

    @property
    def provenance(self) -> Provenance:
        """What the results are measured with."""
        return Provenance(
            kernels=tuple(
                KernelIdentity(name, build.release, build.key, build.source)
                for name, build in self.kernels.builds.items()
            ),
            qemu=self.tools.qemu.version,
            qemu_identity=self.tools.qemu.identity,
            phantom_rule=self.tools.plugin.rule.value,
            nested_qemu=tuple(f"{one.suite} {one.version}" for one in self.bundles.values()),
            tool=tool_version(),
            qemus=tuple((name, one.qemu.version) for name, one in self.further_tools.items()),
            phantom_rules=tuple(
                (name, one.plugin.rule.value) for name, one in self.further_tools.items()
            ),
        )


def prepare(campaign: Campaign, cells: Sequence[Cell], places: Places) -> Prepared:
    """Everything that cells need; what is cheap and may be missing comes first.

    :raises UserError: a tool is missing, a source, a patch or a job is wrong.
    :raises InfrastructureError: no truth plugin can be had.
    """
    cells = [cell for cell in cells if not cell.excluded]
    qemus, no_qemu = _qemus(campaign, cells)
    _check_qemus(qemus, cells)
    if any(cell.driver is Driver.GDB for cell in cells):
        require_gdb()
    tools = _tools(qemus, places)
    stock = tools.pop("")
    ours = [cell for cell in cells if cell.driver is not Driver.SELFTEST]
    beside = campaign.path.parent
    sessions = _sessions(cells, places.guest_images, beside)
    keys = {cell: _key(cell, sessions) for cell in ours}
    payloads = {key: _payload(key, beside, places) for key in sorted({*keys.values()})}
    for cell, key in keys.items():
        _check_payload(cell, payloads[key], places)
    routines = {
        (job, key): compiled(
            read_script(script_path(places.guest_images, job, beside)), payloads[key]
        )
        for job, key in sorted({(cell.job, key) for cell, key in keys.items()})
    }
    outside = [cell for cell in ours if cell.driver in FROM_OUTSIDE]
    for cell in outside:
        check_debuggable(routines[cell.job, keys[cell]], cell.job)
    bundles, no_bundle = _bundles(sorted({cell.machine.nested_qemu for cell in outside}))
    peer = prepare_peer(stock.qemu, places.guest_images, places.cache)
    kernels = _kernels(campaign, cells)
    return Prepared(
        stock,
        peer,
        payloads,
        routines,
        kernels,
        bundles,
        no_bundle=no_bundle,
        sessions=sessions,
        further_tools=tools,
        no_qemu=no_qemu,
    )


def _check_qemus(qemus: dict[str, Qemu], cells: Sequence[Cell]) -> None:
    """:raises UserError: a QEMU lacks what a cell's machine needs."""
    for cell in cells:
        if (qemu := qemus.get(cell.machine.qemu)) is None:
            continue
        check_cpu(qemu, cell.machine.cpu)
        if FloodSource.DEVICE in cell.flood.sources:
            check_qtest(qemu)


def _tools(qemus: dict[str, Qemu], places: Places) -> dict[str, Tools]:
    """:raises InfrastructureError: no truth plugin can be had."""
    images, cache = places.guest_images, places.cache
    stepvmm = build_stepvmm(images, cache)
    return {
        name: Tools(qemu, prepare_plugin(qemu, images, cache), stepvmm, images, cache)
        for name, qemu in qemus.items()
    }


def _check_payload(cell: Cell, payload: Payload, places: Places) -> None:
    """:raises UserError: the cell's machine is not one that the payload can run on."""
    plan_of(cell.machine, payload, places.guest_images, places.cache)
    if cell.machine.gic_version == 2 and payload.interrupts:
        text = f"payload {cell.payload} takes interrupts, which needs machine.gic_version 3"
        raise UserError(f"cell {cell.id}: {text}")


def pinned_kernels(campaign: Campaign, cells: Sequence[Cell]) -> Campaign:
    """The campaign, with the commits of the kernels that cells need named by their ids.

    :raises UserError: a kernel that is not optional has no such commit.
    """
    needed = {cell.kernel for cell in cells}
    kernels = (_pinned(one) if one.name in needed else one for one in campaign.kernels)
    return replace(campaign, kernels=tuple(kernels))


def _pinned(spec: KernelSpec) -> KernelSpec:
    try:
        return pinned(spec)
    except UnavailableSourceError:
        if not spec.optional:
            raise
        return spec


def _qemus(campaign: Campaign, cells: Sequence[Cell]) -> tuple[dict[str, Qemu], dict[str, str]]:
    """Each L0 QEMU by name, the one on ``PATH`` first; of optional ones, why one can't be had.

    :raises UserError: one that is not optional can't be had.
    """
    qemus = {"": find_qemu()}
    missing: dict[str, str] = {}
    needed = {cell.machine.qemu for cell in cells}
    for spec in campaign.qemus:
        if spec.name not in needed:
            continue
        try:
            qemus[spec.name] = qemu_of(spec)
        except UserError as error:
            if not spec.optional:
                raise UserError(f"qemu.{spec.name}: {error}") from error
            missing[spec.name] = f"QEMU {spec.name}: {error}"
    return qemus, missing


def _bundles(suites: Sequence[str]) -> tuple[dict[str, QemuBundle], dict[str, str]]:
    """Each suite's QEMU for L1, or why it can't be had: other cells are run all the same."""
    bundles: dict[str, QemuBundle] = {}
    missing: dict[str, str] = {}
    for suite in suites:
        try:
            bundles[suite] = fetch_bundle(suite)
        except (UnavailableSourceError, InfrastructureError) as error:
            missing[suite] = f"no QEMU for L1: {error}"
    return bundles, missing


def _sessions(cells: Sequence[Cell], guest_images: Path, beside: Path) -> dict[str, Session]:
    """
    :raises UserError: a session file is wrong, or is about another payload.
    """
    sessions: dict[str, Session] = {}
    for cell in cells:
        if not cell.session:
            continue
        path = session_path(guest_images, cell.session, beside)
        session = sessions.setdefault(cell.session, read_session(path))
        if session.payload != cell.payload:
            about = f"session {cell.session} is about payload {session.payload}"
            raise UserError(f"{path}: {about}, and the campaign has it with {cell.payload}")
    return sessions


def _payload(key: PayloadKey, beside: Path, places: Places) -> Payload:
    """
    :raises UserError: it lies beside the campaign file, and is wrong.
    """
    name, interrupts = key
    try:
        payload = build_payload(
            name, places.guest_images, places.cache, beside, interrupts=interrupts
        )
        program_of(payload)
    except CompileError as error:
        if payload_source(name, places.guest_images, beside).is_relative_to(beside):
            raise UserError(f"payload {name}: {error}") from error
        raise
    return payload


def _kernels(campaign: Campaign, cells: Sequence[Cell]) -> Kernels:
    kernels = Kernels({}, {}, {}, {})
    needed = sorted({(cell.kernel, cell.machine.page_kib) for cell in cells})
    tested = {cell.kernel for cell in cells if cell.driver is Driver.SELFTEST}
    for spec in campaign.kernels:
        for name, page_kib in needed:
            if name == spec.name:
                _add_kernel(kernels, spec, page_kib, with_selftest=name in tested)
    return kernels


def _add_kernel(kernels: Kernels, spec: KernelSpec, page_kib: int, *, with_selftest: bool) -> None:
    name = build_name(spec.name, page_kib)
    try:
        kernels.builds[name] = build_kernel(with_pages(spec, page_kib))
        if with_selftest:
            kernels.selftests[spec.name] = build_selftest(spec)
    except KernelBuildError as error:
        kernels.broken[name] = str(error)
    except UnavailableSourceError as error:
        if not spec.optional:
            raise
        kernels.left_out[name] = str(error)
