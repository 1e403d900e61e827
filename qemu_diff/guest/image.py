"""What L1 boots besides its kernel: the step VMM, and the payload that it runs as L2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from qemu_diff.abi import Mark
from qemu_diff.errors import CompileError
from qemu_diff.guest.initramfs import pack
from qemu_diff.guest.toolchain import CROSS_COMPILER, compile_cached
from qemu_diff.kernels.symbols import ELF64_SYMBOL
from qemu_diff.model import GuestInterrupts, Payload

LOAD_ADDRESS = 0x5A5A_0000
"""IPA of every payload: no L1 program and no L1 kernel runs at this virtual address."""

MEMORY_BYTES = 0x8_0000
"""Size of L2's only memory slot; the truth plugin's range is the whole slot."""

_MRS_CNTVCT_EL0 = 0xD53B_E040
_RT = np.uint32(0x1F)
_BL = 0x9400_0000
_IMM26 = np.uint32(0x03FF_FFFF)
"""A64 words and their fields (DDI 0487, C6.2)."""

_TYPE, _STT_NOTYPE, _STT_FUNC = 0xF, 0, 2
_SHN_UNDEF, _SHN_ABS = 0, 0xFFF1
"""Of a symbol's ``st_info`` and ``st_shndx`` (elf.h)."""

_MARK_SYMBOLS = {
    Mark.RETURNED: "mark_returned",
    Mark.JOB_BEGIN: "mark_job_begin",
    Mark.JOB_END: "mark_job_end",
}


@dataclass(frozen=True)
class StepVmm:
    """The compiled step VMM.

    :param program: a static aarch64 ELF file, linked at a fixed address.
    :param marks: address of each :class:`~qemu_diff.abi.Mark`, by number.
    :param counter_reads: addresses of the instructions that read the counter for ``entered_at``
        and ``returned_at``: they tie the records' times to those of landmarks.
    """

    program: Path
    marks: tuple[int, ...]
    counter_reads: tuple[int, ...] = ()


def build_stepvmm(guest_images: Path, cache: Path) -> StepVmm:
    """Compile the step VMM.

    :raises MissingToolError: the cross compiler is missing.
    :raises CompileError: it refuses.
    """
    folder = guest_images / "stepvmm"
    include = guest_images / "include"
    program = compile_cached(
        [
            CROSS_COMPILER, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror",
            "-static", "-no-pie", "-pthread", f"-I{include}",
        ],
        sources=[*sorted(folder.glob("*.c")), *sorted(folder.glob("*.S"))],
        inputs=[*sorted(folder.glob("*.h")), *sorted(include.glob("*.h"))],
        cache=cache / "stepvmm",
        name="stepvmm",
    )  # fmt: skip
    return read_stepvmm(program)


def read_stepvmm(program: Path) -> StepVmm:
    """A step VMM that is compiled already.

    :raises CompileError: it is none.
    """
    try:
        symbols = {name: address for address, name in _symbols(program)}
        marks = tuple(symbols[_MARK_SYMBOLS[mark]] for mark in Mark)
        return StepVmm(program, marks, _counter_reads(program, marks[Mark.RETURNED]))
    except (ELFError, KeyError) as error:
        raise CompileError(f"{program}: not a step VMM: {error}") from error


PAYLOADS = "payloads"
"""The folder of payloads, among our own sources for guests and beside a campaign file."""


def payload_source(name: str, guest_images: Path, beside: Path | None = None) -> Path:
    """The source of a payload.

    :param beside: the campaign file's directory: a payload of its own wins over one of ours.
    """
    own = beside / PAYLOADS / f"{name}.S" if beside else None
    return own if own and own.is_file() else guest_images / PAYLOADS / f"{name}.S"


def build_payload(
    name: str,
    guest_images: Path,
    cache: Path,
    beside: Path | None = None,
    *,
    interrupts: bool = False,
) -> Payload:
    """Assemble a payload and read what it states about itself (payloads/payload.inc).

    :param beside: see :func:`payload_source`.
    :param interrupts: with a GIC set up, and a handler (payloads/interrupts.inc).
    :raises MissingToolError: the cross compiler is missing.
    :raises CompileError: it refuses, or the payload does not state its entry and its range.
    """
    source = payload_source(name, guest_images, beside)
    folders = tuple(dict.fromkeys((source.parent, guest_images / PAYLOADS)))
    return assemble(source, folders, cache, interrupts=interrupts)


