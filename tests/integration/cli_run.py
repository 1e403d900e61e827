"""Running ``qemu-diff`` as a user does, and looking at what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.toml"


@dataclass(frozen=True)
class CliRun:
    """A finished ``qemu-diff``: its exit status, both streams, and where its results are."""

    status: int
    stdout: str
    stderr: str
    results: Path

    @property
    def verdicts(self) -> dict[str, Any]:
        return json.loads((self.results / "verdicts.json").read_text())

    def cell(self, identity: str) -> dict[str, Any]:
        return next(cell for cell in self.verdicts["cells"] if cell["id"] == identity)

    @property
    def said(self) -> str:
        """Both streams, white space folded: tables and sentences wrap at the terminal's width."""
        return " ".join((self.stdout + self.stderr).split())


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "CI": "true", "PYTHONPATH": str(ROOT), **extra}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "qemu_diff", *map(str, arguments)]


def qemu_diff(*arguments: str | Path, results: Path = Path(), **extra: str) -> CliRun:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, env=environment(**extra)
    )
    return CliRun(done.returncode, done.stdout, done.stderr, results)


def run_campaign(campaign: Path, results: Path, *more: str, **extra: str) -> CliRun:
    return qemu_diff("run", campaign, "--out", results, *more, results=results, **extra)
