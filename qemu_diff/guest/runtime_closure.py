"""What a program needs to run, where its loader looks for it: ld.so(8), done on files.

Modules that a program loads by itself are not seen: it names them as it likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from qemu_diff.errors import InfrastructureError

LIBRARIES = "lib/aarch64-linux-gnu"
"""Where Debian's loader for arm64 looks first (glibc's ``--list-diagnostics``:
``path.system_dirs``)."""

_MOST_LINKS = 40
"""As many symbolic links as Linux follows (path_resolution(7))."""


@dataclass(frozen=True)
class _Wants:
    """What an ELF file asks for.

    :param interpreter: the loader's path without leading slash; empty where there is none.
    :param libraries: sonames.
    """

    interpreter: str
    libraries: tuple[str, ...]


def runtime_closure(
    root: Path, program: str, loaded: Sequence[str] = (), libraries: str = LIBRARIES
) -> Mapping[str, Path]:
    """The files of a program and of all libraries that it needs, and they in turn.

    :param root: a directory with unpacked packages.
    :param program: its path in there.
    :param loaded: sonames of libraries that nothing is linked with, but that are loaded.
    :param libraries: where the architecture has its libraries, without leading slash.
    :returns: path at run time, without leading slash → file. A library has its soname in
        ``libraries``, the loader the path that the program names.
    :raises InfrastructureError: a file is missing, or is no ELF file.
    """
    start = _file_at(root, program)
    if start is None:
        raise InfrastructureError(f"no package has {program}")
    wants = _wants(start)
    found = {program: start}
    if wants.interpreter:
        found[wants.interpreter] = _found(
            root, (wants.interpreter, f"usr/{wants.interpreter}"), program
        )
    # The loader is there already when a library asks for it.
    seen = {wants.interpreter.rpartition("/")[2]}
    pending = [(soname, program) for soname in (*wants.libraries, *loaded)]
    while pending:
        soname, asker = pending.pop()
        if soname in seen:
            continue
        seen.add(soname)
        directories = (libraries, f"usr/{libraries}", "lib", "usr/lib")
        places = [f"{directory}/{soname}" for directory in directories]
        library = found[f"{libraries}/{soname}"] = _found(root, places, asker)
        pending += [(needed, soname) for needed in _wants(library).libraries]
    return found


def _found(root: Path, places: Sequence[str], asker: str) -> Path:
    for place in places:
        if (file := _file_at(root, place)) is not None:
            return file
    name = places[0].rpartition("/")[2]
    raise InfrastructureError(f"{asker} needs {name}, which none of the packages has")


def _file_at(root: Path, path: str) -> Path | None:
    """The file at a path, or None. Links are followed as if ``root`` were the root directory."""
    for _ in range(_MOST_LINKS):
        file = root / path
        if not file.is_symlink():
            return file if file.is_file() else None
        path = os.path.normpath(Path("/", path).parent / file.readlink()).lstrip("/")
    return None


def _wants(file: Path) -> _Wants:
    interpreter, libraries = "", []
    try:
        with file.open("rb") as stream:
            for segment in ELFFile(stream).iter_segments():
                if isinstance(segment, InterpSegment):
                    interpreter = segment.get_interp_name().lstrip("/")
                elif isinstance(segment, DynamicSegment):
                    # pyelftools gives a tag its attribute `needed` as it reads it.
                    tags: Iterable[Any] = segment.iter_tags("DT_NEEDED")
                    libraries += [str(tag.needed) for tag in tags]
    except ELFError as error:
        raise InfrastructureError(f"{file.name}: no ELF file: {error}") from error
    return _Wants(interpreter, tuple(libraries))
