"""One pass of one cell, retold from what its boot left: every entry into L2 and every exit."""

from __future__ import annotations

from pathlib import Path

from qemu_diff.compare.decode import program_of
from qemu_diff.compare.sequence import SequenceRow, sequence_of_pass
from qemu_diff.drive.in_guest import RECORDS, TIMER_LOG, TRUTH
from qemu_diff.errors import InfrastructureError, ResultsError, UserError
from qemu_diff.guest.image import build_payload
from qemu_diff.model import CampaignResult, CellResult
from qemu_diff.report.results import CELLS
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import read_trace
from qemu_diff.truth.phantom import PhantomRule


def cell_sequence(
    result: CampaignResult,
    results: Path,
    cell: str,
    *,
    boot: str | None,
    number: int | None,
    guest_images: Path,
    cache: Path,
) -> tuple[str, tuple[SequenceRow, ...]]:
    """What happened in one pass.

    :param results: the results directory.
    :param cell: a cell's id.
    :param boot: its boot; None: that of its first finding, else its first.
    :param number: the pass, from 0; None: that of the first finding, else 0.
    :param guest_images: where the payload's source is.
    :param cache: where compiled payloads are.
    :returns: the boot and the pass in words, and the events in order.
    :raises UserError: there is no such cell, boot or pass.
    :raises ResultsError: the boot left nothing that can be read.
    """
    one = _cell(result, cell)
    finding = one.findings[0] if one.findings else None
    directory = results / CELLS / cell
    boots = sorted(path.parent.name for path in directory.glob(f"*/{RECORDS}"))
    if not boots:
        raise ResultsError(f"{directory}: holds no boot; was it moved, or is it a peer's?")
    chosen = boot or (finding.boot if finding else boots[0])
    if chosen not in boots:
        raise UserError(f"cell {cell} has no boot {chosen!r}; there are {', '.join(boots)}")
    passed = number if number is not None else finding.pass_number if finding else 0
    payload = build_payload(
        one.cell.payload,
        guest_images,
        cache,
        results / CELLS,
        interrupts=one.cell.flood.into_guest,
    )
    known = result.provenance
    rules = {"": known.phantom_rule, **dict(known.phantom_rules)}
    if not (named := rules.get(one.cell.machine.qemu)):
        raise ResultsError(
            f"{results}: does not tell QEMU {one.cell.machine.qemu!r}'s phantom rule"
        )
    rule = PhantomRule(named)
    left = directory / chosen
    try:
        trace = read_trace(left / RECORDS, left / TRUTH, left / TIMER_LOG, rule)
        rows = sequence_of_pass(trace, program_of(payload), Listing(payload), passed)
    except InfrastructureError as error:
        raise ResultsError(f"{left}: {error}") from error
    except OSError as error:
        raise ResultsError(f"{error.filename}: {error.strerror}") from error
    if not rows:
        raise UserError(f"boot {chosen} of cell {cell} has no pass {passed}")
    return f"boot {chosen}, pass {passed}", rows


def _cell(result: CampaignResult, cell: str) -> CellResult:
    found = next((one for one in result.cells if one.cell.id == cell), None)
    if found is None:
        raise UserError(f"there is no cell {cell!r} in these results; see qemu-diff show")
    return found
