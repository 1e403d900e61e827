"""Addresses of a payload as people read them: label, offset, disassembly."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property

import capstone

from qemu_diff.model import Instruction, Payload


class Listing:
    """A payload's disassembly.

    :param payload: the program; addresses outside of its bytes are shown as ``udf #0``, which is
        what zeroed memory holds.
    """

    def __init__(self, payload: Payload) -> None:
        self.payload = payload

    def instruction(self, address: int) -> Instruction:
        """The instruction at an address of L2."""
        return Instruction(address, self.label(address), self._text.get(address, "udf #0"))

    def label(self, address: int) -> str:
        """``label+0x8``, or the bare address where no label stands before it."""
        labels = self.payload.labels
        index = bisect_right(labels, address, key=lambda label: label[0]) - 1
        if index < 0:
            return f"{address:#x}"
        start, name = labels[index]
        return f"{name}+{address - start:#x}" if address != start else name

    @cached_property
    def _text(self) -> dict[int, str]:
        decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
        decoder.skipdata = True
        code = decoder.disasm_lite(self.payload.blob, self.payload.load_address)
        return {address: f"{name} {operands}".strip() for address, _, name, operands in code}
