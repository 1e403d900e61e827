"""Hostile kernels: each mutant of the two campaigns, what killed it, and what did not.

About 45 minutes on two free cores the first time, for there is a kernel to build for each mutant;
half of that when they are in the cache.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Plot, Series, Table
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from qemu_diff.config import load_campaign
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import build_kernel
from qemu_diff.model import Build, Campaign, KernelSpec

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGNS = tuple(ROOT / "configs" / name for name in ("hostile.toml", "mutants.toml"))
CONTROL = "patched"
KILLS = ("fail", "hang", "kernel-oops")
SHOWN = 3
"""Cells of a mutant that the table names."""

NOT_A_BUG = {
    "console-forgery": "prints, and changes nothing: the reports must take none of it for theirs",
    "warn-storm": "warns, and changes nothing: the warnings are told",
}
"""Mutants that break no contract: every cell must pass."""

_UNREACHABLE = (
    "only handlers of protected VMs call it (hyp/nvhe/switch.c, pvm_exit_handlers), and "
    "kvm_vm_is_protected() returns false, whatever the VM (asm/kvm_host.h)"
)

EQUIVALENT = {
    "handle_exit-smc-kvm_incr_pc-swap": "a flag that vcpu_set_reg() does not read",
    "handle_exit-trap_exceptions-kvm_incr_pc-swap": "a flag and a local variable",
    "guest-set_guest_debug-clear-ss_active_pending-swap": (
        "two stores to a vCPU whose mutex is held (kvm_vcpu_ioctl()): nobody reads between them"
    ),
    "mmu-guest_abort-kvm_incr_pc-swap": "a flag and a local variable",
    "mmio-mmio_return-kvm_incr_pc-swap": (
        "the flag is read by __kvm_adjust_pc(), which is called behind this function only"
    ),
    "adjust_pc-skip_instr-clear-spsr_ss-swap": (
        "the 64-bit branch touches PC and BTYPE, kvm_skip_instr32() PC and the IT bits: not SS"
    ),
    "nvhe-switch-vcpu_run-kvm_adjust_pc-swap": (
        "__sysreg32_restore_state() returns at once unless the vCPU is a 32-bit one"
    ),
    "nvhe-sys_regs-inject_undef64-kvm_adjust_pc-drop": _UNREACHABLE,
    "nvhe-sys_regs-inject_undef64-kvm_adjust_pc-swap": _UNREACHABLE,
}
"""Mutants whose Image may differ from the control's, and whose behaviour can't: why."""

OUT_OF_REACH = {
    "handle_exit-trap_exceptions-kvm_incr_pc-drop": (
        "kvm_condition_valid() is always true of AArch64, and no payload is AArch32"
    ),
    "flag-leaks": "the step VMM has one vCPU, and gdb's session with two does not meet it",
    "handle_exit-wfx-kvm_incr_pc-drop": (
        "WFI traps only while nobody steps L2, and no payload waits there"
    ),
    "mmu-guest_abort-kvm_incr_pc-drop": (
        "TCG translates no address for cache maintenance, so it never aborts"
    ),
}
"""Mutants that do behave otherwise, where no scenario of ours leads: they count as survivors."""

_MUTANT = re.compile(r"\AKVM: arm64: Mutant: (?P<name>.*)\n\n(?P<body>.*?)\n\nMade ", re.DOTALL)
_ON_PURPOSE = "A bug made on purpose: the tool must see it."


@dataclass
class Mutant:
    """
    :param breaks: in one line.
    :param mechanical: made by scripts/mutants.
    :param kills: (cell without the kernel, kind).
    :param lost: cells that were lost, with the reason.
    :param same_code: the control's code and data, byte for byte: see :func:`_content`.
    """

    name: str
    breaks: str
    mechanical: bool
    same_code: bool
    kills: list[tuple[str, str]] = field(default_factory=list)
    passed: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)

    @property
    def why_alive(self) -> str:
        """Why nothing kills it; empty: a gap in the oracle."""
        if self.same_code:
            return "equivalent: its vmlinux is the control's, byte for byte, but for line numbers"
        if self.name in EQUIVALENT:
            return f"equivalent: {EQUIVALENT[self.name]}"
        return NOT_A_BUG.get(self.name, "")

    @property
    def behavioural(self) -> bool:
        return not self.why_alive


def measure() -> Measured:
    """Run the campaigns, and make the kill table of their verdicts."""
    found: list[Mutant] = []
    cells: list[dict[str, Any]] = []
    console = 0
    for campaign in CAMPAIGNS:
        mutants = {one.name: one for one in _mutants(load_campaign(campaign))}
        with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
            results = Path(directory) / "results"
            status = _run(campaign, results)
            verdicts = json.loads((results / "verdicts.json").read_text())["cells"]
            ET.parse(results / "junit.xml")
            console += sum(path.stat().st_size for path in results.rglob("console.log"))
        sound = {_where(one) for one in verdicts if one["kernel"] == CONTROL and _passes(one)}
        for cell in verdicts:
            if cell["kernel"] in mutants:
                _note(mutants[cell["kernel"]], cell, sound)
        found += mutants.values()
        cells += verdicts
        _say(f"{campaign.name}: {len(mutants)} mutants, {len(verdicts)} cells, exit {status}")
    control = [cell for cell in cells if cell["kernel"] == CONTROL]
    return Measured(
        name="mutants",
        command="scripts/measure mutants",
        conditions=conditions(find_qemu(), "Linux 6.1 of Debian 12"),
        claims=_claims(found, control, console),
        tables=(_table(found, mechanical=True), _table(found, mechanical=False), _alive(found)),
        plots=(_plot(found),),
    )


def _say(words: str) -> None:
    print(words, flush=True)


def _mutants(campaign: Campaign) -> list[Mutant]:
    """Their kernels are built here, one after the other: the campaign finds them in the cache."""
    control = build_kernel(next(one for one in campaign.kernels if one.name == CONTROL))
    reference = _content(control)
    return [_mutant(one, reference) for one in campaign.kernels if one.name != CONTROL]


def _content(build: Build) -> dict[str, bytes]:
    """Section → content of all that is loaded, but for the lines that BUG() and WARN() name
    (``__bug_table``) and the build id (``.notes``)."""
    assert build.vmlinux is not None
    with build.vmlinux.open("rb") as file:
        return {
            section.name: section.data()
            for section in ELFFile(file).iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_ALLOC
            and section["sh_type"] != "SHT_NOBITS"
            and section.name not in ("__bug_table", ".notes")
        }


def _mutant(spec: KernelSpec, reference: dict[str, bytes]) -> Mutant:
    _say(f"kernel {spec.name}")
    content = _content(build_kernel(spec))
    (patch,) = spec.patches
    text = patch.read_text()
    words = _MUTANT.match(text)
    breaks = words["body"] if words else ""
    if _ON_PURPOSE in text:
        breaks = words["name"] if words else ""
    mechanical = patch.parent.name == "mechanical"
    return Mutant(spec.name, " ".join(breaks.split()), mechanical, content == reference)


def _run(campaign: Path, results: Path) -> int:
    command = [sys.executable, "-m", "qemu_diff", "run", str(campaign), "--out", str(results)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _where(cell: dict[str, Any]) -> str:
    """A cell's id without its kernel."""
    return str(cell["id"]).removeprefix(f"{cell['kernel']}.")


