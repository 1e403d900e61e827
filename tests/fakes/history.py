"""A user's git repository, made and changed by their own git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class History:
    """A user's repository; ``git`` is theirs, with an identity and nothing else configured."""

    path: Path

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
        done = subprocess.run(
            ["git", *identity, "-C", str(self.path), *arguments],
            check=True,
            capture_output=True,
            env={**environment, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"},
        )
        return os.fsdecode(done.stdout).strip()

    def commit(self, subject: str, files: Mapping[str, str | None] | None = None) -> str:
        """Commit these files, None for one that goes; the commit's id."""
        for name, text in (files or {}).items():
            target = self.path / name
            if text is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")