def assemble(
    source: Path, folders: Sequence[Path], cache: Path, *, interrupts: bool = False
) -> Payload:
    """As :func:`build_payload`, from a source file.

    :param folders: where files that it includes are looked up, in this order.
    """
    name = source.stem
    program = compile_cached(
        [
            CROSS_COMPILER, "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none",
            f"-Wl,-Ttext={LOAD_ADDRESS:#x}", "-Wl,-e,entry",
            *(f"-Wa,-I{folder}" for folder in folders),
            *(("-Wa,--defsym,INTERRUPTS=1",) if interrupts else ()),
        ],
        sources=[source],
        inputs=[path for folder in folders for path in sorted(folder.glob("*.inc"))],
        cache=cache / "payloads",
        name=f"{name}.elf",
    )  # fmt: skip
    symbols = _symbols(program)
    addresses = {symbol: address for address, symbol in symbols}
    for needed in ("entry", "step_begin", "step_end"):
        if needed not in addresses:
            raise CompileError(f"{source} does not define {needed}")
    text, classes = _sections(program)
    return Payload(
        name=name,
        blob=text,
        load_address=LOAD_ADDRESS,
        entry=addresses["entry"],
        begin=addresses["step_begin"],
        end=addresses["step_end"],
        labels=tuple((address, label) for address, label in symbols if label in _labels(addresses)),
        classes=tuple(one.decode() for one in classes.split(b"\0") if one),
        interrupts=_interrupts(addresses),
        program=program,
    )


def initramfs(stepvmm: StepVmm, job: bytes, payload: Payload) -> bytes:
    """The archive that L1 boots: the step VMM as PID 1, its job, and L2's bytes."""
    return pack({"init": stepvmm.program.read_bytes(), "job": job, "payload": payload.blob})


def _counter_reads(program: Path, mark_returned: int) -> tuple[int, ...]:
    """The readings around each call of ``mark_returned()``; other threads read the counter, too."""
    text = ELFFile(BytesIO(program.read_bytes())).get_section_by_name(".text")
    if text is None:
        raise CompileError(f"{program} holds no code")
    words = np.frombuffer(text.data(), "<u4", len(text.data()) // 4)
    address = text["sh_addr"] + 4 * np.arange(len(words), dtype=np.int64)
    reads = address[(words & ~_RT) == _MRS_CNTVCT_EL0].tolist()
    offset = ((words & _IMM26).astype(np.int64) ^ 1 << 25) - (1 << 25)
    calls = address[((words & ~_IMM26) == _BL) & (address + 4 * offset == mark_returned)].tolist()
    around: set[int] = set()
    for call in calls:
        around.update([one for one in reads if one < call][-1:])
        around.update([one for one in reads if one > call][:1])
    return tuple(sorted(around))


def _interrupts(addresses: dict[str, int]) -> GuestInterrupts | None:
    if "irq_setup" not in addresses:
        return None
    return GuestInterrupts(
        setup=addresses["irq_setup"],
        handler=(addresses["irq_handler"], addresses["irq_handler_end"]),
        vectors=addresses["irq_vectors"],
        counters=addresses["irq_counters"],
    )


def _labels(addresses: dict[str, int]) -> set[str]:
    hidden = {"step_begin"} | {name for name in addresses if name.startswith(("_", "$"))}
    return set(addresses) - hidden


def _symbols(program: Path) -> list[tuple[int, str]]:
    elf = ELFFile(BytesIO(program.read_bytes()))
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise CompileError(f"{program} has no symbol table")
    # A static program has thousands, which elftools reads one by one.
    symbols = np.frombuffer(table.data(), ELF64_SYMBOL)
    code = np.isin(symbols["info"] & _TYPE, (_STT_NOTYPE, _STT_FUNC))
    placed = ~np.isin(symbols["section"], (_SHN_UNDEF, _SHN_ABS))
    chosen = symbols[code & placed & (symbols["name"] != 0)]
    names = table.stringtable.data()
    return sorted(
        (address, names[begin : names.index(0, begin)].decode())
        for address, begin in zip(chosen["value"].tolist(), chosen["name"].tolist(), strict=True)
    )


def _sections(program: Path) -> tuple[bytes, bytes]:
    elf = ELFFile(BytesIO(program.read_bytes()))
    text = elf.get_section_by_name(".text")
    classes = elf.get_section_by_name(".qemu_diff.classes")
    if text is None or classes is None:
        raise CompileError(f"{program.name}: the payload holds no code, or states no classes")
    return text.data(), classes.data()
