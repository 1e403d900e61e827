"""What cells need before they boot: sessions, and payloads as those ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from qemu_diff.campaign.prepare import Kernels, Prepared, _key, _sessions
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.job import Routine
from qemu_diff.drive.peer import PeerTools
from qemu_diff.errors import ConfigError, UserError
from qemu_diff.model import Cell, Driver, FloodSource, FloodSpec, MachineSpec, Payload, Placement

INTO_L2 = FloodSpec((FloodSource.PPI,), Placement.RANDOM, count=1)


def cell(session: str = "", payload: str = "hvc", flood: FloodSpec | None = None) -> Cell:
    return Cell(
        id=f"k.{payload}.{session}",
        kernel="k",
        payload=payload,
        machine=MachineSpec(),
        flood=flood or FloodSpec(),
        driver=Driver.GDB,
        seed=1,
        session=session,
    )


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Our own sessions: ``walk`` for hvc, ``timer`` for virtual_timer with interrupts."""
    directory = tmp_path / "guest_images"
    write(directory, "walk", "#! payload hvc\nstepi\n")
    write(directory, "timer", "#! payload virtual_timer\n#! interrupts\nstepi\n")
    return directory


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / "sessions" / f"{name}.gdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_session_is_read_once_by_its_name(ours: Path, tmp_path: Path) -> None:
    cells = [cell(), cell("walk"), cell("timer", "virtual_timer"), cell("walk")]
    sessions = _sessions(cells, ours, tmp_path)
    assert {name: one.payload for name, one in sessions.items()} == {
        "walk": "hvc",
        "timer": "virtual_timer",
    }


def test_cells_without_a_session_need_none(tmp_path: Path) -> None:
    assert _sessions([cell(), cell(payload="mixed")], tmp_path / "nowhere", tmp_path) == {}


def test_a_session_of_another_payload_is_told_in_one_line(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _sessions([cell("walk"), cell("walk", "mixed")], ours, tmp_path)
    assert str(caught.value) == (
        f"{ours}/sessions/walk.gdb: session walk is about payload hvc, and the campaign has it with"
        " mixed"
    )


def test_a_session_beside_the_campaign_wins_and_is_the_one_that_is_told(
    ours: Path, tmp_path: Path
) -> None:
    own = write(tmp_path, "walk", "#! payload mixed\nstepi\n")
    assert _sessions([cell("walk", "mixed")], ours, tmp_path)["walk"].path == own
    with pytest.raises(UserError) as caught:
        _sessions([cell("walk")], ours, tmp_path)
    assert str(caught.value).startswith(f"{own}: session walk is about payload mixed, ")


def test_a_session_that_is_wrong_or_gone_is_the_user_s_mistake(ours: Path, tmp_path: Path) -> None:
    write(ours, "wrong", "#! payload hvc\nkill\n")
    for name, said in {"wrong": "`kill`", "gone": "can't be read"}.items():
        with pytest.raises(ConfigError, match=said):
            _sessions([cell(name)], ours, tmp_path)


def test_a_session_says_itself_whether_l2_takes_interrupts(ours: Path, tmp_path: Path) -> None:
    quiet, flooded = cell(), cell(flood=INTO_L2)
    walk, timer = cell("walk"), cell("timer", "virtual_timer")
    sessions = _sessions([walk, timer], ours, tmp_path)
    assert [_key(one, sessions) for one in (quiet, flooded, walk, timer)] == [
        ("hvc", False),
        ("hvc", True),
        ("hvc", False),
        ("virtual_timer", True),
    ]


def test_a_cell_gets_the_payload_and_the_routine_of_its_session(ours: Path, tmp_path: Path) -> None:
    one = cell("timer", "virtual_timer")
    payloads = {
        ("virtual_timer", takes): Payload(str(takes), b"", 0, 0, 0, 0, (), ())
        for takes in (False, True)
    }
    routines = {("step", key): Routine((), ()) for key in payloads}
    prepared = Prepared(
        cast("Tools", None),
        cast("PeerTools", None),
        payloads,
        routines,
        Kernels({}, {}, {}, {}),
        sessions=_sessions([one], ours, tmp_path),
    )
    assert prepared.payload_of(one).name == "True"
    assert prepared.routine_of(one) is routines["step", ("virtual_timer", True)]
