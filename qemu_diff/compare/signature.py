"""Which broken steps are the same bug: one entry with a count instead of thousands of lines."""

from __future__ import annotations

from qemu_diff.compare.decode import UNKNOWN_CLASS, classify
from qemu_diff.model import (
    Breakdown,
    Cell,
    CellResult,
    Finding,
    Payload,
    Signature,
    SignatureGroup,
    ViolationKind,
    Window,
)


def instruction_class(payload: Payload, address: int) -> str:
    """The class of the instruction at an address of L2, as payloads state classes."""
    offset = address - payload.load_address
    word = payload.blob[offset : offset + 4] if offset >= 0 else b""
    return (classify(int.from_bytes(word, "little")) if len(word) == 4 else UNKNOWN_CLASS).name


def signature(
    cell: Cell, payload: Payload, address: int, kind: ViolationKind, function: str = ""
) -> Signature:
    """What a violation at an instruction is an instance of.

    :param function: of L1's kernel, that served the exit after which the step went wrong.
    """
    scenario = f"{cell.job}/{cell.machine.exception_order}"
    return Signature(scenario, instruction_class(payload, address), kind, function)


def signature_of(cell: Cell, payload: Payload, finding: Finding, function: str = "") -> Signature:
    """A finding's signature; see :func:`signature`."""
    return signature(cell, payload, finding.instruction.address, finding.kind, function)


def grouped(result: CellResult, payload: Payload) -> tuple[SignatureGroup, ...]:
    """The violations of a cell, one entry for each signature, most frequent first."""
    entries: dict[Signature, list[Breakdown]] = {}
    functions = dict(result.exit_functions)
    for one in result.breakdown:
        address = one.instruction.address
        key = signature(result.cell, payload, address, one.kind, functions.get(address, ""))
        entries.setdefault(key, []).append(one)
    groups = [_group(key, entry, result.windows) for key, entry in entries.items()]
    # A stable sort: what is equally frequent stays in the order of addresses.
    return tuple(sorted(groups, key=lambda group: -group.count))


def _group(key: Signature, entry: list[Breakdown], windows: tuple[Window, ...]) -> SignatureGroup:
    broken = {(one.instruction.address, one.kind) for one in entry}
    inside = [one for one in windows if (one.instruction.address, one.kind) in broken]
    return SignatureGroup(
        signature=key,
        count=sum(one.broken for one in entry),
        first_ns=min((one.first_ns for one in inside), default=None),
        last_ns=max((one.last_ns for one in inside), default=None),
    )
