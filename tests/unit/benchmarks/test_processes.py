"""Which processes of a command are struck, and when."""

from __future__ import annotations

from benchmarks.processes import MOMENTS, OF_A_KIND, Life, Strike, strikes


def test_the_command_itself_is_struck_all_over_its_life() -> None:
    found = list(strikes((), 8.0))
    assert len(found) == MOMENTS
    assert [one.after_s for one in found] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    assert found[0] == Strike("", 1, 0.5, "after 6%")


def test_a_process_is_struck_at_its_birth_and_in_the_middle_of_its_life() -> None:
    *_, born, middle = strikes((Life("gdb", 1, 2.0),), 8.0)
    assert born == Strike("gdb", 1, 0.0, "as it is born")
    assert middle == Strike("gdb", 1, 1.0, "in the middle of its life")


def test_a_short_life_has_no_middle() -> None:
    assert len(list(strikes((Life("ld", 1, 0.01),), 8.0))) == MOMENTS + 1


def test_of_many_the_first_and_the_last_are_among_those_struck() -> None:
    lives = tuple(Life("ld", nth, 0.01) for nth in range(1, 41))
    struck = [one.nth for one in strikes(lives, 8.0) if one.program]
    assert len(struck) == OF_A_KIND
    assert (struck[0], struck[-1]) == (1, 40)
