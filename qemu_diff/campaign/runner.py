"""Runs a campaign: kernels first, then its cells side by side, publishing after each."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from qemu_diff.campaign.cell import CellContext, read_boot, run_cell
from qemu_diff.campaign.confirm import Confirmer, confirmed
from qemu_diff.campaign.fresh_boot import Bench
from qemu_diff.campaign.peer_cell import PeerContext, run_peer_cell
from qemu_diff.campaign.plan import pairs
from qemu_diff.campaign.prepare import Places, Prepared
from qemu_diff.campaign.resume import NOTHING_DONE, Start
from qemu_diff.campaign.session_cell import SessionContext, run_session_cell
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.pair import pair_result, pass_of_steps, side_by_side
from qemu_diff.compare.verdict import unjudged_cell
from qemu_diff.drive.script import script_path
from qemu_diff.errors import InfrastructureError
from qemu_diff.events import Stage, stage
from qemu_diff.guest.image import PAYLOADS, payload_source
from qemu_diff.guest.process import Cancelled
from qemu_diff.model import (
    FROM_OUTSIDE,
    Campaign,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    FloodSource,
    PairResult,
    SideBySide,
)
from qemu_diff.trace.listing import Listing

Publish = Callable[[CampaignResult], None]


def run_campaign(
    campaign: Campaign,
    cells: Sequence[Cell],
    places: Places,
    prepared: Prepared,
    *,
    jobs: int,
    publish: Publish,
    start: Start = NOTHING_DONE,
) -> CampaignResult:
    """Run the given cells of a campaign.

    :param prepared: what :func:`prepare` made for them.
    :param jobs: boots side by side.
    :param publish: called with what is known so far, after each cell.
    :param start: what the run begins with: its cells that are finished are not run again.
    :returns: ``complete`` is False where the user called it off.
    :raises InfrastructureError: results can't be written.
    """
    run = _Run(campaign, tuple(cells), places, prepared, publish, start=start)
    return run.run(jobs)


class _Run:
    def __init__(
        self,
        campaign: Campaign,
        cells: tuple[Cell, ...],
        places: Places,
        prepared: Prepared,
        publish: Publish,
        *,
        start: Start,
    ) -> None:
        self._campaign = campaign
        self._cells = cells
        self._places = places
        self._prepared = prepared
        self._publish = publish
        self._start = start
        self._cancel = threading.Event()
        self._done: dict[str, CellResult] = {}
        self._pairs: dict[tuple[str, str], PairResult] = {}

    def run(self, jobs: int) -> CampaignResult:
        self._keep_payloads()
        for finished in self._start.finished.values():
            self._add(finished)
        self._publish(self._result(complete=False))
        called_off = False
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            futures = [
                pool.submit(self._run_cell, cell)
                for cell in self._cells
                if cell.id not in self._done
            ]
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

    def _keep_payloads(self) -> None:
        """Payloads of the campaign's own stay with its results: `sequence` reads them later."""
        beside = self._campaign.path.parent
        for name, _ in self._prepared.payloads:
            source = payload_source(name, self._places.guest_images, beside)
            if source.parent == beside / PAYLOADS:
                shutil.copytree(source.parent, self._places.cells / PAYLOADS, dirs_exist_ok=True)
                return

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
        kernels = self._prepared.kernels
        if cell.kernel in kernels.broken:
            return unjudged_cell(cell, CellVerdict.LOST, kernels.broken[cell.kernel])
        if cell.kernel in kernels.left_out:
            return unjudged_cell(cell, CellVerdict.SKIPPED, kernels.left_out[cell.kernel])
        if missing := self._prepared.missing_for(cell):
            return unjudged_cell(cell, CellVerdict.LOST, missing)
        with stage("cell", cell.id) as running:
            if self._cancel.is_set():
                raise Cancelled
            directory = self._places.cells / cell.id
            shutil.rmtree(directory, ignore_errors=True)
            try:
                result = self._driven(cell, directory, running)
            except Cancelled:
                # Half a boot proves nothing, and its files are large.
                shutil.rmtree(directory, ignore_errors=True)
                raise
        return replace(result, duration_s=round(time.monotonic() - started, 3))

    def _driven(self, cell: Cell, directory: Path, running: Stage) -> CellResult:
        prepared = self._prepared
        build = prepared.kernels.builds[cell.kernel]
        budget_s = self._campaign.budget_s
        if cell.driver is Driver.SELFTEST:
            selftest = prepared.kernels.selftests[cell.kernel]
            peer = PeerContext(build, selftest, prepared.peer, directory, budget_s, self._cancel)
            return run_peer_cell(cell, peer)
        if cell.session:
            session = SessionContext(
                build=build,
                payload=prepared.payload_of(cell),
                session=prepared.sessions[cell.session],
                stepper=prepared.debugger_of(cell),
                directory=directory,
                budget_s=budget_s,
                cancel=self._cancel,
            )
            return run_session_cell(cell, session, running)
        context = CellContext(
            build=build,
            payload=prepared.payload_of(cell),
            routine=prepared.routine_of(cell),
            tools=prepared.tools,
            stepper=prepared.stepper_of(cell),
            directory=directory,
            budget_s=budget_s,
            cancel=self._cancel,
            explain=self._campaign.findings,
        )
        result = run_cell(cell, context, running)
        # What comes when the host says does not come again.
        from_outside = FloodSource.DEVICE in cell.flood.sources or cell.driver in FROM_OUTSIDE
        if from_outside or not (self._campaign.findings and result.breakdown):
            return result
        running.progress("confirming what was found")
        return confirmed(result, self._confirmer(cell, context))

    def _confirmer(self, cell: Cell, context: CellContext) -> Confirmer:
        """What it takes to see a cell's findings again, from a fresh boot."""
        beside, ours = self._campaign.path.parent, self._places.guest_images
        source = payload_source(cell.payload, ours, beside)
        builds = self._prepared.kernels.builds
        names = next(
            (
                (baseline.kernel, candidate.kernel)
                for baseline, candidate in pairs(self._campaign, self._cells)
                if cell.id in (baseline.id, candidate.id)
            ),
            (),
        )
        return Confirmer(
            bench=Bench(
                cell, context.build, context.payload, context.tools, context.budget_s, self._cancel
            ),
            routine=context.routine,
            boots=context.directory,
            findings=self._places.findings,
            source=source,
            includes=(source.parent, ours / PAYLOADS),
            script=script_path(ours, cell.job, beside),
            spec=next(one for one in self._campaign.kernels if one.name == cell.kernel),
            pair=tuple((name, builds[name]) for name in names if name in builds),
            provenance=self._prepared.provenance,
        )

    def _add(self, result: CellResult) -> None:
        identity = self._start.identities.get(result.cell.id, "")
        self._done[result.cell.id] = replace(result, identity=identity)
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
        payload = self._prepared.payload_of(baseline.cell)
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
            self._campaign.name,
            in_order,
            paired,
            complete,
            self._prepared.provenance,
            run=self._start.run,
            started=self._start.started,
            only=self._start.only,
        )
