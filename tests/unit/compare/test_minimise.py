"""The minimiser, against predicates of every kind."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.compare.minimise import Minimised, minimise

ENOUGH = 100_000
Predicate = Callable[[tuple[int, ...]], bool]

needed_sets = st.lists(st.frozensets(st.integers(0, 19), max_size=5), min_size=1, max_size=3)
sizes = st.integers(20, 30)
guess_lists = st.lists(st.lists(st.integers(-3, 40), max_size=6), max_size=3)


class Asked:
    """A predicate that notes what it is asked."""

    def __init__(self, answer: Predicate) -> None:
        self.candidates: list[tuple[int, ...]] = []
        self._answer = answer

    def __call__(self, candidate: tuple[int, ...]) -> bool:
        self.candidates.append(candidate)
        return self._answer(candidate)


def holds_any_of(needed: list[frozenset[int]]) -> Predicate:
    return lambda candidate: any(one <= {*candidate} for one in needed)


def is_1_minimal(result: Minimised[int], fails: Predicate) -> bool:
    rests = (
        (*result.units[:index], *result.units[index + 1 :]) for index in range(len(result.units))
    )
    return not any(map(fails, rests))


@given(sizes, needed_sets, guess_lists)
def test_the_result_fails_and_none_of_it_can_go(
    size: int, needed: list[frozenset[int]], guesses: list[list[int]]
) -> None:
    fails = holds_any_of(needed)
    result = minimise(range(size), fails, most_calls=ENOUGH, guesses=guesses)
    assert result.minimal
    assert fails(result.units)
    assert is_1_minimal(result, fails)
    assert list(result.units) == sorted(result.units)


@given(sizes, st.randoms(use_true_random=False))
def test_it_is_1_minimal_whatever_the_predicate(size: int, random: object) -> None:
    answers: dict[tuple[int, ...], bool] = {tuple(range(size)): True}

    def fails(candidate: tuple[int, ...]) -> bool:
        return answers.setdefault(candidate, random.random() < 0.3)  # type: ignore[attr-defined]

    result = minimise(range(size), fails, most_calls=ENOUGH)
    assert fails(result.units)
    assert is_1_minimal(result, fails)


@given(sizes, needed_sets, st.integers(0, 40), guess_lists)
def test_nothing_is_asked_twice_nor_too_often(
    size: int, needed: list[frozenset[int]], most: int, guesses: list[list[int]]
) -> None:
    asked = Asked(holds_any_of(needed))
    result = minimise(range(size), asked, most_calls=most, guesses=guesses)
    assert len({*asked.candidates}) == len(asked.candidates) == result.calls <= most
    assert tuple(range(size)) not in asked.candidates
    assert holds_any_of(needed)(result.units)


@given(sizes, needed_sets)
def test_the_same_question_has_the_same_answer(size: int, needed: list[frozenset[int]]) -> None:
    first, second = Asked(holds_any_of(needed)), Asked(holds_any_of(needed))
    results = [minimise(range(size), one, most_calls=ENOUGH) for one in (first, second)]
    assert results[0] == results[1]
    assert first.candidates == second.candidates


def test_a_right_guess_saves_the_search() -> None:
    asked = Asked(holds_any_of([frozenset({7, 8})]))
    result = minimise(range(1000), asked, most_calls=ENOUGH, guesses=[[7, 8]])
    assert result == Minimised((7, 8), minimal=True, calls=1 + 2)


def test_what_needs_nothing_comes_to_nothing() -> None:
    assert minimise("abc", lambda _: True, most_calls=ENOUGH).units == ()
    assert minimise("", lambda _: True, most_calls=0) == Minimised((), minimal=True, calls=0)
