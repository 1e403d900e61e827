"""Bisections of random histories, by real git in tiny repositories, against the truth."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes.history import History
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.campaign.bisect import LOG, Inquiry, begun_log, bisect, own_directory
from qemu_diff.campaign.bisect_commit import TriedCommit
from qemu_diff.campaign.bisect_git import check_ends
from qemu_diff.campaign.bisect_log import BisectionLog, read_log
from qemu_diff.campaign.bisect_verdict import Shown
from qemu_diff.campaign.outcome import bisection_exit_code
from qemu_diff.errors import ResultsError, UserError
from qemu_diff.kernels import Repository, open_repository
from qemu_diff.model import (
    BisectionEnding,
    Cell,
    CellResult,
    CellVerdict,
    CommitVerdict,
    Driver,
    FloodSpec,
    MachineSpec,
    Symptom,
)

HVC = Symptom("lost-step", "step/tcg", "hvc", "handle_hvc")
READ = Symptom("lost-step", "step/tcg", "sysreg", "kvm_handle_sys_reg")


def shown(name: str, *symptoms: Symptom, duration_s: float = 1.0) -> Shown:
    cell = Cell(f"k.{name}", "k", name, MachineSpec(), FloodSpec(), Driver.IN_GUEST, 1)
    verdict = CellVerdict.FAIL if symptoms else CellVerdict.PASS
    return Shown(CellResult(cell, verdict, duration_s=duration_s), frozenset(symptoms))


@dataclass
class Kernels:
    """What each commit's kernel does, and what was asked of it.

    :param bad: commits that lose the step at HVC.
    :param broken: commits that don't build.
    :param cut_at: the user calls it off at so many tries.
    """

    bad: set[str]
    broken: set[str] = field(default_factory=set)
    cut_at: int | None = None
    tried: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def try_commit(self, sha: str, cells: tuple[str, ...], directory: Path) -> TriedCommit:
        directory.mkdir(parents=True, exist_ok=True)
        if len(self.tried) == self.cut_at:
            raise KeyboardInterrupt
        self.tried.append((sha, cells))
        if sha in self.broken:
            return TriedCommit(trouble="kernel 'k' does not build: kvm/arm.c:1: error: x")
        symptoms = (HVC,) if sha in self.bad else ()
        every = shown("hvc", *symptoms), shown("hvc2", *symptoms, duration_s=2.0), shown("plain")
        return TriedCommit(
            tuple(one for one in every if not cells or one.result.cell.id in cells), run_s=1.0
        )


@dataclass(frozen=True)
class Graph:
    """A history: the parents of each commit, by number, ascending; the last one is the bad end.

    :param culprit: what comes after it, has its bug.
    :param broken: commits that can't be tested; neither end.
    """

    parents: tuple[tuple[int, ...], ...]
    culprit: int
    broken: frozenset[int]

    def ancestors(self, number: int) -> set[int]:
        found, left = {number}, [number]
        while left:
            for parent in self.parents[left.pop()]:
                if parent not in found:
                    found.add(parent)
                    left.append(parent)
        return found


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(2, 11))
    parents: list[tuple[int, ...]] = [()]
    for number in range(1, size):
        near = st.integers(max(0, number - 3), number - 1)
        parents.append(tuple(sorted(draw(st.sets(near, min_size=1, max_size=2)))))
    whole = Graph(tuple(parents), 0, frozenset())
    culprit = draw(st.sampled_from(sorted(whole.ancestors(size - 1) - {0})))
    inner = st.sampled_from(range(1, size - 1)) if size > 2 else st.nothing()
    broken = draw(st.frozensets(inner, max_size=4)) if size > 2 else frozenset()
    return Graph(tuple(parents), culprit, broken)


def made(graph: Graph, place: Path) -> list[str]:
    """The ids of a repository's commits, in the graph's order."""
    subprocess.run(["git", "init", "--quiet", "--bare", place], check=True)
    lines = []
    for number, parents in enumerate(graph.parents):
        lines.append(f"commit refs/tags/t{number}\ncommitter t <t> {1000 + number} +0000")
        lines.append(f"data {len(str(number))}\n{number}")
        words = ("from", "merge")
        lines += [f"{word} refs/tags/t{one}" for word, one in zip(words, parents, strict=False)]
        lines.append(f"M 644 inline file\ndata {len(str(number))}\n{number}")
    text = ("\n".join(lines) + "\n").encode()
    subprocess.run(["git", "-C", place, "fast-import", "--quiet"], input=text, check=True)
    names = [f"t{number}" for number in range(len(graph.parents))]
    command = ["git", "-C", place, "rev-parse", *names]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@contextmanager
def laid_out(graph: Graph) -> Iterator[tuple[list[str], Inquiry, Kernels]]:
    with tempfile.TemporaryDirectory() as scratch:
        shas = made(graph, Path(scratch, "theirs.git"))
        bad = {
            shas[number] for number in range(len(shas)) if graph.culprit in graph.ancestors(number)
        }
        kernels = Kernels(bad, {shas[number] for number in graph.broken})
        yield shas, inquiry_of(Path(scratch), shas), kernels


def inquiry_of(scratch: Path, shas: list[str], paths: tuple[str, ...] = ()) -> Inquiry:
    repository = open_repository(str(scratch / "theirs.git"))
    out = scratch / "out"
    out.mkdir(exist_ok=True)
    return Inquiry("c", "k", repository, shas[-1], (shas[0],), paths, False, 1, out)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(tmp_path_factory.mktemp("cache")))


@settings(max_examples=8, deadline=None)
@given(graphs())
def test_the_culprit_is_found_whatever_can_not_be_tested(graph: Graph) -> None:
    with laid_out(graph) as (shas, inquiry, kernels):
        result = bisect(inquiry, BisectionLog(), kernels.try_commit)
    found = [one.sha for one in result.found]
    assert shas[graph.culprit] in found
    if len(found) == 1:
        assert result.ending is BisectionEnding.FOUND
    else:
        assert result.ending is BisectionEnding.ONLY_SKIPPED
        # All but one, the commit that is known to be bad, could not be tested.
        assert len({*found} - kernels.broken) <= 1
    tested = [one.sha for one in result.steps]
    assert len(tested) == len({*tested})
    for step in result.steps:
        expected = (
            "skip" if step.sha in kernels.broken else "bad" if step.sha in kernels.bad else "good"
        )
        assert step.verdict == expected


@settings(max_examples=6, deadline=None)
@given(graphs(), st.integers(0, 8))
def test_cut_off_anywhere_it_goes_on_to_the_same_log(graph: Graph, cut_at: int) -> None:
    with laid_out(graph) as (_, inquiry, kernels):
        undisturbed = bisect(inquiry, BisectionLog(), kernels.try_commit)
        log = (inquiry.directory / LOG).read_text()
        (inquiry.directory / LOG).unlink()
        cut = Kernels(kernels.bad, kernels.broken, cut_at=cut_at)
        with suppress(KeyboardInterrupt):
            bisect(inquiry, BisectionLog(), cut.try_commit)
        known = read_log(begun_log(inquiry.directory))
        rest = Kernels(kernels.bad, kernels.broken)
        result = bisect(inquiry, known, rest.try_commit)
        assert (inquiry.directory / LOG).read_text() == log
    assert result == undisturbed
    in_search = [sha for sha, _ in rest.tried][: len(undisturbed.steps) - len(known.steps)]
    assert not {*in_search} & {one.sha for one in known.steps}


# --- the ends, and what is said ------------------------------------------------------------------


LINE = Graph(((), (0,), (1,), (2,), (3,), (4,)), 3, frozenset())

Line = tuple[list[str], Inquiry, Kernels]


@pytest.fixture
def line() -> Iterator[Line]:
    with laid_out(LINE) as laid:
        yield laid


def test_only_the_cheapest_failing_cell_is_run_after_the_bad_end(line: Line) -> None:
    shas, inquiry, kernels = line
    result = bisect(inquiry, BisectionLog(), kernels.try_commit)
    assert kernels.tried[0] == (shas[-1], ())
    assert {cells for _, cells in kernels.tried[1:]} == {("k.hvc",)}
    assert result.message.startswith(f"the first bad commit is {shas[3][:12]} (3)")
    assert result.found[0].files == ("file",)


def test_bad_is_not_bad(line: Line) -> None:
    shas, inquiry, _ = line
    result = bisect(inquiry, BisectionLog(), Kernels(set()).try_commit)
    assert result.ending is BisectionEnding.WRONG_ENDS
    assert result.message == (
        f"bad is not bad: at {shas[-1][:12]} (5) all its 3 cells are as expected"
    )
    assert bisection_exit_code(result.ending) == 1


@pytest.mark.parametrize(
    ("verdicts", "ending"),
    [
        ((CellVerdict.PASS, CellVerdict.LOST), BisectionEnding.UNTESTABLE),
        ((CellVerdict.SKIPPED, CellVerdict.SKIPPED), BisectionEnding.UNTESTABLE),
        ((CellVerdict.PASS, CellVerdict.SKIPPED), BisectionEnding.WRONG_ENDS),
    ],
)
def test_a_bad_end_of_which_something_was_not_judged(
    line: Line, verdicts: tuple[CellVerdict, ...], ending: BisectionEnding
) -> None:
    def judged(_sha: str, _cells: tuple[str, ...], _directory: Path) -> TriedCommit:
        cells = (shown("hvc"), shown("plain"))
        return TriedCommit(
            tuple(
                Shown(replace(one.result, verdict=verdict), frozenset())
                for one, verdict in zip(cells, verdicts, strict=True)
            )
        )

    assert bisect(line[1], BisectionLog(), judged).ending is ending


def test_good_is_not_good(line: Line) -> None:
    shas, inquiry, _ = line
    result = bisect(inquiry, BisectionLog(), Kernels({*shas}).try_commit)
    assert result.ending is BisectionEnding.WRONG_ENDS
    assert result.message == (
        f"good is not good: {shas[0][:12]} (0) shows the same: k.hvc: lost-step of hvc in "
        "step/tcg, served by handle_hvc"
    )


@pytest.mark.parametrize("end", [0, -1])
def test_an_end_that_does_not_build(line: Line, end: int) -> None:
    shas, inquiry, kernels = line
    kernels.broken = {shas[end]}
    result = bisect(inquiry, BisectionLog(), kernels.try_commit)
    assert result.ending is BisectionEnding.UNTESTABLE
    assert f"{shas[end][:12]} ({LINE.parents.index(LINE.parents[end])})" in result.message
    assert "does not build" in result.message
    assert bisection_exit_code(result.ending) == 3


def test_a_patch_that_fits_no_end_is_the_users_mistake(line: Line) -> None:
    _, inquiry, _ = line

    def refuse(_sha: str, _cells: tuple[str, ...], _directory: Path) -> TriedCommit:
        return TriedCommit(trouble="x.patch: does not apply: hunk 1 of a.c", mendable=True)

    with pytest.raises(UserError, match=r"can't be tested: x\.patch: does not apply"):
        bisect(inquiry, BisectionLog(), refuse)


def test_what_fresh_boots_do_not_show_again_is_not_confirmed(line: Line) -> None:
    shas, inquiry, kernels = line

    def flaky(sha: str, cells: tuple[str, ...], directory: Path) -> TriedCommit:
        if directory.parent.name == "confirm":
            kernels.bad.discard(shas[3])
        return kernels.try_commit(sha, cells, directory)

    result = bisect(inquiry, BisectionLog(), flaky)
    assert result.ending is BisectionEnding.NOT_CONFIRMED
    assert "tested again, it comes out as good" in result.message
    assert bisection_exit_code(result.ending) == 1


def test_paths_that_leave_the_culprit_out_are_found_out(tmp_path: Path) -> None:
    history = History(tmp_path / "theirs.git")
    history.path.mkdir()
    history.git("init", "--quiet")
    shas = [
        history.commit(f"{number}", {name: f"{number}"})
        for number, name in enumerate(("kvm", "kvm", "mm", "kvm", "kvm"))
    ]
    kernels = Kernels({*shas[2:]})
    result = bisect(inquiry_of(tmp_path, shas, ("kvm",)), BisectionLog(), kernels.try_commit)
    assert result.ending is BisectionEnding.NOT_CONFIRMED
    assert f"its parent {shas[2][:12]} comes out as bad" in result.message
    with pytest.raises(UserError, match="no commit between good and bad touches these paths"):
        bisect(inquiry_of(tmp_path, shas, ("net",)), BisectionLog(), kernels.try_commit)


def test_a_parent_that_was_never_testable_is_not_held_against_it(tmp_path: Path) -> None:
    graph = Graph(((), (0,), (0, 1), (0,), (1, 2)), 4, frozenset({1}))
    shas = made(graph, tmp_path / "theirs.git")
    inquiry = inquiry_of(tmp_path, shas)
    result = bisect(inquiry, BisectionLog(), Kernels({shas[4]}, {shas[1]}).try_commit)
    assert result.ending is BisectionEnding.FOUND
    assert [one.sha for one in result.found] == [shas[4]]
    assert {(one.sha, one.verdict.value) for one in result.confirmations} == {
        (shas[4], "bad"),
        (shas[1], "skip"),
        (shas[2], "good"),
    }


def test_what_another_commit_brought_is_told(line: Line) -> None:
    shas, inquiry, _ = line

    def two_bugs(sha: str, cells: tuple[str, ...], directory: Path) -> TriedCommit:
        directory.mkdir(parents=True)
        number = shas.index(sha)
        every = (
            shown("hvc", *([HVC] if number >= 2 else [])),
            shown("read", *([READ] if number >= 4 else [])),
        )
        return TriedCommit(tuple(one for one in every if not cells or one.result.cell.id in cells))

    result = bisect(inquiry, BisectionLog(), two_bugs)
    assert [one.sha for one in result.found] == [shas[2]]
    assert "another one brought what the bad end shows as well" in result.message
    assert "lost-step of sysreg" in result.message


def test_a_merge_base_that_is_bad_is_told(tmp_path: Path) -> None:
    # What is good was mended on a branch of its own.
    graph = Graph(((), (0,), (0,)), 0, frozenset())
    shas = made(graph, tmp_path / "theirs.git")
    inquiry = inquiry_of(tmp_path, [shas[1], shas[2]])
    result = bisect(inquiry, BisectionLog(), Kernels({shas[0], shas[2]}).try_commit)
    assert result.ending is BisectionEnding.WRONG_ENDS
    assert f"The merge base {shas[0]} is bad" in result.message


def test_a_log_of_gits_own_is_believed_but_the_bad_end_is_asked(line: Line) -> None:
    shas, inquiry, kernels = line
    pairs: list[tuple[int, CommitVerdict]] = [
        (5, CommitVerdict.BAD),
        (0, CommitVerdict.GOOD),
        (2, CommitVerdict.GOOD),
    ]
    text = "".join(f"git bisect {verdict} {shas[number]}\n" for number, verdict in pairs)
    (inquiry.directory / "theirs.log").write_text(f"git bisect start\n{text}")
    known = read_log(inquiry.directory / "theirs.log")
    result = bisect(inquiry, known, kernels.try_commit)
    assert [one.sha for one in result.found] == [shas[3]]
    tested = [sha for sha, _ in kernels.tried]
    assert tested[0] == shas[5]
    assert shas[0] not in tested


# --- what can't be bisected ----------------------------------------------------------------------


Ends = Callable[[list[str]], tuple[str, tuple[str, ...]]]


@pytest.mark.parametrize(
    ("ends", "complaint"),
    [
        (lambda shas: (shas[1], (shas[1],)), "good and bad are the same commit"),
        (lambda shas: (shas[0], (shas[2],)), "comes after bad .*: is it the other way round?"),
    ],
)
def test_ends_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: Ends, complaint: str
) -> None:
    monkeypatch.setattr(Repository, "tree", lambda *_: "")
    shas = made(LINE, tmp_path / "theirs.git")
    with pytest.raises(UserError, match=complaint):
        check_ends(open_repository(str(tmp_path / "theirs.git")), *ends(shas))


def test_a_bisection_that_is_there_is_kept(line: Line) -> None:
    _, inquiry, kernels = line
    out = inquiry.directory
    with pytest.raises(ResultsError, match="no bisection was begun here"):
        begun_log(out)
    bisect(inquiry, BisectionLog(), kernels.try_commit)
    with own_directory(out, resume=True):
        assert (out / LOG).exists()
        with (
            pytest.raises(ResultsError, match="another bisection"),
            own_directory(out, resume=False),
        ):
            pass
    (out / "notes.txt").touch()
    with own_directory(out, resume=False):
        assert not (out / LOG).exists()
        assert (out / "notes.txt").exists()
        assert (out.with_name("out.previous") / LOG).exists()
