"""What is read of compiled guests."""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from qemu_diff.errors import CompileError
from qemu_diff.guest.image import build_payload, read_stepvmm

GUEST_IMAGES = Path(__file__).resolve().parents[3] / "guest_images"


def test_labels_are_the_symbols_of_the_program(tmp_path: Path) -> None:
    payload = build_payload("trapped_classes", GUEST_IMAGES, tmp_path, interrupts=True)
    assert payload.program is not None
    with payload.program.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        there = {(one["st_value"], one.name): one for one in table.iter_symbols()}
    assert {*payload.labels} <= {*there}
    named = {name for _, name in payload.labels}
    assert {"id_register", "set_way", "device_write", "irq_handler"} <= named
    # Constants are no places, and names of sections and of mapping no labels.
    absolute = {name for (_, name), one in there.items() if one["st_shndx"] == "SHN_ABS"}
    assert "DISTRIBUTOR" in absolute
    assert not named & (absolute | {"", "$x", "$d", "step_begin"})


def test_what_is_no_step_vmm_is_refused(tmp_path: Path) -> None:
    payload = build_payload("hvc", GUEST_IMAGES, tmp_path)
    assert payload.program is not None
    with pytest.raises(CompileError, match="not a step VMM: 'mark_returned'"):
        read_stepvmm(payload.program)
