"""Functions of L1's kernel by address, from its vmlinux."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.sections import SymbolTableSection

from qemu_diff.errors import SourceError
from qemu_diff.kernels.symbols import opened_elf

LARGEST_FUNCTION = 1 << 16
"""Bytes; what lies further from a symbol is no part of it."""


@dataclass(frozen=True)
class Symbols:
    """Code symbols: (address, name), ascending."""

    entries: tuple[tuple[int, str], ...]

    def name(self, address: int) -> str:
        """``kvm_handle_sys_reg+0x4``; empty where nothing near stands before it."""
        index = bisect_right(self.entries, address, key=lambda entry: entry[0]) - 1
        if index < 0:
            return ""
        start, name = self.entries[index]
        if address - start >= LARGEST_FUNCTION:
            return ""
        return f"{name}+{address - start:#x}" if address != start else name

    def holds(self, name: str) -> bool:
        """Whether there is a symbol of that name."""
        return any(name == one for _, one in self.entries)


def read_symbols(vmlinux: Path) -> Symbols:
    """The code symbols of a vmlinux.

    :raises SourceError: it is none, or can't be read.
    """
    try:
        with opened_elf(vmlinux) as elf:
            table = elf.get_section_by_name(".symtab")
            if not isinstance(table, SymbolTableSection):
                return Symbols(())
            found = {
                symbol["st_value"]: symbol.name
                for symbol in table.iter_symbols()
                if symbol.name and symbol["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE")
                and not symbol.name.startswith("$")
            }  # fmt: skip
    except (OSError, ELFError) as error:
        raise SourceError(f"{vmlinux}: not a vmlinux: {error}") from error
    return Symbols(tuple(sorted(found.items())))
