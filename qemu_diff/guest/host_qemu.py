"""A further L0 QEMU beside the one on ``PATH``: a program, or Debian's of another suite.

The latter runs out of the cache, with its own loader and its own libraries: nothing of the machine
is changed, and what the machine has installed plays no part.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from qemu_diff.errors import UserError
from qemu_diff.events import Stage, stage
from qemu_diff.guest.qemu import Qemu, find_qemu, named_qemu
from qemu_diff.guest.qemu_packages import (
    PACKAGE,
    PROGRAM,
    cache_lock,
    unpacked,
)
from qemu_diff.guest.toolchain import HOST_COMPILER, require
from qemu_diff.kernels import apt, cache
from qemu_diff.model import QemuSpec
from qemu_diff.scratch import scratch_directory

_LAUNCHER = Path(PROGRAM).name
_FILES = "root"
_LOADER_GLOB = "ld-*.so.*"
_SEPARATORS = ":;$"
"""In what ``--library-path`` takes (ld.so(8))."""


def qemu_of(spec: QemuSpec | None) -> Qemu:
    """The QEMU that a campaign means.

    :param spec: None: the one on ``PATH``.
    :raises MissingToolError: it is not there, has no TCG plugins, or can't log its timers.
    :raises UnavailableSourceError: the suite can't be had here.
    :raises UserError: it is no QEMU, or the cache can't be written to.
    :raises InfrastructureError: a package is damaged, or no space is left.
    """
    if spec is None:
        return find_qemu()
    program = str(fetch_host_qemu(spec.suite)) if spec.suite else spec.program
    return replace(named_qemu(program), spec=spec)


def source_words(spec: QemuSpec) -> str:
    """``PATH``, or ``Debian SUITE``."""
    return f"Debian {spec.suite}" if spec.suite else spec.program


def fetch_host_qemu(suite: str) -> Path:
    """The program of a Debian suite's QEMU for this machine's own architecture: the one in the
    cache, else one that apt fetches.

    :raises UnavailableSourceError: the suite or a package can't be had here.
    :raises MissingToolError: the host's compiler is not there.
    :raises UserError: the cache can't be written to.
    :raises InfrastructureError: a package is damaged, one that is needed lacks a library, or no
        space is left.
    """
    if (ready := cached_host_qemu(suite)) is not None:
        return ready
    with stage("qemu", f"{PACKAGE} of {suite} for this machine, with its libraries") as running:
        apt.require_apt(PACKAGE, "install such a QEMU, and name its program")
        with cache.disk_errors(), cache_lock(f"qemu-{suite}", running):
            return cached_host_qemu(suite) or _fetch(suite, running)


def cached_host_qemu(suite: str) -> Path | None:
    """The newest program of a suite that is in the cache, or None. Nothing is downloaded."""
    launchers = (cache.cache_root() / "qemus" / suite).glob(f"*/{_LAUNCHER}")
    return max(launchers, key=lambda path: path.stat().st_mtime, default=None)


def _fetch(suite: str, running: Stage) -> Path:
    entries = cache.cache_directory(f"qemus/{suite}")
    if set(str(entries)) & set(_SEPARATORS):
        raise UserError(f"{entries}: a loader takes no search path with any of {_SEPARATORS} in it")
    with scratch_directory(entries) as staging:
        libraries = f"lib/{_multiarch()}"
        qemu = unpacked(suite, apt.own_architecture(), libraries, staging, running)
        entry = staging / "entry"
        for path, file in qemu.closure.items():
            target = entry / _FILES / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        text = _launcher(qemu.closure, libraries, f"{qemu.version} of {suite}")
        cache.replace_file(entry / _LAUNCHER, text.encode(), 0o755)
        target = entries / quote(qemu.version, safe="+~")
        shutil.rmtree(target, ignore_errors=True)
        entry.rename(target)
    return target / _LAUNCHER


def _launcher(closure: Mapping[str, Path], libraries: str, what: str) -> str:
    """A script that starts QEMU by its own loader (ld.so(8)).

    It names the digest of all files: what is known of a QEMU is kept by its program's content.
    """
    digest = hashlib.sha256()
    for path, file in sorted(closure.items()):
        digest.update(path.encode() + b"\0" + file.read_bytes())
    loader = next(path for path in closure if Path(path).match(_LOADER_GLOB))
    return f"""\
#!/bin/sh
# {PACKAGE} {what}; all files: sha256 {digest.hexdigest()}
root=${{0%/*}}/{_FILES}
exec "$root"/{shlex.quote(loader)} --library-path "$root"/{shlex.quote(libraries)} \\
    "$root"/{PROGRAM} "$@"
"""


def _multiarch() -> str:
    """Debian's name for the host's libraries: ``x86_64-linux-gnu``."""
    command = [require(HOST_COMPILER), "-print-multiarch"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
