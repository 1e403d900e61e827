"""What a cell leaves on another machine, on its way home: one compressed archive.

It comes from a machine that may be anybody's. Nothing of it leaves its folder: only files and
directories are unpacked, by names of this side's making or checked.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from qemu_diff.campaign.prepare import Places
from qemu_diff.errors import CorruptDataError
from qemu_diff.scratch import scratch_directory

CELL, FINDINGS = "cell", "findings"

MOST_BYTES = 16 << 30
"""Unpacked: a boot's records and truth have room for some hundred MB, and a cell has tens of boots
at most."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def packed(directory: Path) -> bytes:
    """A directory's ``cell`` and ``findings``, compressed.

    :raises OSError: something can't be read.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for name in (CELL, FINDINGS):
            if (directory / name).exists():
                tar.add(directory / name, name)
    return archive.getvalue()


def unpack(archive: bytes, cell_id: str, places: Places) -> None:
    """Put a cell's directory and its findings where they belong, each whole or not at all; what is
    there is replaced.

    :param cell_id: whose they are.
    :raises CorruptDataError: it is no such archive, or a name in it leads out of its folder.
    :raises OSError: it can't be written.
    """
    places.cells.mkdir(parents=True, exist_ok=True)
    with scratch_directory(places.cells.parent) as incoming:
        _extract(archive, incoming)
        for finding in sorted((incoming / FINDINGS).glob("*")):
            if not _NAME.fullmatch(finding.name):
                raise CorruptDataError(f"{cell_id}: {finding.name!r} is no name of a finding")
        for finding in sorted((incoming / FINDINGS).glob("*")):
            _moved(finding, places.findings / finding.name)
        if (incoming / CELL).exists():
            _moved(incoming / CELL, places.cells / cell_id)


def _moved(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    source.rename(target)


def _extract(archive: bytes, directory: Path) -> None:
    total = 0
    try:
        with gzip.open(io.BytesIO(archive)) as content:
            with tarfile.open(fileobj=content, mode="r:") as tar:
                for member in _members(tar):
                    total += member.size
                    if total > MOST_BYTES:
                        raise CorruptDataError(f"more than {MOST_BYTES >> 30} GiB are no cell")
                    _write(tar, member, directory / member.name)
            # The checksum comes last, and only who reads to the end has it checked.
            while content.read(tarfile.RECORDSIZE):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise CorruptDataError(f"what a worker sent is no archive: {error}") from error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        path = PurePosixPath(member.name)
        inside = not path.is_absolute() and ".." not in path.parts and "\0" not in member.name
        if not inside or path.parts[:1] not in ((CELL,), (FINDINGS,)):
            raise CorruptDataError(f"a worker sent {member.name!r}, which is out of place")
        if not (member.isreg() or member.isdir()):
            raise CorruptDataError(f"a worker sent {member.name!r}, which is no file")
        yield member


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member)
    assert content is not None, "it is a file"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Nothing is written twice, nor over anything.
    with content, target.open("xb") as file:
        shutil.copyfileobj(content, file)
