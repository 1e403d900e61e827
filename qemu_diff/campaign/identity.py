"""All that a cell's result depends on, as one digest: what has the same need not be run again.

Not part of it: what a campaign expects of a cell and what it is compared with, where results go,
and how many boots run side by side. Our own code is, from the guest's machine to the verdict.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from qemu_diff.campaign.prepare import Prepared, build_name
from qemu_diff.drive.in_guest import Tools
from qemu_diff.kernels.selftest import NoSelftest
from qemu_diff.kernels.symbols import step_functions
from qemu_diff.model import FROM_OUTSIDE, Build, Campaign, Cell, Driver

DECIDES = ("abi.py", "model.py", "guest", "truth", "flood", "drive", "trace", "compare", "campaign")
"""Modules and folders of this package that a verdict comes from. What the folders before them make
is part of an identity by content: a kernel's key, a campaign's cells."""

SOURCE_SUFFIXES = (".py", ".c")

PACKAGE = Path(__file__).parents[1]


def cell_identities(
    campaign: Campaign, cells: Sequence[Cell], prepared: Prepared, guest_images: Path
) -> dict[str, str]:
    """Cell id → identity, a hex digest, of each cell that can be run.

    :raises OSError: what was prepared is gone.
    """
    everywhere = _everywhere(campaign, prepared, guest_images)
    kernels = {build.key: _kernel(build) for build in prepared.kernels.builds.values()}
    tools = {
        one.qemu.identity: _tools(one) for one in (prepared.tools, *prepared.further_tools.values())
    }
    return {
        cell.id: _digest(
            [
                everywhere,
                tools[prepared.tools_of(cell).qemu.identity],
                kernels[prepared.build_of(cell).key],
                _description(cell),
                _contents(cell, prepared),
            ]
        )
        for cell in cells
        if build_name(cell.kernel, cell.machine.page_kib) in prepared.kernels.builds
        and prepared.unjudged(cell) is None
    }


@cache
def code_identity(package: Path = PACKAGE) -> str:
    """Hex digest of our own code, as far as verdicts come from it."""
    digest = hashlib.blake2b(digest_size=16)
    for name in DECIDES:
        for path in sorted((package / name).rglob("*")) or [package / name]:
            if path.suffix in SOURCE_SUFFIXES:
                digest.update(f"{path.relative_to(package)}\0".encode())
                digest.update(_file(path).encode())
    return digest.hexdigest()


def _everywhere(campaign: Campaign, prepared: Prepared, guest_images: Path) -> list[object]:
    """What every cell of a campaign depends on."""
    return [
        code_identity(),
        campaign.budget_s,
        campaign.findings,
        _file(prepared.tools.stepvmm.program),
        _file(prepared.peer.init),
        [_file(path) for path in sorted((guest_images / "async_first").glob("*.S"))],
    ]


def _tools(tools: Tools) -> list[object]:
    """What an L0 QEMU stands for."""
    return [tools.qemu.identity, tools.plugin.rule, _file(tools.plugin.library)]


def _kernel(build: Build) -> list[object]:
    """An image's key does not tell of a vmlinux beside it, whose symbols findings name."""
    return [build.key, sorted(step_functions(build.vmlinux).items())]


def _description(cell: Cell) -> dict[str, object]:
    return asdict(replace(cell, expected=()))


def _contents(cell: Cell, prepared: Prepared) -> list[object]:
    """What the names in a cell's description stand for."""
    if cell.driver is Driver.SELFTEST:
        selftest = prepared.kernels.selftests[cell.kernel]
        return [selftest.reason if isinstance(selftest, NoSelftest) else selftest.key]
    payload = replace(prepared.payload_of(cell), program=Path())
    contents: list[object] = [repr(payload), repr(prepared.routine_of(cell))]
    if cell.session:
        contents.append(_file(prepared.sessions[cell.session].path))
    if cell.driver in FROM_OUTSIDE:
        contents.append(prepared.bundles[cell.machine.nested_qemu].sha256)
    return contents


def _file(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
