"""Where QEMU spends its time, as perf(1) samples it.

Distributions strip QEMU of all symbols but those that plugins and modules use. A static function is
told by its unwind information (``.eh_frame`` has one entry for each function) and counts with the
last exported function before it, which is of the same source file: compilers keep a file together.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.stepping import Stepping, Way
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

GROUPS = (
    ("translated code", r"^\[translated\]"),
    ("looking up translated code, and entering it",
     r"^(qht_|tb_|cpu_exec|cpu_loop_exit|helper_lookup_tb_ptr|cpu_get_tb_cpu_state|curr_cflags"
     r"|log_cpu_exec)"),
    ("flushes of the jump cache", r"^tcg_flush_jmp_cache"),
    ("TLB: flushes, misses, slow accesses",
     r"^(tlb_|plugin_gen_tb_end|probe_access|get_page_addr_code|helper_(le|be|ret)_|cpu_(ld|st)"
     r"|address_space_translate_for_iotlb|qemu_ram_|cpu_asidx|memory_region_get_ram)"),
    ("page-table walks",
     r"^(get_phys_addr|aa64_va_param|arm_cpu_tlb_fill|stage_1_mmu_idx|regime_|arm_cpu_get_phys"
     r"|arm_hcr_el2_eff|arm_stage|v8m_security_lookup|do_common_semihosting)"),
    ("exceptions, system registers, GIC, timers",
     r"^(arm_|aarch64_|helper_|sve_|sme_|fp_exc|cpsr|aa32|gic|icc|gt_|timer|qemu_clock|icount"
     r"|raw_write|raise_exception|pmu_|memory_region_)"),
    ("translation", r"^(tcg_|translator|disas|gen_|plugin_gen|arm_translate|optimize)"),
    ("the truth plugin", r"^\[truth\.so\]"),
    ("the host's kernel", r"^\[kernel"),
)  # fmt: skip
"""Of exported functions, and of ``[FILE]`` outside of QEMU: the first that fits."""

REST = "the rest"

_SAMPLE = re.compile(r"^\s*([0-9a-f]+)\s+\((.*)\)$")
_MAPPED = re.compile(r"\[(0x[0-9a-f]+)\(0x[0-9a-f]+\) @ (0x[0-9a-f]+|0) .*r-xp (\S+)$")


@dataclass(frozen=True)
class _Functions:
    """Where functions begin, in order, and what each counts as."""

    begins: tuple[int, ...]
    names: tuple[str, ...]
    segments: tuple[tuple[int, int, int], ...]

    def name(self, address: int) -> str:
        at = bisect_right(self.begins, address) - 1
        return self.names[at] if at >= 0 else ""

    def base(self, mapped: int, offset: int) -> int:
        """Where address 0 came to lie.

        :param offset: in the file, of what is mapped there.
        """
        for address, begin, size in self.segments:
            if begin <= offset < begin + size:
                return mapped - offset + begin - address
        return mapped - offset


def profiled(stepping: Stepping, way: Way) -> dict[str, float]:
    """Share of QEMU's samples in each group, largest first; nothing where there is no perf.

    :raises InfrastructureError: L1 did not come to the end.
    """
    if (perf := shutil.which("perf")) is None:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        data = str(Path(directory) / "perf.data")
        around = (perf, "record", "-q", "-e", "cpu-clock", "-o", data)
        stepping.pace(replace(way, around=around))
        functions = _functions(stepping.qemu(way).program)
        counts = Counter(group_of(name) for name in _sampled(perf, data, functions))
    total = counts.total()
    shares = {name: count / total for name, count in counts.most_common() if name != REST}
    return {**shares, REST: counts[REST] / total}


def group_of(name: str) -> str:
    """The first of ``GROUPS`` that fits, or ``REST``."""
    return next((group for group, pattern in GROUPS if re.match(pattern, name)), REST)


def _sampled(perf: str, data: str, functions: _Functions) -> list[str]:
    def script(*options: str) -> list[str]:
        command = [perf, "script", "-i", data, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    bases = {
        match[3]: functions.base(int(match[1], 16), int(match[2], 16))
        for line in script("--show-mmap-events", "-F", "comm")
        if (match := _MAPPED.search(line)) and "qemu-system" in match[3]
    }
    names = []
    for match in filter(None, map(_SAMPLE.match, script("-F", "ip,dso"))):
        address, file = int(match[1], 16), match[2]
        if file in bases:
            names.append(functions.name(address - bases[file]))
        elif file.startswith(("/tmp/perf-", "//anon")) or file == "[unknown]":
            names.append("[translated]")
        else:
            names.append(f"[{Path(file).name.strip('[]')}]")
    return names


def _functions(program: Path) -> _Functions:
    with program.open("rb") as file:
        elf = ELFFile(file)
        exported = {
            symbol["st_value"]: symbol.name
            for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_value"]
        }
        entries = elf.get_dwarf_info().EH_CFI_entries()
        begins = sorted(
            {
                *exported,
                *(one["initial_location"] for one in entries if isinstance(one, FDE)),
            }
        )
        segments = tuple(
            (one["p_vaddr"], one["p_offset"], one["p_filesz"])
            for one in elf.iter_segments()
            if one["p_type"] == "PT_LOAD"
        )
    names, last = [], ""
    for begin in begins:
        last = exported.get(begin, last)
        names.append(last)
    return _Functions(tuple(begins), tuple(names), segments)
