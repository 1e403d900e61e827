"""``verdicts.json``: whole at any moment, read back as written, refused if not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.errors import InfrastructureError, ResultsError
from qemu_diff.model import (
    Breakdown,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Confirmation,
    Coverage,
    Driver,
    Excursions,
    Expectation,
    Finding,
    FloodSource,
    FloodSpec,
    Grid,
    Instruction,
    InterruptCount,
    KvmMode,
    MachineSpec,
    Method,
    PairOutcome,
    PairResult,
    Placement,
    SideBySide,
    Signature,
    SignatureGroup,
    SourceCount,
    ViolationKind,
    Window,
)
from qemu_diff.report.results import (
    CELLS,
    JOURNAL,
    VERDICTS,
    WHOLE_CELLS,
    VerdictsFile,
    check_results,
    open_results,
    read_results,
    write_results,
    write_whole,
)

CELL = Cell(
    id="unpatched.trapped_sysreg.vhe.host_timer-sweep",
    kernel="unpatched",
    payload="trapped_sysreg",
    machine=MachineSpec(KvmMode.VHE, "max"),
    flood=FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP, first_ns=1200),
    driver=Driver.IN_GUEST,
    seed=708642787,
    expected=(Expectation.LOST_STEP,),
)
MRS = Instruction(0x5A5A_0004, "trapped_read", "mrs x0, id_aa64pfr0_el1")
NOP = Instruction(0x5A5A_0008, "trapped_read+0x4", "nop")
FINDING = Finding(
    kind=ViolationKind.LOST_STEP,
    boot="sweep-0",
    report=9273,
    pass_number=2318,
    previous_pc=MRS,
    reported_pc=NOP,
    legal_pcs=(NOP,),
    executed=(MRS, NOP),
    missed=(NOP,),
    requested_ns=3518,
    delivered_ns=3158,
    attributed_to="placement",
    message="2 instructions ran for one reported step",
)
FAILED = CellResult(
    CELL,
    CellVerdict.FAIL,
    steps=17568,
    counted_steps=12163,
    placements=11811,
    violations=((ViolationKind.LOST_STEP, 468), (ViolationKind.WRONG_PC, 2)),
    findings=(FINDING,),
    duration_s=8.452,
)
PASSED = CellResult(
    replace(CELL, id=CELL.id.replace("unpatched", "patched"), kernel="patched"), CellVerdict.PASS
)
PAIR = PairResult(CELL, PASSED.cell, PairOutcome.FIXED, "unpatched: 468 lost-step in 17568 steps")
CAMPAIGN = CampaignResult("quickstart", (FAILED, PASSED), (PAIR,), complete=True)


def written(result: CampaignResult, directory: Path) -> dict[str, Any]:
    write_results(result, directory)
    return json.loads((directory / VERDICTS).read_text())


# --- round trip ---

words = st.text(max_size=8)
counts = st.integers(0, 2**64)
instructions = st.builds(Instruction, st.integers(0, 2**64), words, words)
several = st.lists(instructions, max_size=2).map(tuple)
cells = st.builds(
    Cell,
    machine=st.builds(MachineSpec, cpu=words, memory_mib=counts),
    flood=st.builds(
        FloodSpec, first_ns=counts, last_ns=st.none() | counts, step_ns=counts, count=counts
    ),
    expected=st.lists(st.sampled_from(Expectation), max_size=2).map(tuple),
    job=words,
)
findings = st.builds(
    Finding,
    legal_pcs=several,
    executed=several,
    missed=several,
    reported_pc=instructions,
    register=words,
    read_value=st.none() | counts,
    own_value=st.none() | counts,
    own_from=words,
    stepping=st.none() | st.booleans(),
)


def up_to_two(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=2).map(tuple)


results = st.builds(
    CellResult,
    cell=cells,
    violations=up_to_two(st.tuples(st.sampled_from(ViolationKind), counts)),
    breakdown=up_to_two(st.builds(Breakdown, instruction=instructions)),
    findings=up_to_two(findings),
    windows=up_to_two(st.builds(Window, instruction=instructions)),
    grids=up_to_two(st.builds(Grid, instruction=instructions)),
    reason=words,
    warnings=up_to_two(words),
    duration_s=st.floats(0, 1e9),
)
rows = up_to_two(st.tuples(instructions, st.booleans(), st.booleans()))
pairs = st.builds(
    PairResult,
    baseline=cells,
    candidate=cells,
    side_by_side=st.none() | st.builds(SideBySide, rows),
)


def of_its_cells(result: CampaignResult) -> CampaignResult:
    """The same, its pairs being of cells that it has."""
    if not result.cells:
        return replace(result, pairs=())
    baseline, candidate = result.cells[0].cell, result.cells[-1].cell
    pairs = (replace(pair, baseline=baseline, candidate=candidate) for pair in result.pairs)
    return replace(result, pairs=tuple(pairs))


campaigns = st.builds(
    CampaignResult,
    words,
    up_to_two(results),
    up_to_two(pairs),
    st.booleans(),
    run=words,
    started=st.just("") | st.datetimes().map(lambda one: one.isoformat(timespec="seconds")),
    only=up_to_two(words),
).map(of_its_cells)


@settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(campaigns)
def test_results_read_back_as_they_were(tmp_path: Path, result: CampaignResult) -> None:
    write_results(result, tmp_path)
    assert read_results(tmp_path) == result


def test_odd_bytes_of_a_console_read_back(tmp_path: Path) -> None:
    odd = replace(PASSED, reason="\x1b[31m \x00 \ufffd \udc80 [bold] </testcase>")
    result = replace(CAMPAIGN, cells=(FAILED, odd))
    write_results(result, tmp_path)
    assert read_results(tmp_path) == result


# --- the contract with scripts ---


def test_a_cell_s_flat_keys(tmp_path: Path) -> None:
    document = written(CAMPAIGN, tmp_path)
    assert (document["schema_version"], document["campaign"], document["complete"]) == (
        5,
        "quickstart",
        True,
    )
    cell = document["cells"][0]
    del cell["result"]
    assert cell == {
        "id": "unpatched.trapped_sysreg.vhe.host_timer-sweep",
        "kernel": "unpatched",
        "scenario": "trapped_sysreg",
        "job": "step",
        "session": "",
        "machine": {
            "kvm_mode": "vhe",
            "cpu": "max",
            "memory_mib": 256,
            "cpus": 1,
            "exception_order": "tcg",
            "pending": "sgi",
            "redirects": 1,
            "redirect_at": [],
            "nested_qemu": "",
            "gic_version": 3,
            "page_kib": 4,
            "qemu": "",
        },
        "flood": {
            "sources": ["host_timer"],
            "placement": "sweep",
            "first_ns": 1200,
            "last_ns": None,
            "step_ns": 1,
            "count": 1,
            "period_ns": 0,
            "burst": 1,
        },
        "driver": "in_guest",
        "seed": 708642787,
        "verdict": "fail",
        "expected": ["lost-step"],
        "as_expected": False,
        "steps": 17568,
        "counted_steps": 12163,
        "redirects": 0,
        "lost_steps": 468,
        "spurious_steps": 0,
        "wrong_pcs": 2,
        "ss_leaks": 0,
        "state_mismatches": 0,
        "lost_interrupts": 0,
        "spurious_interrupts": 0,
        "placements": 11811,
        "witnessed": 0,
        "coverage": None,
        "sources": [],
        "interrupts": [],
        "excursions": None,
        "costs": [],
        "signatures": [],
        "first_broken_step": 0,
        "fingerprint": "",
        "duration_s": 8.452,
        "findings": ["2 instructions ran for one reported step"],
    }


def test_what_was_sent_and_tried_is_flat_too(tmp_path: Path) -> None:
    signature = Signature("step/tcg", "sysreg", ViolationKind.LOST_STEP, "kvm_handle_sys_reg")
    known = replace(
        FAILED,
        violations=((ViolationKind.LOST_INTERRUPT, 1),),
        coverage=Coverage(Method.GRID, 8, tried=40, inside=30, missing=500, untouched=1),
        sources=(SourceCount("ppi", 12, 3, 11), SourceCount("host_timer", 7, 0, None)),
        interrupts=(InterruptCount("arch_timer", 26, 41),),
        excursions=Excursions(handled=11, nested=2, passes=4, unfinished=1),
        signatures=(SignatureGroup(signature, 9, 3159, 3617, "a-finding", Confirmation(5, 4)),),
    )
    (cell,) = written(replace(CAMPAIGN, cells=(known,), pairs=()), tmp_path)["cells"]
    assert (cell["lost_interrupts"], cell["spurious_interrupts"]) == (1, 0)
    assert cell["coverage"] == {
        "method": "grid",
        "resolution_ns": 8,
        "tried": 40,
        "inside": 30,
        "missing": 500,
        "first_ns": 0,
        "beyond_ns": 0,
        "untouched": 1,
    }
    assert cell["sources"] == [
        {"source": "ppi", "sent": 12, "held_back": 3, "handled": 11},
        {"source": "host_timer", "sent": 7, "held_back": 0, "handled": None},
    ]
    assert cell["interrupts"] == [{"name": "arch_timer", "intid": 26, "count": 41}]
    assert cell["excursions"] == {"handled": 11, "nested": 2, "passes": 4, "unfinished": 1}
    assert cell["signatures"] == [
        {
            "signature": {
                "scenario": "step/tcg",
                "instruction": "sysreg",
                "kind": "lost-step",
                "function": "kvm_handle_sys_reg",
            },
            "count": 9,
            "first_ns": 3159,
            "last_ns": 3617,
            "finding_id": "a-finding",
            "confirmation": {"boots": 5, "reproduced": 4, "in_batch": False},
        }
    ]


def test_a_pair_s_flat_keys(tmp_path: Path) -> None:
    (pair,) = written(CAMPAIGN, tmp_path)["pairs"]
    del pair["result"]
    assert pair == {
        "cell": "trapped_sysreg.vhe.host_timer-sweep",
        "baseline": "unpatched",
        "candidate": "patched",
        "drivers": ["in_guest", "in_guest"],
        "outcome": "fixed",
        "costs": [],
        "message": "unpatched: 468 lost-step in 17568 steps",
    }


# --- writing ---


def test_nothing_is_left_beside_the_results(tmp_path: Path) -> None:
    write_results(CAMPAIGN, tmp_path)
    write_results(replace(CAMPAIGN, complete=False), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [VERDICTS]
    assert not read_results(tmp_path).complete


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    write_results(CAMPAIGN, tmp_path)
    with (tmp_path / VERDICTS).open() as reader:
        reader.read(10)
        write_results(replace(CAMPAIGN, cells=(), pairs=()), tmp_path)
        reader.seek(0)
        assert len(json.load(reader)["cells"]) == 2
    assert len(read_results(tmp_path).cells) == 0


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ":".join(sys.path), **changes}


FILLS_THE_DISK = """
import resource, sys
from pathlib import Path
from qemu_diff.errors import InfrastructureError
from qemu_diff.report.results import write_whole

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_whole(Path(sys.argv[1]), "new" * 10_000)
except InfrastructureError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / VERDICTS
    write_whole(path, "old")
    command = [sys.executable, "-c", FILLS_THE_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == f"{path}: File too large\n"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_went_away_is_not_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="No such file or directory"):
        write_results(CAMPAIGN, tmp_path / "gone")


