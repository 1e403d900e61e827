"""Runs a campaign: hands its cells out, collects what comes of them, publishing after each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from contextlib import suppress
from dataclasses import replace

from qemu_diff.campaign.cell import read_boot
from qemu_diff.campaign.cell_task import cell_tasks
from qemu_diff.campaign.executor import Executor
from qemu_diff.campaign.plan import pairs
from qemu_diff.campaign.prepare import Places, Prepared
from qemu_diff.campaign.resume import NOTHING_DONE, Start
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.pair import pair_result, pass_of_steps, side_by_side
from qemu_diff.errors import InfrastructureError
from qemu_diff.guest.image import PAYLOADS, payload_source
from qemu_diff.model import (
    Campaign,
    CampaignResult,
    Cell,
    CellResult,
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
    executor: Executor,
    publish: Publish,
    start: Start = NOTHING_DONE,
    in_turn: Sequence[Cell] = (),
) -> CampaignResult:
    """Run the given cells of a campaign.

    :param prepared: what :func:`prepare` made for them.
    :param executor: where they are run.
    :param publish: called with what is known so far, after each cell.
    :param start: what the run begins with: its cells that are finished are not run again.
    :param in_turn: the same cells in the order in which they are begun; none: as they are given.
    :returns: ``complete`` is False where the user called it off.
    :raises InfrastructureError: results can't be written.
    """
    run = _Run(campaign, tuple(cells), places, prepared, publish, start=start)
    return run.run(executor, in_turn or cells)


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
        self._done: dict[str, CellResult] = {}
        self._planned_pairs = pairs(campaign, cells)
        self._pairs_of: dict[str, list[tuple[Cell, Cell]]] = {}
        for pair in self._planned_pairs:
            for cell in pair:
                self._pairs_of.setdefault(cell.id, []).append(pair)
        self._pairs: dict[tuple[str, str], PairResult] = {}

    def run(self, executor: Executor, in_turn: Sequence[Cell]) -> CampaignResult:
        self._keep_payloads()
        for finished in self._start.finished.values():
            self._add(finished)
        for cell in self._cells:
            if unjudged := self._prepared.unjudged(cell):
                self._add(unjudged)
        self._publish(self._result(complete=False))
        tasks = cell_tasks(self._campaign, self._cells, self._prepared, self._places.guest_images)
        called_off = False
        futures: list[Future[CellResult]] = []
        try:
            for cell in in_turn:
                if cell.id not in self._done:
                    futures.append(executor.submit(tasks[cell.id], self._places))
            self._collect(futures)
        except KeyboardInterrupt:
            called_off = True
        finally:
            executor.cancel()
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

    def _add(self, result: CellResult) -> None:
        identity = self._start.identities.get(result.cell.id, "")
        self._done[result.cell.id] = replace(result, identity=identity)
        for baseline, candidate in self._pairs_of.get(result.cell.id, ()):
            key = baseline.id, candidate.id
            if key in self._pairs or not {*key} <= self._done.keys():
                continue
            first, second = (self._done[one] for one in key)
            self._pairs[key] = pair_result(
                first,
                second,
                self._side_by_side(first, second),
                cost_change=self._campaign.cost_change,
            )

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
                        self._places.cells / one.cell.id / found[0].boot,
                        self._prepared.tools_of(one.cell),
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
            for baseline, candidate in self._planned_pairs
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