def _passes(cell: dict[str, Any]) -> bool:
    return cell["verdict"] == "pass"


def _note(mutant: Mutant, cell: dict[str, Any], sound: set[str]) -> None:
    """
    :param sound: where the control passes; only there is a failure the mutant's.
    """
    where = _where(cell)
    if cell["verdict"] in KILLS and where in sound:
        kinds = [kind for kind, number in cell["result"]["violations"] if number]
        mutant.kills.append((where, "+".join(kinds) or cell["verdict"]))
    elif _passes(cell):
        mutant.passed += 1
    elif cell["verdict"] not in KILLS:
        mutant.lost.append((where, f"{cell['verdict']}: {cell['result']['reason']}"))


# --- what is told ---


def _claims(found: list[Mutant], control: list[dict[str, Any]], console: int) -> tuple[Claim, ...]:
    behavioural = [one for one in found if one.behavioural]
    killed = [one for one in behavioural if one.kills]
    gaps = ", ".join(one.name for one in behavioural if not one.kills)
    lost = [f"{one.name}: {where}" for one in found for where, _ in one.lost]
    wrong = [one.name for one in found if not one.behavioural and one.kills]
    passed = sum(map(_passes, control))
    share = len(killed) / max(1, len(behavioural))
    return (
        Claim("mutants", str(len(found)), "at least 25", len(found) >= 25,
              f"{sum(one.mechanical for one in found)} of them mechanical"),
        Claim("behavioural mutants killed", f"{len(killed)} of {len(behavioural)}: {share:.1%}",
              "at least 95 %", share >= 0.95, f"survivors: {gaps}" if gaps else ""),
        Claim("cells of the control that pass", f"{passed} of {len(control)}", "all",
              passed == len(control)),
        Claim("cells that were lost", str(len(lost)), "none", not lost, "; ".join(lost[:5])),
        Claim("equivalent or harmless mutants that were called bugs", str(len(wrong)), "none",
              not wrong, ", ".join(wrong)),
        Claim("results that a mutant made unreadable", "0", "none", True,
              f"verdicts.json and junit.xml were read; all consoles: {console >> 20} MiB"),
    )  # fmt: skip


def _table(found: list[Mutant], *, mechanical: bool) -> Table:
    rows = tuple(
        (
            one.name,
            f"`{one.breaks}`" if mechanical else one.breaks,
            _killed_by(one),
            str(len(one.kills)),
        )
        for one in found
        if one.mechanical is mechanical
    )
    title = "Mechanical mutants" if mechanical else "Devised mutants"
    return Table(title, ("mutant", "what it breaks", "killed by", "cells"), rows)


def _killed_by(mutant: Mutant) -> str:
    if not mutant.kills:
        return "nothing" if mutant.why_alive else "**nothing**"
    first: dict[str, str] = {}
    for where, kind in mutant.kills:
        first.setdefault(kind, where)
    shown = [f"{kind} ({where})" for kind, where in list(first.items())[:SHOWN]]
    return "; ".join(shown)


def _alive(found: list[Mutant]) -> Table:
    rows = tuple(
        (one.name, one.why_alive or OUT_OF_REACH.get(one.name, "**a gap**"))
        for one in found
        if not one.kills
    )
    return Table("What nothing killed", ("mutant", "why"), rows)


def _plot(found: list[Mutant]) -> Plot:
    by_kind = Counter(
        kind
        for one in found
        for kind in {kind for _, kinds in one.kills for kind in kinds.split("+")}
    )
    ordered = by_kind.most_common(8)
    points = tuple((float(x), float(number)) for x, (_, number) in enumerate(ordered))
    return Plot(
        name="kinds",
        title="Mutants killed as",
        x="kind",
        y="mutants",
        series=(Series("mutants", points),),
        bars=True,
        ticks=tuple(kind for kind, _ in ordered),
    )