def test_text_is_written_as_utf_8_in_any_locale(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from qemu_diff.report.results import write_whole;"
        "write_whole(Path(sys.argv[1]), 'old \\u2192 new')"
    )
    command = [sys.executable, "-X", "utf8=0", "-c", script, str(tmp_path / "text")]
    in_ascii = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0")
    subprocess.run(command, check=True, env=in_ascii)
    assert (tmp_path / "text").read_bytes().decode() == "old → new"


# --- reading what is not ours ---


def refused(directory: Path) -> str:
    with pytest.raises(ResultsError) as caught:
        read_results(directory)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{directory / VERDICTS}: ")
    return line.removeprefix(f"{directory / VERDICTS}: ")


def drop(*path: str | int) -> Callable[[Any], None]:
    """Removes what lies at a path of the document."""

    def remove(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        del document[path[-1]]

    return remove


def put(value: Any, *path: str | int) -> Callable[[Any], None]:
    """Puts a value at a path of the document."""

    def write(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        document[path[-1]] = value

    return write


@pytest.mark.parametrize(
    "damage",
    [
        drop("campaign"),
        drop("complete"),
        drop("cells"),
        drop("pairs"),
        drop("cells", 0, "result"),
        drop("cells", 0, "result", "verdict"),
        drop("cells", 0, "result", "cell", "kernel"),
        drop("pairs", 0, "result", "outcome"),
        put(None, "campaign"),
        put({}, "complete"),
        put(5, "cells"),
        put("text", "cells"),
        put([None], "cells"),
        put({"x": 1}, "pairs"),
        put("maybe", "cells", 0, "result", "verdict"),
        put("many", "cells", 0, "result", "steps"),
        put([["lost-step"]], "cells", 0, "result", "violations"),
        put("\n", "pairs", 0, "result", "outcome"),
        put("a\nb", "started"),
        put("[", "provenance", "phantom_rule"),
        put([["newer", "["]], "provenance", "phantom_rules"),
        put("no cell's", "pairs", 0, "result", "candidate", "id"),
        put(
            [
                {
                    "instruction": {"address": 0, "label": "a", "text": "nop"},
                    "spans": [{"first_ns": 1, "last_ns": 1, "outcome": "\x1b", "placements": 1}],
                }
            ],
            "cells",
            0,
            "result",
            "maps",
        ),
    ],
)
def test_a_document_of_another_shape_is_refused(
    tmp_path: Path, damage: Callable[[Any], None]
) -> None:
    document = written(CAMPAIGN, tmp_path)
    damage(document)
    (tmp_path / VERDICTS).write_text(json.dumps(document))
    assert refused(tmp_path).startswith("not a results file: ")


@pytest.mark.parametrize("name", [VERDICTS, JOURNAL])
def test_a_pipe_is_no_results_file(tmp_path: Path, name: str) -> None:
    write_results(CAMPAIGN, tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ResultsError, match=f"^{tmp_path / name}: not a file$"):
        read_results(tmp_path)


@pytest.mark.parametrize("version", [0, 2, 3, 4, "3", None, [3]])
def test_results_of_another_version_are_refused(tmp_path: Path, version: object) -> None:
    document = written(CAMPAIGN, tmp_path) | {"schema_version": version}
    (tmp_path / VERDICTS).write_text(json.dumps(document))
    assert refused(tmp_path) == f"results of schema version {version!r}, this qemu-diff reads 5"


@pytest.mark.parametrize("document", ["[]", "null", "1", '"text"', "{}"])
def test_json_of_something_else_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / VERDICTS).write_text(document)
    assert refused(tmp_path) == "results of schema version None, this qemu-diff reads 5"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\x00" * 100, b"[" * 100_000])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / VERDICTS).write_bytes(content)
    assert refused(tmp_path).startswith("not JSON: ")


def test_a_cut_off_file_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    write_results(replace(CAMPAIGN, cells=(PASSED,), pairs=()), tmp_path)
    whole = (tmp_path / VERDICTS).read_bytes()
    for size in range(0, len(whole) - 2, 7):
        (tmp_path / VERDICTS).write_bytes(whole[:size])
        refused(tmp_path)


def test_missing_results_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == "No such file or directory"
    (tmp_path / VERDICTS).mkdir()
    assert refused(tmp_path) == "Is a directory"


# --- opening ---


def test_a_results_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "results"
    check_results(directory)
    write_results(CAMPAIGN, directory)
    assert read_results(directory) == CAMPAIGN


def run_into(directory: Path, result: CampaignResult) -> None:
    check_results(directory)
    with open_results(directory):
        assert not (directory / VERDICTS).exists()
        write_results(result, directory)
        (directory / CELLS).mkdir()


def test_results_that_are_there_are_kept(tmp_path: Path) -> None:
    directory, previous = tmp_path / "results", tmp_path / "results.previous"
    run_into(directory, CAMPAIGN)
    run_into(directory, replace(CAMPAIGN, name="second"))
    assert read_results(directory).name == "second"
    assert read_results(previous) == CAMPAIGN
    assert (previous / CELLS).is_dir()


def test_only_the_last_results_are_kept(tmp_path: Path) -> None:
    directory, previous = tmp_path / "results", tmp_path / "results.previous"
    for name in ("first", "second", "third"):
        run_into(directory, replace(CAMPAIGN, name=name))
    assert read_results(previous).name == "second"
    assert sorted(tmp_path.iterdir()) == [directory, previous]


def test_nothing_but_our_own_files_is_moved_or_removed(tmp_path: Path) -> None:
    directory, previous = tmp_path / "results", tmp_path / "results.previous"
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    previous.mkdir()
    (previous / "thesis.txt").write_text("mine, too")
    for name in ("first", "second", "third"):
        run_into(directory, replace(CAMPAIGN, name=name))
    assert (directory / "notes.txt").read_text() == "mine"
    assert (previous / "thesis.txt").read_text() == "mine, too"


def test_two_runs_do_not_share_a_directory(tmp_path: Path) -> None:
    run_into(tmp_path, CAMPAIGN)
    with open_results(tmp_path), pytest.raises(ResultsError) as caught, open_results(tmp_path):
        pass
    assert str(caught.value) == f"{tmp_path}: another run writes its results here"


def test_a_percent_sign_is_refused_before_qemu_does(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no log file with a % in its path"):
        check_results(tmp_path / "100%")


def test_a_file_in_place_of_the_directory_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text("mine")
    with pytest.raises(ResultsError) as caught:
        check_results(path)
    assert str(caught.value) == f"{path}: File exists; name another with --out"
    assert path.read_text() == "mine"


def test_what_did_not_change_is_not_made_into_text_again(tmp_path: Path) -> None:
    result = CAMPAIGN
    file = VerdictsFile(tmp_path)
    file.write(replace(result, cells=result.cells[:1], pairs=()))
    file.write(result)
    assert read_results(tmp_path) == result
    changed = replace(result.cells[0], steps=result.cells[0].steps + 1)
    file.write(replace(result, cells=(changed, *result.cells[1:])))
    assert read_results(tmp_path).cells[0] == changed


# --- the journal ---


def many(number: int) -> tuple[CellResult, ...]:
    return tuple(
        replace(PASSED, cell=replace(PASSED.cell, id=f"k.cell-{at}")) for at in range(number)
    )


MANY = many(3 * WHOLE_CELLS)


def ids(directory: Path) -> list[str]:
    return [one.cell.id for one in read_results(directory).cells]


def published(directory: Path, upto: int) -> VerdictsFile:
    """Cells written as each is finished, and the run not yet at its end."""
    file = VerdictsFile(directory)
    for number in range(1, upto + 1):
        file.write(CampaignResult("c", MANY[:number], (), complete=False))
    return file


@pytest.mark.parametrize("upto", [1, WHOLE_CELLS, WHOLE_CELLS + 1, WHOLE_CELLS + 16, len(MANY)])
def test_what_was_written_is_read_at_any_moment(tmp_path: Path, upto: int) -> None:
    published(tmp_path, upto)
    assert ids(tmp_path) == [one.cell.id for one in MANY[:upto]]


def test_few_cells_are_all_in_the_one_file(tmp_path: Path) -> None:
    published(tmp_path, WHOLE_CELLS)
    assert [path.name for path in tmp_path.iterdir()] == [VERDICTS]


def test_many_cells_are_not_written_anew_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(
        "qemu_diff.report.results.write_whole",
        lambda path, content: (written.append(len(content)), write_whole(path, content)),
    )
    file = published(tmp_path, len(MANY))
    file.write(CampaignResult("c", MANY, (), complete=True))
    after = [size for size in written if size > written[WHOLE_CELLS - 1]]
    assert len(after) < 2 * len(MANY) // WHOLE_CELLS
    assert [path.name for path in tmp_path.iterdir()] == [VERDICTS]
    assert read_results(tmp_path) == CampaignResult("c", MANY, (), complete=True)


def test_pairs_come_with_the_journal(tmp_path: Path) -> None:
    file = published(tmp_path, WHOLE_CELLS)
    pair = replace(PAIR, baseline=MANY[0].cell, candidate=MANY[1].cell)
    result = CampaignResult("c", MANY[:WHOLE_CELLS], (pair,), complete=False)
    file.write(result)
    assert (tmp_path / JOURNAL).exists()
    assert read_results(tmp_path) == result


@pytest.mark.parametrize("changed", ["head", "cell", "fewer"])
def test_what_is_not_only_more_is_written_anew(tmp_path: Path, changed: str) -> None:
    file = published(tmp_path, WHOLE_CELLS + 2)
    cells = MANY[: WHOLE_CELLS + 3]
    result = CampaignResult("c", cells, (), complete=False)
    if changed == "head":
        result = replace(result, only=("*",))
    elif changed == "cell":
        result = replace(result, cells=(replace(cells[0], steps=7), *cells[1:]))
    else:
        result = replace(result, cells=cells[1:])
    file.write(result)
    assert not (tmp_path / JOURNAL).exists()
    assert read_results(tmp_path) == result


@given(cut=st.integers(0, 10_000))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_journal_that_was_cut_off_keeps_its_whole_lines(tmp_path: Path, cut: int) -> None:
    published(tmp_path, WHOLE_CELLS + 3)
    journal = tmp_path / JOURNAL
    content = journal.read_bytes()
    kept = content[: cut % len(content)]
    journal.write_bytes(kept)
    whole = max(0, kept.count(b"\n") - 1)
    assert len(ids(tmp_path)) == WHOLE_CELLS + whole


def test_a_journal_that_goes_on_with_other_verdicts_is_none(tmp_path: Path) -> None:
    published(tmp_path, WHOLE_CELLS + 3)
    journal = (tmp_path / JOURNAL).read_bytes()
    VerdictsFile(tmp_path).write(CAMPAIGN)
    (tmp_path / JOURNAL).write_bytes(journal)
    assert read_results(tmp_path) == CAMPAIGN


@pytest.mark.parametrize(("line", "said"), [(b"{", "not JSON: "), (b"[]", "no cell, and no pair")])
def test_a_journal_that_can_not_be_read_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    published(tmp_path, WHOLE_CELLS + 3)
    with (tmp_path / JOURNAL).open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(ResultsError) as caught:
        read_results(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / JOURNAL}:5: {said}")


def test_a_journal_that_can_not_be_written_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = published(tmp_path, WHOLE_CELLS)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InfrastructureError, match=r"verdicts\.jsonl: No space left on device"):
            file.write(CampaignResult("c", MANY[: WHOLE_CELLS + 1], (), complete=False))
    file.write(CampaignResult("c", MANY[: WHOLE_CELLS + 2], (), complete=False))
    assert ids(tmp_path) == [one.cell.id for one in MANY[: WHOLE_CELLS + 2]]


def test_previous_results_keep_their_journal(tmp_path: Path) -> None:
    directory = tmp_path / "results"
    directory.mkdir()
    published(directory, WHOLE_CELLS + 3)
    with open_results(directory):
        write_results(CAMPAIGN, directory)
    assert len(ids(tmp_path / "results.previous")) == WHOLE_CELLS + 3
    assert read_results(directory) == CAMPAIGN


def test_nobody_leads_a_file_s_content_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other's")
    (tmp_path / "text.new").symlink_to("other")
    write_whole(tmp_path / "text", "ours")
    assert (tmp_path / "text").read_text() == "ours"
    assert (tmp_path / "other").read_text() == "other's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "text"]
    os.mkfifo(tmp_path / "text.new")
    write_whole(tmp_path / "text", "again")
    assert (tmp_path / "text").read_text() == "again"


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InfrastructureError, match=f"^{tmp_path / 'pipe'}: not a file$"):
        write_whole(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()
