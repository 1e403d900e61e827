"""What a golden run is held against, and what is said where it differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from golden.blessed import BLESSED, QEMU, Recorded, Run, bless, complaint, load

RUN = Run(
    {QEMU: "QEMU emulator version 7.2.22 (Debian)", "step VMM": "1f" * 32},
    {"patched.hvc.vhe.quiet": Recorded("pass", "ab" * 16)},
)
NEWER = replace(RUN, inputs={**RUN.inputs, QEMU: "QEMU emulator version 10.0.0"})


def test_what_was_blessed_is_no_complaint() -> None:
    assert complaint(RUN, [NEWER, RUN]) == ""


def test_a_qemu_that_nobody_blessed_is_named_and_so_is_the_remedy() -> None:
    said = complaint(NEWER, [RUN])

    assert "no run of 'QEMU emulator version 10.0.0' is blessed" in said
    assert "scripts/bless" in said
    assert "\n" not in said


def test_the_input_that_differs_is_named() -> None:
    other = replace(RUN, inputs={**RUN.inputs, "step VMM": "2a" * 32, "payload hvc": "00" * 32})

    said = complaint(other, [RUN])

    assert (
        "blessed with another payload hvc (none, here 000000000000); step VMM (1f1f1f1f1f1f" in said
    )
    assert "scripts/bless" in said


def test_the_same_inputs_must_give_the_same_run() -> None:
    for changed in (Recorded("fail", "ab" * 16), Recorded("pass", "cd" * 16)):
        other = replace(RUN, cells={"patched.hvc.vhe.quiet": changed})

        assert "another run of patched.hvc.vhe.quiet" in complaint(other, [RUN])


def test_a_cell_that_is_missing_is_another_run() -> None:
    assert "another run of patched.hvc.vhe.quiet" in complaint(replace(RUN, cells={}), [RUN])


def test_a_run_replaces_the_one_with_the_same_qemu_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "fingerprints.json"
    again = replace(RUN, cells={})

    for one in (RUN, NEWER, again):
        bless(one, path)

    assert set(map(repr, load(path))) == {repr(NEWER), repr(again)}


def test_something_is_blessed() -> None:
    assert load(BLESSED)
