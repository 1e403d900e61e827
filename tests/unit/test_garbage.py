"""Every reader takes what is hostile: it reads it, or refuses it in its own words."""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from fuzz.hostile import hostile
from fuzz.targets import TARGETS, Target, fault_of
from hypothesis import HealthCheck, given, settings

from qemu_diff.kernels.symbols import step_functions

RUNS = 40
"""Of each target, the same ones each time: ``scripts/measure garbage`` tries millions of others."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_valid_is_read(target: Target, tmp_path: Path) -> None:
    for number, seed in enumerate(target.seeds()):
        directory = tmp_path / str(number)
        directory.mkdir()
        target.read(seed, directory)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_hostile_is_read_or_refused(target: Target) -> None:
    @settings(
        max_examples=RUNS,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(hostile(target.seeds()))
    def taken(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as directory:
            fault = fault_of(target, data, Path(directory))
        assert not fault, fault

    taken()


def damaged_ledger(statement: str) -> bytes:
    """A ledger that SQLite finds nothing wrong with."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "ledger")
        path.write_bytes(TARGETS["ledger"].seeds()[0])
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(statement)
        return path.read_bytes()


def lying_vmlinux() -> bytes:
    """One whose table of symbols is larger than the address space."""
    content = bytearray(TARGETS["vmlinux"].seeds()[0])
    headers = struct.unpack_from("<Q", content, 40)[0]
    struct.pack_into("<Q", content, headers + 64 + 32, 1 << 62)
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("series", b"../secret.patch\n"),
        ("series", b"/etc/passwd\n"),
        ("series", b"it's.patch\n"),
        ("series", b"one\0.patch\n"),
        ("series", b"9" * 9999 + b"\n"),
        ("ledger", damaged_ledger("UPDATE cell SET verdict = 'none'")),
        ("ledger", damaged_ledger("UPDATE cell SET signatures = '['")),
        ("ledger", damaged_ledger("UPDATE cell SET violations = '5'")),
        ("learnt windows", b""),
        ("timer log", b"arm_gt_recalc gt recalc: timer 0 irqstate 1 next tick 0x" + b"f" * 99),
    ],
)
def test_what_was_once_a_traceback_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    target = TARGETS[name]
    with pytest.raises(target.refuses):
        target.read(data, tmp_path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cache entry", b'{"version":' + b"[" * 100_000),
        ("cache entry", b"[]"),
        ("console", b"peer: begin\npeer: exit " + b"9" * 5000 + b" 1\n"),
    ],
)
def test_what_was_once_a_traceback_says_nothing(name: str, data: bytes, tmp_path: Path) -> None:
    TARGETS[name].read(data, tmp_path)


def test_a_vmlinux_that_lies_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(lying_vmlinux())
    assert step_functions(path) == {}
