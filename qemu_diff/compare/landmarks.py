"""L1's path through one quiet step of each instruction, on the axis of its placements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import Mark, RecordKind, TruthKind
from qemu_diff.compare.contract import Steps
from qemu_diff.compare.placements import Placements, first_entries
from qemu_diff.kernels.symbols import EXIT_HANDLERS
from qemu_diff.model import Landmark, PlacementMap
from qemu_diff.trace.trace import Trace

GUEST_ENTRY = "guest entry"
GUEST_EXIT = "guest exit"


def landmarks_of_steps(
    trace: Trace,
    steps: Steps,
    placements: Placements,
    counter_reads: Collection[int],
    functions: Mapping[int, str],
) -> dict[int, tuple[Landmark, ...]]:
    """Executed instruction → the landmarks of its shortest quiet step, ascending in time.

    A step in which L1's own tick came is not quiet. Each KVM_RUN is tied to the clock by its two
    readings of the counter, and a step is not shown if the instructions counted between them are
    not the ns, faults set aside: a clock that is wrong there is wrong in between.

    :param trace: of a boot that was asked for landmarks; without any, nothing is known.
    :param counter_reads: where the step VMM reads the counter; the last reading before the entry
        into KVM_RUN is ``entered_at``, the first after the return is ``returned_at``.
    :param functions: address → name.
    """
    if not len(trace.landmarks) or not len(steps):
        return {}
    path = _Path(trace, counter_reads, functions)
    runs = trace.records[trace.records["kind"] == RecordKind.RUN]
    entered, length = first_entries(runs, steps), placements.length_ns
    quiet = (placements.ticks == 0) & ~placements.delivered
    found: dict[int, tuple[Landmark, ...]] = {}
    for index in np.flatnonzero(quiet)[np.argsort(length[quiet], kind="stable")].tolist():
        instruction = int(steps.instruction[index])
        first, last = int(entered[index]), int(steps.run[index])
        if instruction not in found and path.keeps_time(first, last):
            found[instruction] = tuple(path.landmarks(first, last))
    return found


def with_landmarks(
    maps: tuple[PlacementMap, ...],
    landmarks: Mapping[int, tuple[Landmark, ...]],
    windows_ns: Mapping[int, int],
) -> tuple[PlacementMap, ...]:
    """The maps, each with its instruction's landmarks.

    :param windows_ns: address → step window of the boot that showed the landmarks; where it has
        none, a map keeps its own.
    """
    return tuple(
        replace(
            one,
            landmarks=landmarks.get(one.instruction.address, ()),
            window_ns=windows_ns.get(one.instruction.address, one.window_ns),
        )
        for one in maps
    )


def exit_function(landmarks: tuple[Landmark, ...]) -> str:
    """The function that served the first exit from L2; empty if none is known.

    Of several the last before L2 goes on: EL2's own code may look at an exit first, and leave it to
    the rest of KVM.
    """
    names = [one.name for one in landmarks]
    if GUEST_EXIT not in names:
        return ""
    after = names[names.index(GUEST_EXIT) + 1 :]
    served = after[: after.index(GUEST_ENTRY)] if GUEST_ENTRY in after else after
    return next((name for name in reversed(served) if name in EXIT_HANDLERS), "")


class _Path:
    """The landmarks of a whole boot, by KVM_RUN."""

    def __init__(
        self, trace: Trace, counter_reads: Collection[int], functions: Mapping[int, str]
    ) -> None:
        truth, self._reached = trace.truth, trace.landmarks
        returned = (truth["kind"] == TruthKind.MARK) & (truth["detail"] == Mark.RETURNED)
        marks = np.flatnonzero(returned)
        self._run = np.searchsorted(marks, self._reached.before, side="left")
        """The KVM_RUN in whose slice each lies: after the return before it, up to its own."""
        self._reads = np.isin(self._reached.address, list(counter_reads))
        self._functions = functions
        runs = trace.records[trace.records["kind"] == RecordKind.RUN]
        self._entered_ns = runs["entered_at"].astype(np.int64)
        self._length_ns = runs["returned_at"].astype(np.int64) - self._entered_ns
        following = np.append(truth["kind"], np.uint8(0))[self._reached.before]
        address = np.append(truth["pc"], np.uint64(0))[self._reached.before].astype(np.int64)
        self._tells = np.where(address == self._reached.address, following, 0)
        """Kind of the truth record that each tells the time of, or 0."""

    def keeps_time(self, first: int, last: int) -> bool:
        """Whether, in each KVM_RUN of these, the count agrees with the counter."""
        return all(self._faults(run) is not None for run in range(first, last + 1))

    def _faults(self, run: int) -> int | None:
        """Exits from L2 by an instruction that faulted: it is counted, but its ns is given back
        (QEMU accel/tcg/translate-all.c, ``cpu_restore_state_from_tb()``). None: the count is wrong.
        """
        takes, begin = self._takes(run), np.searchsorted(self._run, [run, run + 1])
        if takes is None:
            return None
        exits = int(np.sum(self._tells[begin[0] : begin[1]] == TruthKind.EXIT))
        faults = takes - int(self._length_ns[run])
        return faults if 0 <= faults <= exits else None

    def _takes(self, run: int) -> int | None:
        """Instructions from the reading of ``entered_at`` to that of ``returned_at``."""
        begin, after = self._reads_of(run), self._reads_of(run + 1)
        if not len(begin) or not len(after):
            return None
        return int(self._reached.executed[after[0]] - self._reached.executed[begin[-1]])

    def landmarks(self, first: int, last: int) -> Iterator[Landmark]:
        """What lies between each KVM_RUN's entry and its return."""
        for run in range(first, last + 1):
            yield from self._landmarks(run, int(self._entered_ns[run] - self._entered_ns[first]))

    def _landmarks(self, run: int, entered_ns: int) -> Iterator[Landmark]:
        begin = int(self._reads_of(run)[-1])
        end = int(np.searchsorted(self._run, run, side="right"))
        inside, faults = False, self._faults(run) or 0
        for index in range(begin + 1, end):
            if faults and self._tells[index] == TruthKind.EXIT:
                faults -= 1
                entered_ns -= 1
            counted = int(self._reached.executed[index] - self._reached.executed[begin])
            at_ns = entered_ns + counted
            if self._tells[index] == TruthKind.EXIT:
                inside = False
                yield Landmark(at_ns, GUEST_EXIT)
            elif self._tells[index] == TruthKind.INSTRUCTION and not inside:
                inside = True
                yield Landmark(at_ns, GUEST_ENTRY)
            elif name := self._functions.get(self._address(index)):
                yield Landmark(at_ns, name)

    def _reads_of(self, run: int) -> NDArray[np.int64]:
        """Indexes of the readings in one KVM_RUN's slice."""
        begin, end = np.searchsorted(self._run, [run, run + 1])
        return np.flatnonzero(self._reads[begin:end]) + np.int64(begin)

    def _address(self, index: int) -> int:
        """As an address is written: a kernel's has its highest bit set."""
        return int(self._reached.address[index]) % (1 << 64)
