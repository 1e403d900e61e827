"""git as a child process: the same answers whatever its user has configured.

Nothing here writes to a repository but our own: no lock is taken for convenience's sake, no hook is
run, no object is fetched behind our back, nobody is asked for a password.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import InfrastructureError, refuse_killed
from . import cache, toolchain

#: Whoever owns a repository: its objects are read, and nothing of it is run.
_SETTINGS = (
    "safe.directory=*",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "gc.auto=0",
    "maintenance.auto=false",
    # A server that has fallen silent: libcurl's limit in bytes per second, and for how long.
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
)

#: How a user reaches a server is no matter of configuration that could change a kernel.
_TRANSPORT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_NO_VERIFY")

_CONSTANT = {
    "LC_ALL": "C",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    # Commits of ours are never shown to anybody; constant, they are made once.
    "GIT_AUTHOR_NAME": "qemu-diff",
    "GIT_AUTHOR_EMAIL": "qemu-diff",
    "GIT_AUTHOR_DATE": "@0 +0000",
    "GIT_COMMITTER_NAME": "qemu-diff",
    "GIT_COMMITTER_EMAIL": "qemu-diff",
    "GIT_COMMITTER_DATE": "@0 +0000",
}


def run_git(
    *arguments: str, directory: Path | None = None, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git to its end.

    :param directory: a git directory (``--git-dir``).
    :raise MissingToolError: there is no git.
    :raise InfrastructureError: no space is left, or it was killed.
    """
    toolchain.require("git")
    result = subprocess.run(
        _command(arguments, directory),
        input=stdin if stdin is not None else b"",
        capture_output=True,
        check=False,
        env=_environment(),
    )
    refuse_killed("git", result.returncode)
    if b"No space left on device" in result.stderr:
        raise InfrastructureError(cache.no_space_message())
    return result


@contextmanager
def running_git(*arguments: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A git that is spoken with by its standard input and output; it ends with the context."""
    process = subprocess.Popen(
        _command(arguments, directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def complaint(result: subprocess.CompletedProcess[bytes]) -> str:
    """What git says went wrong, in one line."""
    lines = os.fsdecode(result.stderr).splitlines()
    wrong = [line for line in lines if line.startswith(("fatal: ", "error: "))]
    said = (wrong or lines or [f"git ended with status {result.returncode}"])[0]
    return said.partition(": ")[2] if wrong else said


def _command(arguments: tuple[str, ...], directory: Path | None) -> list[str]:
    settings = [text for setting in _SETTINGS for text in ("-c", setting)]
    place = [f"--git-dir={directory}"] if directory else []
    return ["git", "--no-optional-locks", *settings, *place, *arguments]


def _environment() -> Mapping[str, str]:
    """Without GIT_DIR and its like, which would point git elsewhere."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in _TRANSPORT
    }
    # ssh would ask on the terminal for a passphrase, or whether a host is to be believed.
    return {
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30",
        **inherited,
        **_CONSTANT,
    }
