"""Making a failing thing smaller while it still fails. Pure: what fails is asked of a predicate.

The algorithm is delta debugging's (Zeller and Hildebrandt, "Simplifying and Isolating
Failure-Inducing Input", 2002), over complements only: chunks are taken out, large ones first. At
the end each unit is taken out by itself, until none can be: the result is 1-minimal. No candidate
is asked about twice, and the order depends on nothing but the units and the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Minimised(Generic[Unit]):
    """What is left.

    :param units: in their order; the predicate holds for them.
    :param minimal: taking out any one of them makes the predicate fail: that was tried. False where
        the calls ran out before.
    :param calls: how often the predicate was asked.
    """

    units: tuple[Unit, ...]
    minimal: bool
    calls: int


class _Exhausted(Exception):  # noqa: N818 - no error: it ends the search
    """The predicate may not be asked again."""


def minimise(
    units: Sequence[Unit],
    fails: Callable[[tuple[Unit, ...]], bool],
    *,
    most_calls: int,
    guesses: Iterable[Sequence[int]] = (),
) -> Minimised[Unit]:
    """The units that are needed.

    :param units: all of them together fail: that is not asked.
    :param fails: whether a part of them fails, too.
    :param most_calls: of ``fails``.
    :param guesses: index sets to be tried first; the smallest that fails is where the search
        begins.
    """
    search = _Search(units, fails, most_calls)
    try:
        search.guess(guesses)
        search.reduce()
    except _Exhausted:
        return Minimised(search.kept_units(), minimal=False, calls=search.calls)
    return Minimised(search.kept_units(), minimal=True, calls=search.calls)


class _Search(Generic[Unit]):
    def __init__(
        self, units: Sequence[Unit], fails: Callable[[tuple[Unit, ...]], bool], most_calls: int
    ) -> None:
        self._units = units
        self._fails = fails
        self._most_calls = most_calls
        self._asked: dict[tuple[int, ...], bool] = {}
        self._kept = tuple(range(len(units)))

    @property
    def calls(self) -> int:
        return len(self._asked)

    def kept_units(self) -> tuple[Unit, ...]:
        return tuple(self._units[index] for index in self._kept)

    def guess(self, guesses: Iterable[Sequence[int]]) -> None:
        """Begin with the smallest of the guesses that fails."""
        known = {tuple(sorted({*guess} & {*self._kept})) for guess in guesses}
        for guess in sorted(known, key=lambda one: (len(one), one)):
            if len(guess) < len(self._kept) and self._still_fails(guess):
                self._kept = guess
                return

    def reduce(self) -> None:
        """Take out chunks, half of all first, single units last."""
        chunk = max(1, len(self._kept) // 2)
        while self._kept:
            if self._take_out_one(chunk):
                chunk = min(chunk, max(1, len(self._kept) // 2))
            elif chunk == 1:
                return
            else:
                chunk //= 2

    def _take_out_one(self, chunk: int) -> bool:
        """Take out the first chunk that is not needed; False where all are."""
        # From the end: what follows the failure is the likeliest to be of no use.
        for end in range(len(self._kept), 0, -chunk):
            rest = (*self._kept[: max(0, end - chunk)], *self._kept[end:])
            if self._still_fails(rest):
                self._kept = rest
                return True
        return False

    def _still_fails(self, candidate: tuple[int, ...]) -> bool:
        if candidate not in self._asked:
            if len(self._asked) >= self._most_calls:
                raise _Exhausted
            # Whatever the predicate does, it is not asked this again.
            self._asked[candidate] = False
            self._asked[candidate] = self._fails(tuple(self._units[one] for one in candidate))
        return self._asked[candidate]
