"""Runs that are known: what small cells recorded, to the bit, and all that it hangs on.

A run is a pure function of QEMU, the kernels' Images, the step VMM, what L2 runs and how the
machine is set up. So its fingerprint means the same on every machine where these are the same;
where one of them differs, it says nothing, and the difference is named. A difference of ours is for
us to bless; one of the machine's, such as a package's point release, is nobody's fault.
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
from qemu_diff.guest.image import payload_source
from qemu_diff.guest.machine import MachineFiles, argv
from qemu_diff.kernels import cache_directory
from qemu_diff.model import Cell
from qemu_diff.truth import plugin

CAMPAIGN = Path(__file__).with_name("campaign.toml")
BLESSED = Path(__file__).with_name("fingerprints.json")

QEMU = "QEMU"
OURS = "ours: "
"""How the names of inputs begin that are files of this project, or made of nothing else."""

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
    for name in ("async_first", "include", "kconfig", "stepvmm"):
        yield f"{OURS}guest_images/{name}", _digest_of(guest_images / name)
    patch = guest_images / "patches" / "unpatched.patch"
    yield f"{OURS}{patch.name}", digest(patch.read_bytes())
    # The compiler of a plugin makes it faster or slower: what it records, its source says.
    yield f"{OURS}truth plugin", digest(Path(plugin.__file__).with_name("plugin.c").read_bytes())
    for cell in cells:
        payload, source = prepared.payload_of(cell), payload_source(cell.payload, guest_images)
        yield f"payload {cell.payload}", digest(payload.blob)
        yield f"{OURS}payload {cell.payload}", digest(source.read_bytes())
        job = digest(repr(prepared.routine_of(cell)).encode())
        yield f"{OURS}job {cell.job} on {cell.payload}", job
        yield f"{OURS}machine {_machine_name(cell)}", digest(_command(cell, prepared).encode())


def _digest_of(directory: Path) -> str:
    """Of the files that lie in a directory."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    named = [f"{path.name} {digest(path.read_bytes())}" for path in files]
    return digest("\n".join(named).encode())


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
    """What is wrong with a run, in one line; nothing if it is what was blessed, or if nobody could
    have blessed it: see :func:`unknown`."""
    alike = [one for one in blessed if _ours(one) == _ours(run)]
    if not alike:
        return f"blessed with another {_apart(run, blessed, OURS)}: {BLESS}"
    for golden in alike:
        if golden.inputs == run.inputs and (cells := _unlike(golden.cells, run.cells)):
            return (
                f"with the same {', '.join(run.inputs)}, another run of {', '.join(cells)}: the "
                f"same answer everywhere is lost, or flood/ or drive/ asks for something else; "
                f"{BLESS}"
            )
    return ""


def unknown(run: Run, blessed: Sequence[Run]) -> str:
    """What of this machine's no blessed run had, in one line; nothing where one had it all."""
    if any(one.inputs == run.inputs for one in blessed):
        return ""
    return f"no blessed run has this machine's {_apart(run, blessed)}: {BLESS}"


def _ours(run: Run) -> dict[str, str]:
    return {name: value for name, value in run.inputs.items() if name.startswith(OURS)}


def _apart(run: Run, blessed: Sequence[Run], of: str = "") -> str:
    """What a run has otherwise than the blessed one that is most like it.

    :param of: how the names of inputs begin that count.
    """
    if not blessed:
        return "everything"
    nearest = min(blessed, key=lambda one: len(differences(one.inputs, run.inputs)))
    found = differences(nearest.inputs, run.inputs)
    return "; ".join(one for one in found if one.startswith(of))


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
