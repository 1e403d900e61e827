"""Our own C and assembly, compiled on demand and kept in the cache by content."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from qemu_diff.errors import CompileError, MissingToolError
from qemu_diff.regular_file import opened
from qemu_diff.scratch import scratch_directory

CROSS_COMPILER = "aarch64-linux-gnu-gcc"
HOST_COMPILER = "gcc"

_PACKAGES = {
    CROSS_COMPILER: ("gcc-aarch64-linux-gnu libc6-dev-arm64-cross", "gcc-aarch64-linux-gnu"),
    HOST_COMPILER: ("gcc libc6-dev", "gcc glibc-devel"),
}


def require(program: str) -> str:
    """The program's path.

    :raises MissingToolError: it is not on ``PATH``.
    """
    found = shutil.which(program)
    if found is None:
        raise MissingToolError(program, *_PACKAGES.get(program, ("", "")))
    return found


def compile_cached(
    command: Sequence[str], sources: Sequence[Path], inputs: Sequence[Path], cache: Path, name: str
) -> Path:
    """Run a compiler once for each content of its inputs.

    :param command: compiler and options, without output and sources.
    :param sources: what is compiled.
    :param inputs: what the sources include: it goes into the key.
    :param cache: directory that keeps the results.
    :param name: file name of the result.
    :returns: path of the compiled file.
    :raises MissingToolError: the compiler is not there.
    :raises CompileError: it refuses, or a source can't be read.
    """
    compiler = require(command[0])
    key = _key(compiler, command, (*sources, *inputs))
    target = cache / key / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_directory(target.parent) as scratch:
        output = scratch / name
        done = subprocess.run(
            [*command, "-o", str(output), *map(str, sources)],
            capture_output=True, text=True, errors="replace", check=False,
            env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            first = next((line for line in lines if "rror" in line), lines[0])
            raise CompileError(f"{command[0]}: {first}")
        output.rename(target)
    return target


def _key(compiler: str, command: Sequence[str], inputs: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    status = Path(compiler).resolve().stat()
    digest.update(f"{compiler} {status.st_size} {status.st_mtime_ns}\0".encode())
    digest.update("\0".join(command).encode())
    for path in inputs:
        try:
            with opened(path) as file:
                digest.update(path.name.encode() + b"\0" + file.read())
        except OSError as error:
            raise CompileError(f"{path}: {error.strerror}") from error
    return digest.hexdigest()
