"""The recipes of docs/ci.md, taken out of it and run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.cli_run import ROOT
from integration.conftest import write_campaign

from qemu_diff.kernels.cache import cache_root
from qemu_diff.model import Build

pytestmark = pytest.mark.integration

PAGE = (ROOT / "docs" / "ci.md").read_text()
COMMAND = ".venv/bin/qemu-diff run configs/nightly.toml"


def block(language: str, section: str, place: int = 0) -> str:
    """A block of code of one section."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[place]


def github() -> Any:
    return yaml.safe_load(block("yaml", "GitHub Actions"))


def gitlab() -> Any:
    return yaml.safe_load(block("yaml", "GitLab CI"))


@dataclass(frozen=True)
class Checkout:
    """A home with a checkout in it, which is set up, and has a small campaign for the night."""

    home: Path

    @property
    def directory(self) -> Path:
        return self.home / "qemu-diff"

    def run(self, step: str, *shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One step in the checkout, with nothing else in its environment."""
        return subprocess.run(
            [*shell, "-c", step],
            cwd=self.home if shell == CRON else self.directory,
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def failures(self) -> int:
        root = ET.parse(self.directory / "junit.xml").getroot()
        return len(root.findall(".//failure"))


CRON = ("/bin/sh",)
BASH = ("bash", "-e")

MakeCheckout = Callable[[str], Checkout]


@pytest.fixture
def checkout(builds: dict[str, Build], tmp_path: Path) -> MakeCheckout:
    """With the ``patched`` kernel, of which nothing unexpected is seen, or the ``unpatched``."""

    def make(kernel: str) -> Checkout:
        made = Checkout(tmp_path)
        programs = made.directory / ".venv" / "bin"
        programs.mkdir(parents=True)
        python, cache = shlex.quote(sys.executable), shlex.quote(str(cache_root()))
        _script(
            programs / "qemu-diff",
            f"PYTHONPATH={shlex.quote(str(ROOT))} QEMU_DIFF_CACHE={cache} "
            f'exec {python} -m qemu_diff "$@"',
        )
        # The checkout is set up: scripts/test did it before any test ran.
        (made.directory / "scripts").mkdir()
        _script(made.directory / "scripts" / "setup", "exit 0")
        (made.directory / "configs").mkdir()
        nightly = made.directory / "configs" / "nightly.toml"
        write_campaign(nightly, builds, {"mine": kernel}, '[[scenario]]\npayload = "hvc"\n')
        named = 'name = "nightly"\nfindings = false'
        nightly.write_text(nightly.read_text().replace('name = "test"', named))
        return made

    return make


def _script(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def cron_line() -> str:
    *schedule, command = block("cron", "cron").strip().split(maxsplit=5)
    assert schedule == ["17", "2", "*", "*", "*"]
    # crontab(5): an unescaped % is a newline.
    assert "%" not in command
    return command


def test_cron_mails_only_what_is_not_as_expected(checkout: MakeCheckout) -> None:
    night = checkout("patched")
    done = night.run(cron_line(), *CRON)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert night.failures() == 0
    assert (night.directory / "results" / "nightly" / "report.html").exists()


def test_cron_mails_a_failure(checkout: MakeCheckout) -> None:
    night = checkout("unpatched")
    mail = night.run(cron_line(), *CRON).stdout
    assert mail.startswith("exit status 1\n")
    assert "expected to pass" in " ".join(mail.split())
    assert "Exit status 1: an unexpected finding" in mail
    assert night.failures() == 1


def units() -> dict[str, str]:
    names = re.findall(r"systemd/user/(qemu-diff\.\w+)`", PAGE)
    return {name: block("ini", "systemd", place) for place, name in enumerate(names)}


def test_the_service_runs_the_night(checkout: MakeCheckout) -> None:
    night = checkout("patched")
    service = units()["qemu-diff.service"].replace("%h", str(night.home))
    command = re.search(r"^ExecStart=(.*)$", service, re.MULTILINE)
    directory = re.search(r"^WorkingDirectory=(.*)$", service, re.MULTILINE)
    assert command
    assert directory
    assert directory[1] == str(night.directory)
    done = night.run(command[1], *BASH)
    assert done.returncode == 0, done.stderr
    assert night.failures() == 0


def test_systemd_takes_the_units(checkout: MakeCheckout, tmp_path: Path) -> None:
    night = checkout("patched")
    written = tmp_path / "units"
    written.mkdir()
    for name, text in units().items():
        (written / name).write_text(text.replace("%h", str(night.home)))
    verify = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(written.iterdir()))]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert "qemu-diff" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    calendar = re.search(r"^OnCalendar=(.*)$", units()["qemu-diff.timer"], re.MULTILINE)
    assert calendar
    subprocess.run(["systemd-analyze", "calendar", calendar[1]], check=True, capture_output=True)


def github_steps() -> list[str]:
    return [one["run"] for one in github()["jobs"]["qemu-diff"]["steps"] if "run" in one]


def gitlab_steps() -> list[str]:
    return list(gitlab()["nightly"]["script"])


def jenkins_steps() -> list[str]:
    return re.findall(r"^ +sh '(.*)'$", block("groovy", "Jenkins"), re.MULTILINE)


@pytest.mark.parametrize(
    ("steps", "kernel", "status"),
    [
        (github_steps, "patched", 0),
        (github_steps, "unpatched", 1),
        (gitlab_steps, "patched", 0),
        (jenkins_steps, "unpatched", 1),
    ],
)
def test_the_steps_of_a_job(
    checkout: MakeCheckout,
    tmp_path: Path,
    steps: Callable[[], list[str]],
    kernel: str,
    status: int,
) -> None:
    night = checkout(kernel)
    summary, variables = tmp_path / "summary.md", tmp_path / "variables"
    files = {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ENV": str(variables)}
    *before, last = steps()
    assert last.startswith(COMMAND)
    assert "scripts/setup" in before
    for step in before:
        done = night.run(step, *BASH, **files)
        assert done.returncode == 0, done.stderr
    assert night.run(last, *BASH, **files).returncode == status
    assert night.failures() == status
    assert (night.directory / "results" / "nightly" / "report.html").exists()
    if steps is github_steps:
        assert variables.read_text() == f"QEMU_DIFF_CACHE={night.directory}/.cache\n"
        assert summary.read_text().startswith(f"## {'✗' if status else '✓'} qemu-diff: nightly")


def test_the_files_of_ci_systems_have_the_keys_that_they_must() -> None:
    workflow = github()
    # YAML 1.1 takes `on` for a truth value; GitHub does not.
    assert workflow.keys() == {"name", True, "jobs"}
    assert workflow[True]["schedule"] == [{"cron": "17 2 * * *"}]
    job = workflow["jobs"]["qemu-diff"]
    assert job.keys() == {"runs-on", "container", "timeout-minutes", "steps"}
    assert all(("uses" in one) != ("run" in one) for one in job["steps"])
    assert all(one.keys() <= {"uses", "run", "with", "if"} for one in job["steps"])
    nightly = gitlab()["nightly"]
    known = {"image", "rules", "timeout", "retry", "variables", "cache", "script", "artifacts"}
    assert nightly.keys() == known
    assert nightly["artifacts"]["reports"] == {"junit": "junit.xml"}
    assert nightly["retry"] == {"max": 1, "exit_codes": [3]}
    pipeline = block("groovy", "Jenkins")
    assert pipeline.count("{") == pipeline.count("}")
    assert "junit 'junit.xml'" in pipeline
    for part in ("agent", "triggers", "options", "environment", "stages", "post"):
        assert re.search(rf"^    {part} \{{", pipeline, re.MULTILINE), part
