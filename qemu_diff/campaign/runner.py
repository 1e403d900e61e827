"""Runs a campaign: kernels first, then its cells side by side, publishing after each."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from qemu_diff.campaign.cell import CellContext, read_boot, run_cell
from qemu_diff.campaign.plan import pairs
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.pair import pair_result, pass_of_steps, side_by_side
from qemu_diff.compare.verdict import unjudged_cell
from qemu_diff.drive.in_guest import Tools
from qemu_diff.errors import InfrastructureError, KernelBuildError
from qemu_diff.events import stage
from qemu_diff.guest.image import build_payload, build_stepvmm
from qemu_diff.guest.process import Cancelled
from qemu_diff.guest.qemu import check_cpu, find_qemu
from qemu_diff.kernels import build_kernel
from qemu_diff.model import (
    Build,
    Campaign,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    KernelIdentity,
    PairResult,
    Payload,
    Provenance,
    SideBySide,
)
from qemu_diff.trace.listing import Listing
from qemu_diff.truth.plugin import prepare_plugin

Publish = Callable[[CampaignResult], None]


@dataclass(frozen=True)
class Places:
    """Directories of a run.

    :param cells: gets one directory per cell.
    """

    guest_images: Path
    cache: Path
    cells: Path


@dataclass(frozen=True)
class Prepared:
    """What is ready before the first cell boots.

    :param broken: kernel → why it could not be built.
    """

    tools: Tools
    payloads: dict[str, Payload]
    builds: dict[str, Build]
    broken: dict[str, str]

    @property
    def provenance(self) -> Provenance:
        """What the results are measured with."""
        return Provenance(
            kernels=tuple(
                KernelIdentity(name, build.release, build.key)
                for name, build in self.builds.items()
            ),
            qemu=self.tools.qemu.version,
            qemu_identity=self.tools.qemu.identity,
            phantom_rule=self.tools.plugin.rule.value,
        )


def run_campaign(
    campaign: Campaign,
    cells: Sequence[Cell],
    places: Places,
    prepared: Prepared,
    *,
    jobs: int,
    publish: Publish,
) -> CampaignResult:
    """Run the given cells of a campaign.

    :param prepared: what :func:`prepare` made for them.
    :param jobs: boots side by side.
    :param publish: called with what is known so far, after each cell.
    :returns: ``complete`` is False where the user called it off.
    :raises InfrastructureError: results can't be written.
    """
    run = _Run(campaign, tuple(cells), places, prepared, publish)
    return run.run(jobs)


def prepare(campaign: Campaign, cells: Sequence[Cell], places: Places) -> Prepared:
    """Everything that cells need; what is cheap and may be missing comes first.

    :raises UserError: a tool is missing, a source or a patch is wrong.
    :raises InfrastructureError: no truth plugin can be had.
    """
    qemu = find_qemu()
    for cell in cells:
        check_cpu(qemu, cell.machine.cpu)
    tools = Tools(
        qemu,
        prepare_plugin(qemu, places.guest_images, places.cache),
        build_stepvmm(places.guest_images, places.cache),
    )
    payloads = {
        name: build_payload(name, places.guest_images, places.cache)
        for name in sorted({cell.payload for cell in cells})
    }
    for payload in payloads.values():
        program_of(payload)
    builds: dict[str, Build] = {}
    broken: dict[str, str] = {}
    needed = {cell.kernel for cell in cells}
    for spec in campaign.kernels:
        if spec.name not in needed:
            continue
        try:
            builds[spec.name] = build_kernel(spec)
        except KernelBuildError as error:
            broken[spec.name] = str(error)
    return Prepared(tools, payloads, builds, broken)


class _Run:
    def __init__(
        self,
        campaign: Campaign,
        cells: tuple[Cell, ...],
        places: Places,
        prepared: Prepared,
        publish: Publish,
    ) -> None:
        self._campaign = campaign
        self._cells = cells
        self._places = places
        self._prepared = prepared
        self._publish = publish
        self._cancel = threading.Event()
        self._done: dict[str, CellResult] = {}
        self._pairs: dict[tuple[str, str], PairResult] = {}

    def run(self, jobs: int) -> CampaignResult:
        self._publish(self._result(complete=False))
        called_off = False
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            futures = [pool.submit(self._run_cell, cell) for cell in self._cells]
            try:
                self._collect(futures)
            except KeyboardInterrupt:
                called_off = True
            finally:
                # The pool waits for its threads: they end as soon as they see this.
                self._cancel.set()
                for future in futures:
                    future.cancel()
        if called_off:
            self._keep_finished(futures)
        result = self._result(complete=len(self._done) == len(self._cells))
        self._publish(result)
        return result

    def _collect(self, futures: list[Future[CellResult]]) -> None:
        for future in as_completed(futures):
            self._add(future.result())
            self._publish(self._result(complete=False))

    def _keep_finished(self, futures: list[Future[CellResult]]) -> None:
        for future in futures:
            with suppress(BaseException):
                self._add(future.result(timeout=0))

    def _run_cell(self, cell: Cell) -> CellResult:
        started = time.monotonic()
        if cell.kernel in self._prepared.broken:
            return unjudged_cell(cell, CellVerdict.LOST, self._prepared.broken[cell.kernel])
        with stage("cell", cell.id) as running:
            if self._cancel.is_set():
                raise Cancelled
            directory = self._places.cells / cell.id
            shutil.rmtree(directory, ignore_errors=True)
            context = CellContext(
                build=self._prepared.builds[cell.kernel],
                payload=self._prepared.payloads[cell.payload],
                tools=self._prepared.tools,
                directory=directory,
                budget_s=self._campaign.budget_s,
                cancel=self._cancel,
            )
            try:
                result = run_cell(cell, context, running)
            except Cancelled:
                # Half a boot proves nothing, and its files are large.
                shutil.rmtree(directory, ignore_errors=True)
                raise
        return replace(result, duration_s=round(time.monotonic() - started, 3))

    def _add(self, result: CellResult) -> None:
        self._done[result.cell.id] = result
        for baseline, candidate in pairs(self._campaign, self._cells):
            key = baseline.id, candidate.id
            if key in self._pairs or not {*key} <= self._done.keys():
                continue
            first, second = (self._done[one] for one in key)
            self._pairs[key] = pair_result(first, second, self._side_by_side(first, second))

    def _side_by_side(self, baseline: CellResult, candidate: CellResult) -> SideBySide | None:
        """Both kernels' PCs around the first finding; None where a boot left no trace of it."""
        found = [*baseline.findings[:1], *candidate.findings[:1]]
        if not found:
            return None
        payload = self._prepared.payloads[baseline.cell.payload]
        listing, program = Listing(payload), program_of(payload)
        around = found[0].missed[0] if found[0].missed else found[0].reported_pc
        try:
            passes = [
                pass_of_steps(
                    read_boot(
                        self._places.cells / one.cell.id / found[0].boot, self._prepared.tools
                    ),
                    program,
                    found[0].pass_number,
                )
                for one in (baseline, candidate)
            ]
        except InfrastructureError:
            return None
        return side_by_side(passes[0], passes[1], around.address, listing)

    def _result(self, complete: bool) -> CampaignResult:
        in_order = tuple(self._done[cell.id] for cell in self._cells if cell.id in self._done)
        paired = tuple(
            self._pairs[key]
            for baseline, candidate in pairs(self._campaign, self._cells)
            if (key := (baseline.id, candidate.id)) in self._pairs
        )
        return CampaignResult(
            self._campaign.name, in_order, paired, complete, self._prepared.provenance
        )
