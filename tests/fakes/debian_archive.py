"""A Debian archive on this disk, and an apt that knows it and nothing else.

The machine's own apt knows the suite ``stable`` of it alone; any other lies beside.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

APT_CONF = """\
Dir::Etc::SourceList "{here}/sources.list";
Dir::Etc::SourceParts "{here}/none";
Dir::State "{here}/apt";
Dir::State::Lists "{here}/apt/lists";
Dir::Cache "{here}/apt";
APT::Update::Post-Invoke {{ "touch {here}/hooked"; }};
"""


def control(name: str, version: str, architecture: str, depends: str = "") -> str:
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        "Maintainer: test <test@example.org>\n"
        + (f"Depends: {depends}\n" if depends else "")
        + "Description: a package\n"
    )


class Repository:
    """A Debian archive of empty suites."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, suite: str, fields: str, files: Mapping[str, bytes]) -> None:
        """Put a package into a suite."""
        package = self._package(fields, files)
        architecture = fields.partition("Architecture: ")[2].partition("\n")[0]
        index = self.directory / f"dists/{suite}/main/binary-{architecture}/Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        content = package.read_bytes()
        with index.open("a") as stream:
            stream.write(
                f"{fields}Filename: pool/{package.name}\nSize: {len(content)}\n"
                f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n"
            )
        indices = sorted(index.parents[1].glob("binary-*/Packages"))
        names = " ".join(one.parent.name.removeprefix("binary-") for one in indices)
        sums = "".join(
            f" {hashlib.sha256(one.read_bytes()).hexdigest()} {one.stat().st_size} "
            f"main/{one.parent.name}/Packages\n"
            for one in indices
        )
        backports = "NotAutomatic: yes\nButAutomaticUpgrades: yes\n"
        (self.directory / f"dists/{suite}/Release").write_text(
            f"Suite: {suite}\nArchitectures: {names}\nComponents: main\n"
            f"{backports if suite.endswith('-backports') else ''}"
            # No suite that is out of maintenance is refused for it.
            "Date: Sat, 10 Aug 2024 00:00:00 UTC\nValid-Until: Sat, 17 Aug 2024 00:00:00 UTC\n"
            f"SHA256:\n{sums}"
        )

    def _package(self, fields: str, files: Mapping[str, bytes]) -> Path:
        tree = self.directory / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(fields)
        (tree / "DEBIAN/preinst").write_text("#!/bin/sh\nexit 1\n")
        (tree / "DEBIAN/preinst").chmod(0o755)
        for name, content in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content)
        pool = self.directory / "pool"
        pool.mkdir(exist_ok=True)
        command = ["dpkg-deb", "--root-owner-group", "-b", str(tree), str(pool)]
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(tree)
        return max(pool.glob("*.deb"), key=lambda path: path.stat().st_mtime_ns)


def served_repository(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Make it what apt knows while the test lasts."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no apt here")
    (directory / "repository").mkdir()
    source = f"deb [trusted=yes] file:{directory}/repository stable main\n"
    (directory / "sources.list").write_text(source)
    (directory / "apt/lists/partial").mkdir(parents=True)
    (directory / "apt.conf").write_text(APT_CONF.format(here=directory))
    monkeypatch.setenv("APT_CONFIG", str(directory / "apt.conf"))
    return Repository(directory / "repository")
