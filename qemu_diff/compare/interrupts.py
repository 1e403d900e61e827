"""What was sent, and what came of it: each source's count against L2's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qemu_diff.abi import FROM_IPI, RecordFlag, RecordKind, StepRecords, TimerKind
from qemu_diff.compare.decode import Program
from qemu_diff.compare.slices import Executions, pass_of_run
from qemu_diff.model import Excursions, InterruptCount, Payload, SourceCount

SGI = "sgi"
"""The source that is L2 itself."""


@dataclass(frozen=True)
class Delivered:
    """Interrupts of one boot, or of several.

    :param sources: in the order of :class:`~qemu_diff.abi.TimerKind`; SGIs last.
    :param spurious: L2 acknowledged one that nobody had sent.
    :param l1: L1's own counts (/proc/interrupts) at the end, by name.
    :param lost: sent to L2, and never handled: of each source in each boot, for one boot's excess
        makes up for no other's loss.
    :param unsent: handled by L2, and never sent, likewise; ``spurious`` ones included.
    """

    sources: tuple[SourceCount, ...]
    spurious: int
    l1: tuple[InterruptCount, ...]
    excursions: Excursions
    lost: int = 0
    unsent: int = 0


NOTHING_DELIVERED = Delivered((), 0, (), Excursions(0, 0, 0, 0))


def delivered(
    records: StepRecords, done: Executions, payload: Payload, program: Program
) -> Delivered:
    """What one boot's records and truth tell of its interrupts."""
    sources = [_source(one) for one in records[records["kind"] == RecordKind.SOURCE]]
    spurious, nested = 0, 0
    for guest in records[records["kind"] == RecordKind.GUEST]["detail"].tolist():
        sent, handled, spurious, nested = guest
        if sent or handled:
            sources.append(SourceCount(SGI, sent, 0, handled))
    heard = [(one.sent, one.handled) for one in sources if one.handled is not None]
    return Delivered(
        tuple(sources),
        spurious,
        tuple(_interrupt(one) for one in records[records["kind"] == RecordKind.INTERRUPT]),
        _excursions(records, done, payload, program, nested),
        lost=sum(max(0, sent - handled) for sent, handled in heard),
        unsent=spurious + sum(max(0, handled - sent) for sent, handled in heard),
    )


def join_delivered(parts: Iterable[Delivered]) -> Delivered:
    """Several boots' as one: sums."""
    parts = tuple(parts)
    sent: Counter[str] = Counter()
    held: Counter[str] = Counter()
    handled: dict[str, int | None] = {}
    interrupts: Counter[tuple[str, int]] = Counter()
    for part in parts:
        for one in part.sources:
            sent[one.source] += one.sent
            held[one.source] += one.held_back
            before = handled.get(one.source)
            handled[one.source] = one.handled if before is None else before + (one.handled or 0)
        for count in part.l1:
            interrupts[count.name, count.intid] += count.count
    names = sorted(sent, key=_SOURCES.index)
    return Delivered(
        tuple(SourceCount(name, sent[name], held[name], handled[name]) for name in names),
        sum(part.spurious for part in parts),
        tuple(InterruptCount(name, intid, n) for (name, intid), n in interrupts.items()),
        Excursions(
            handled=sum(part.excursions.handled for part in parts),
            nested=sum(part.excursions.nested for part in parts),
            passes=sum(part.excursions.passes for part in parts),
            unfinished=sum(part.excursions.unfinished for part in parts),
        ),
        lost=sum(part.lost for part in parts),
        unsent=sum(part.unsent for part in parts),
    )


def _source(record: np.void) -> SourceCount:
    kind, sent, held_back, handled = (int(value) for value in record["detail"])
    source = TimerKind(kind)
    return SourceCount(_name(source), sent, held_back, handled if source.into_guest else None)


def _name(source: TimerKind) -> str:
    return "host_timer" if source is TimerKind.INTERRUPT else source.name.lower()


_SOURCES = (*map(_name, TimerKind), SGI)


def _interrupt(record: np.void) -> InterruptCount:
    number, count = int(record["detail"][0]), int(record["detail"][1])
    name = record["detail"][2:].tobytes().rstrip(b"\0").decode("ascii", "replace")
    return InterruptCount(name, number - FROM_IPI if number >= FROM_IPI else number, count)


def _excursions(
    records: StepRecords, done: Executions, payload: Payload, program: Program, nested: int
) -> Excursions:
    """What the handler did to the passes.

    A pass that ended in the midst of the handler is unfinished: L2 got no further, since the next
    interrupt came before the one before was done with. Each of its steps is judged as any other.
    """
    if payload.interrupts is None:
        return Excursions(0, 0, 0, 0)
    begin, end = payload.interrupts.handler
    runs = records[records["kind"] == RecordKind.RUN]
    stepped = (runs["flags"] & RecordFlag.STEPPING) != 0
    passes = pass_of_run(records)
    last_pc = {
        number: pc
        for number, pc in zip(passes[stepped].tolist(), runs["pc"][stepped].tolist(), strict=True)
        if number >= 0
    }
    unfinished = sum(
        begin <= pc < end or bool(program.is_irq_vector(np.array([pc]))[0])
        for pc in last_pc.values()
    )
    return Excursions(
        handled=int(np.sum(done.pc == begin)),
        nested=nested,
        passes=len(last_pc),
        unfinished=unfinished,
    )
