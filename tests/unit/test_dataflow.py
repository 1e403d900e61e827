"""Folder order is data-flow order: no stage imports a later one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "qemu_diff"

STAGES = (
    "config",
    "kernels",
    "guest",
    "truth",
    "flood",
    "drive",
    "trace",
    "compare",
    "report",
    "campaign",
)
# `abi` has the layouts on disk: who writes them stands before `trace`, which reads them.
COMMON = {"abi", "confinement", "errors", "events", "model", "regular_file", "scratch"}
SEES_ALL = {"__main__", "cli", "doctor"}


def part_of(module: str) -> str | None:
    """The stage, or the top-level module, that ``qemu_diff.x.y`` belongs to."""
    names = module.split(".")
    return names[1] if names[0] == "qemu_diff" and len(names) > 1 else None


def imports(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, part) of everything of ours that a file imports, at any depth of its code."""
    package = (root.name, *file.relative_to(root).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            # `from qemu_diff import compare` names the part only in what is imported.
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, part) for name in names if (part := part_of(name)))


def offences(root: Path) -> Iterator[str]:
    """Each import that goes against the flow, in words."""
    for file in sorted(root.rglob("*.py")):
        own = file.relative_to(root).parts[0].removesuffix(".py")
        if own in SEES_ALL:
            continue
        allowed = COMMON | set(STAGES[: STAGES.index(own) + 1] if own in STAGES else ())
        for line, part in imports(file, root):
            if part not in allowed:
                yield f"{file.relative_to(root)}:{line}: {own} imports {part}"


def test_no_stage_imports_a_later_one() -> None:
    assert list(offences(PACKAGE)) == []


def test_every_folder_is_a_stage() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert folders <= {*STAGES, "cli"}
    assert modules - {"__init__"} <= COMMON | SEES_ALL


@pytest.mark.parametrize(
    ("file", "statement", "offence"),
    [
        ("config/load.py", "import qemu_diff.compare.contract", "config imports compare"),
        ("config/load.py", "from qemu_diff import compare", "config imports compare"),
        ("config/load.py", "from .. import compare", "config imports compare"),
        ("config/load.py", "from ..compare.contract import judge", "config imports compare"),
        ("config/deep/load.py", "from ...cli import main", "config imports cli"),
        (
            "kernels/tree.py",
            "def f():\n    from qemu_diff.guest import vm",
            "kernels imports guest",
        ),
        ("model.py", "from qemu_diff.config import load_campaign", "model imports config"),
        ("trace/records.py", "from qemu_diff.truth.reader import read_truth", None),
        ("truth/reader.py", "from . import phantom\nfrom ..errors import UserError", None),
        ("truth/reader.py", "import qemu.qmp\nimport compare", None),
        ("campaign/runner.py", "from qemu_diff.report import junit", None),
        ("report/junit.py", "from qemu_diff.campaign.runner import run", "report imports campaign"),
        ("cli/run.py", "from qemu_diff.campaign.runner import run_campaign", None),
    ],
)
def test_offences_are_seen(tmp_path: Path, file: str, statement: str, offence: str | None) -> None:
    source = tmp_path / "qemu_diff" / file
    source.parent.mkdir(parents=True)
    source.write_text(f"{statement}\n")
    found = [line.partition(": ")[2] for line in offences(tmp_path / "qemu_diff")]
    assert found == ([offence] if offence else [])
