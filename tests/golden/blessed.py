"""Runs that are known: what small cells recorded, to the bit, and all that it hangs on.

A run is a pure function of QEMU, the kernels' Images, the step VMM, what L2 runs and how the
machine is set up. So its fingerprint means the same on every machine where these are the same;
where one of them differs, it says nothing, and the difference is named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qemu_diff.campaign.plan import plan
from qemu_diff.campaign.prepare import Places, Prepared, prepare
from qemu_diff.config import load_campaign
from qemu_diff.config.project import project_root
from qemu_diff.guest.machine import MachineFiles, argv
from qemu_diff.kernels import cache_directory
from qemu_diff.model import Cell
from qemu_diff.truth import plugin

CAMPAIGN = Path(__file__).with_name("campaign.toml")
BLESSED = Path(__file__).with_name("fingerprints.json")

QEMU = "QEMU"
BLESS = "if that is meant: scripts/bless, and commit tests/golden/fingerprints.json"

SHORT = 12
"""Hex digits of a digest, in messages."""


@dataclass(frozen=True)
class Recorded:
    """What a cell came to.

    :param fingerprint: hex digest of all records, truth and timer logs of its boots.
    """

    verdict: str
    fingerprint: str


@dataclass(frozen=True)
class Run:
    """The golden campaign, run once.

    :param inputs: what the run hangs on: name → version line or hex digest.
    :param cells: by cell id.
    """

    inputs: dict[str, str]
    cells: dict[str, Recorded]


def inputs_here() -> dict[str, str]:
    """What the golden campaign hangs on, here; its kernels are built if need be.

    :raises UserError: a tool or a kernel's source is missing.
    """
    campaign = load_campaign(CAMPAIGN)
    cells = plan(campaign)
    guest_images = project_root() / "guest_images"
    places = Places(guest_images, cache_directory("guest"), Path("cells"))
    return dict(_inputs(cells, prepare(campaign, cells, places), guest_images))


def _inputs(
    cells: Sequence[Cell], prepared: Prepared, guest_images: Path
) -> Iterator[tuple[str, str]]:
    tools = prepared.tools
    yield QEMU, tools.qemu.version
    for name, build in sorted(prepared.kernels.builds.items()):
        yield f"Image of kernel {name}", digest(build.image.read_bytes())
    yield "step VMM", digest(tools.stepvmm.program.read_bytes())
    yield "async_first stub", digest((guest_images / "async_first" / "stub.S").read_bytes())
    # The compiler of a plugin makes it faster or slower: what it records, its source says.
    recorder = Path(plugin.__file__).with_name("plugin.c")
    header = guest_images / "include" / "truth_abi.h"
    yield "truth plugin", digest(recorder.read_bytes() + header.read_bytes())
    for cell in cells:
        payload = prepared.payload_of(cell)
        yield f"payload {cell.payload}", digest(payload.blob)
        yield f"job {cell.job} on {cell.payload}", digest(repr(prepared.routine_of(cell)).encode())
        yield f"machine {_machine_name(cell)}", digest(_command(cell, prepared).encode())


def _machine_name(cell: Cell) -> str:
    return f"{cell.machine.kvm_mode}/{cell.machine.exception_order}"


def _command(cell: Cell, prepared: Prepared) -> str:
    """QEMU's command line, without this machine's own paths."""
    nowhere = Path("/file")
    files = MachineFiles(nowhere, nowhere, nowhere, nowhere, nowhere, plugin=None)
    _, *options = argv(prepared.tools.qemu, cell.machine, files, cell.seed)
    return "\n".join(options)


def digest(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def recorded(verdicts: dict[str, Any]) -> dict[str, Recorded]:
    """The cells of a ``verdicts.json``."""
    return {
        cell["id"]: Recorded(cell["verdict"], cell["result"]["fingerprint"])
        for cell in verdicts["cells"]
    }


def complaint(run: Run, blessed: Sequence[Run]) -> str:
    """What is wrong with a run, in one line; nothing if it is what was blessed."""
    known = {one.inputs[QEMU]: one for one in blessed}
    if (golden := known.get(run.inputs[QEMU])) is None:
        there = "; ".join(known) or "nothing"
        return f"no run of {run.inputs[QEMU]!r} is blessed, but of {there}: {BLESS}"
    if differs := differences(golden.inputs, run.inputs):
        return f"blessed with another {'; '.join(differs)}: {BLESS}"
    if cells := _unlike(golden.cells, run.cells):
        return (
            f"with the same {', '.join(run.inputs)}, another run of {', '.join(cells)}: the same "
            f"answer everywhere is lost, or flood/ or drive/ asks for something else; {BLESS}"
        )
    return ""


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Inputs that are not the same: ``step VMM (1f…, here 2a…)``."""
    return [
        f"{name} ({_short(one, name)}, here {_short(other, name)})"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def _short(inputs: dict[str, str], name: str) -> str:
    return inputs[name][:SHORT] if name in inputs else "none"


def _unlike(one: dict[str, Recorded], other: dict[str, Recorded]) -> list[str]:
    return [cell for cell in sorted({*one, *other}) if one.get(cell) != other.get(cell)]


def load(path: Path = BLESSED) -> tuple[Run, ...]:
    """The runs that are blessed, one for each QEMU."""
    if not path.exists():
        return ()
    return tuple(
        Run(run["inputs"], {cell: Recorded(**one) for cell, one in run["cells"].items()})
        for run in json.loads(path.read_text())
    )


def bless(run: Run, path: Path = BLESSED) -> None:
    """Keep a run, in place of the one with the same QEMU."""
    others = (one for one in load(path) if one.inputs[QEMU] != run.inputs[QEMU])
    runs = sorted((*others, run), key=lambda one: one.inputs[QEMU])
    path.write_text(json.dumps([asdict(one) for one in runs], indent=1) + "\n")
