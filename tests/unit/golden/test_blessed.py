"""What a golden run is held against, and what is said where it differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from golden.blessed import BLESSED, OURS, QEMU, Recorded, Run, bless, complaint, load, unknown

RUN = Run(
    {
        QEMU: "QEMU emulator version 7.2.22 (Debian)",
        "step VMM": "1f" * 32,
        f"{OURS}guest_images/stepvmm": "3b" * 32,
    },
    {"patched.hvc.vhe.quiet": Recorded("pass", "ab" * 16)},
)
NEWER = replace(RUN, inputs={**RUN.inputs, QEMU: "QEMU emulator version 10.0.0"})


def test_what_was_blessed_is_no_complaint() -> None:
    assert complaint(RUN, [NEWER, RUN]) == unknown(RUN, [NEWER, RUN]) == ""


@pytest.mark.parametrize("name", [QEMU, "step VMM", "Image of kernel patched"])
def test_what_a_machine_has_that_nobody_blessed_is_named_and_no_fault(name: str) -> None:
    other = replace(RUN, inputs={**RUN.inputs, name: "2a" * 32}, cells={})

    assert complaint(other, [RUN]) == ""
    said = unknown(other, [RUN])
    assert said.startswith(f"no blessed run has this machine's {name} (")
    assert ", here 2a2a2a2a2a2a): " in said
    assert "scripts/bless" in said
    assert "\n" not in said


def test_what_differs_of_ours_is_named_and_must_be_blessed() -> None:
    stepvmm = f"{OURS}guest_images/stepvmm"
    other = replace(RUN, inputs={**RUN.inputs, stepvmm: "2a" * 32, f"{OURS}payload": "00" * 32})

    said = complaint(other, [NEWER, RUN])

    assert (
        f"blessed with another {stepvmm} (3b3b3b3b3b3b, here 2a2a2a2a2a2a); "
        f"{OURS}payload (none, here 000000000000): " in said
    )
    assert "scripts/bless" in said


def test_where_nothing_is_blessed_that_is_said() -> None:
    assert complaint(RUN, []).startswith("blessed with another everything: ")
    assert unknown(RUN, []).startswith("no blessed run has this machine's everything: ")


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
