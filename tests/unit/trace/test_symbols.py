"""Names of kernel functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.errors import SourceError
from qemu_diff.trace.symbols import LARGEST_FUNCTION, Symbols, read_symbols

KERNEL = Symbols(((0x1000, "first"), (0x2000, "second")))


def test_an_address_has_the_name_before_it() -> None:
    assert KERNEL.name(0x1000) == "first"
    assert KERNEL.name(0x1FFC) == "first+0xffc"
    assert KERNEL.name(0xFFF) == ""
    assert KERNEL.name(0x2000 + LARGEST_FUNCTION) == ""
    assert KERNEL.holds("second")
    assert not KERNEL.holds("third")


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF" + bytes(100)])
def test_what_is_no_vmlinux_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vmlinux").write_bytes(content)
    with pytest.raises(SourceError, match="not a vmlinux"):
        read_symbols(tmp_path / "vmlinux")
