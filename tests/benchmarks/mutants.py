"""Hostile kernels: each mutant of configs/hostile.toml, what killed it, and what did not.

About 25 minutes on two free cores the first time, for there is a kernel to build for each mutant;
a third of that when they are in the cache.
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

from qemu_diff.config import load_campaign
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import build_kernel
from qemu_diff.model import Campaign, KernelSpec

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGN = ROOT / "configs" / "hostile.toml"
CONTROL = "patched"
KILLS = ("fail", "hang", "kernel-oops")
SHOWN = 3
"""Cells of a mutant that the table names."""

NOT_A_BUG = {
    "console-forgery": "prints, and changes nothing: the reports must take none of it for theirs",
    "warn-storm": "warns, and changes nothing: the warnings are told",
}
"""Mutants that break no contract: every cell must pass."""

EQUIVALENT: dict[str, str] = {}
"""Mutants whose Image differs from the control's, and whose behaviour can't: why."""

_MUTANT = re.compile(r"\AKVM: arm64: Mutant: (?P<name>.*)\n\n(?P<body>.*?)\n\nMade ", re.DOTALL)
_ON_PURPOSE = "A bug made on purpose: the tool must see it."


@dataclass
class Mutant:
    """
    :param breaks: in one line.
    :param mechanical: made by scripts/mutants.
    :param kills: (cell without the kernel, kind).
    :param lost: cells that were lost, with the reason.
    :param same_image: the control's Image, byte for byte.
    """

    name: str
    breaks: str
    mechanical: bool
    same_image: bool
    kills: list[tuple[str, str]] = field(default_factory=list)
    passed: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)

    @property
    def why_alive(self) -> str:
        """Why nothing kills it; empty: a gap in the oracle."""
        if self.same_image:
            return "equivalent: its Image is the control's, byte for byte"
        return EQUIVALENT.get(self.name) or NOT_A_BUG.get(self.name, "")

    @property
    def behavioural(self) -> bool:
        return not self.why_alive


def measure() -> Measured:
    """Run the campaign, and make the kill table of its verdicts."""
    campaign = load_campaign(CAMPAIGN)
    mutants = {one.name: one for one in map(_mutant, _specs(campaign))}
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        results = Path(directory) / "results"
        status = _run(results)
        verdicts = json.loads((results / "verdicts.json").read_text())
        ET.parse(results / "junit.xml")
        size = sum(path.stat().st_size for path in results.rglob("console.log"))
    control = [cell for cell in verdicts["cells"] if cell["kernel"] == CONTROL]
    for cell in verdicts["cells"]:
        if cell["kernel"] in mutants:
            _note(mutants[cell["kernel"]], cell)
    found = list(mutants.values())
    _say(f"{len(found)} mutants, {len(verdicts['cells'])} cells, exit status {status}")
    return Measured(
        name="mutants",
        command="scripts/measure mutants",
        conditions=conditions(find_qemu(), "Linux 6.1 of Debian 12"),
        claims=_claims(found, control, verdicts, size),
        tables=(_table(found, mechanical=True), _table(found, mechanical=False), _alive(found)),
        plots=(_plot(found),),
    )


def _say(words: str) -> None:
    print(words, flush=True)


def _specs(campaign: Campaign) -> list[KernelSpec]:
    return [spec for spec in campaign.kernels if spec.name != CONTROL]


def _mutant(spec: KernelSpec) -> Mutant:
    """Its kernel is built here, one after the other: the campaign finds it in the cache."""
    _say(f"kernel {spec.name}")
    control = build_kernel(next(k for k in load_campaign(CAMPAIGN).kernels if k.name == CONTROL))
    image = build_kernel(spec).image.read_bytes()
    (patch,) = spec.patches
    words = _MUTANT.match(patch.read_text())
    body = words["body"].replace(_ON_PURPOSE, "") if words else ""
    breaks = " ".join((body.split("\n\n")[0] if _ON_PURPOSE in patch.read_text() else body).split())
    mechanical = patch.parent.name == "mechanical"
    return Mutant(spec.name, breaks, mechanical, image == control.image.read_bytes())


def _run(results: Path) -> int:
    command = [sys.executable, "-m", "qemu_diff", "run", str(CAMPAIGN), "--out", str(results)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _note(mutant: Mutant, cell: dict[str, Any]) -> None:
    where = cell["id"].removeprefix(f"{mutant.name}.")
    if cell["verdict"] in KILLS:
        kinds = [kind["kind"] for kind in cell["result"]["violations"]]
        mutant.kills.append((where, "+".join(kinds) or cell["verdict"]))
    elif cell["verdict"] == "pass":
        mutant.passed += 1
    else:
        mutant.lost.append((where, f"{cell['verdict']}: {cell['result']['reason']}"))


# --- what is told ---


def _claims(
    found: list[Mutant], control: list[dict[str, Any]], verdicts: dict[str, Any], console: int
) -> tuple[Claim, ...]:
    behavioural = [one for one in found if one.behavioural]
    killed = [one for one in behavioural if one.kills]
    gaps = ", ".join(one.name for one in behavioural if not one.kills)
    lost = [f"{one.name}: {where}" for one in found for where, _ in one.lost]
    wrong = [one.name for one in found if not one.behavioural and one.kills]
    passed = sum(cell["verdict"] == "pass" for cell in control)
    odd = [cell["id"] for cell in verdicts["cells"] if not cell["as_expected"]]
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
        Claim("cells as configs/hostile.toml expects", f"{len(verdicts['cells']) - len(odd)} of "
              f"{len(verdicts['cells'])}", "all", not odd, "; ".join(odd[:5])),
        Claim("results that a mutant made unreadable", "0", "none", True,
              f"verdicts.json and junit.xml were read; all consoles: {console >> 20} MiB"),
    )  # fmt: skip


def _table(found: list[Mutant], *, mechanical: bool) -> Table:
    rows = tuple(
        (one.name, one.breaks, _killed_by(one), str(len(one.kills)))
        for one in found
        if one.mechanical is mechanical
    )
    title = "Mechanical mutants" if mechanical else "Devised mutants"
    return Table(title, ("mutant", "what it breaks", "killed by", "cells"), rows)


def _killed_by(mutant: Mutant) -> str:
    if not mutant.kills:
        return mutant.why_alive.partition(":")[0] or "**nothing**"
    first: dict[str, str] = {}
    for where, kind in mutant.kills:
        first.setdefault(kind, where)
    shown = [f"{kind} ({where})" for kind, where in list(first.items())[:SHOWN]]
    return "; ".join(shown)


def _alive(found: list[Mutant]) -> Table:
    rows = tuple((one.name, one.why_alive or "**a gap**") for one in found if not one.kills)
    return Table("What nothing killed", ("mutant", "why"), rows)


def _plot(found: list[Mutant]) -> Plot:
    by_kind = Counter(kind for one in found for kind in {kind for _, kind in one.kills})
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
