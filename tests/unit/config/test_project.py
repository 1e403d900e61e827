"""Where the project's own files are looked for: beside the package, else where a variable says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qemu_diff.config.project import job_names, payload_names, project_root

ROOT = Path(__file__).parents[3]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory to import from that has the package, and no ``guest_images`` beside it."""
    site = tmp_path / "site"
    (site / "qemu_diff" / "config").mkdir(parents=True)
    for name in ("errors.py", "config/project.py"):
        shutil.copy(ROOT / "qemu_diff" / name, site / "qemu_diff" / name)
    (site / "qemu_diff" / "__init__.py").touch()
    (site / "qemu_diff" / "config" / "__init__.py").touch()
    return site


def asked(site: Path, named: str | None) -> str:
    """What ``project_root()`` says in a process that imports the package from ``site``."""
    program = """
from qemu_diff.config.project import project_root
from qemu_diff.errors import UserError
try:
    print(project_root())
except UserError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if name != "QEMU_DIFF_ROOT"}
    environment |= {"PYTHONPATH": str(site)} | ({"QEMU_DIFF_ROOT": named} if named else {})
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment, cwd=site, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_checkout_is_its_own_root() -> None:
    assert project_root() == ROOT


def test_an_installed_package_asks_the_variable(installed: Path) -> None:
    assert asked(installed, str(ROOT)) == str(ROOT)


def test_an_installed_package_without_the_variable_says_so(installed: Path) -> None:
    assert asked(installed, None) == (
        "qemu-diff's guest_images/ is not beside the installed package;"
        " set QEMU_DIFF_ROOT to a checkout of qemu-diff"
    )


def test_a_variable_that_names_no_checkout_is_named(installed: Path) -> None:
    assert asked(installed, "/no/such") == (
        "QEMU_DIFF_ROOT=/no/such holds no guest_images/; set it to a checkout of qemu-diff"
    )


def test_payloads_are_the_assembly_files(tmp_path: Path) -> None:
    directory = tmp_path / "guest_images" / "payloads"
    directory.mkdir(parents=True)
    for name in ("hvc.S", "a.S", "payload.inc", "README"):
        (directory / name).touch()
    assert payload_names(tmp_path) == ("a", "hvc")


def test_a_campaign_may_bring_payloads_and_jobs_of_its_own(tmp_path: Path) -> None:
    ours, users = tmp_path / "guest_images", tmp_path / "campaign"
    for path in (
        ours / "payloads" / "hvc.S",
        ours / "jobs" / "step.job",
        users / "payloads" / "mine.S",
        users / "payloads" / "no.name.S",
        users / "jobs" / "mine.job",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert payload_names(tmp_path, users) == ("hvc", "mine")
    assert job_names(tmp_path, users) == ("mine", "step")
    assert job_names(tmp_path) == ("step",)
