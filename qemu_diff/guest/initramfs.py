"""A cpio archive in the format that Linux unpacks as its initramfs.

Format: Linux Documentation/driver-api/early-userspace/buffer-format.rst ("newc"). Every archive of
the same files is the same bytes: no times, no owners, inode numbers in order.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

_DIRECTORY = 0o040755
_PROGRAM = 0o100755


def pack(files: Mapping[str, bytes]) -> bytes:
    """An uncompressed archive.

    :param files: path without leading slash → content; every file is executable.
    :returns: the archive, with the directories that the paths need.
    """
    members: dict[str, tuple[int, bytes]] = {}
    for path, content in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            members["/".join(parts[:depth])] = (_DIRECTORY, b"")
        members[path] = (_PROGRAM, content)
    archive = bytearray()
    for inode, (path, (mode, content)) in enumerate(members.items(), start=1):
        archive += _member(inode, path, mode, content)
    return bytes(archive + _member(0, "TRAILER!!!", 0, b""))


def extend(archive: Path, files: Mapping[str, bytes], target: Path) -> None:
    """Write an archive and, behind it, one of more files: Linux unpacks both, in this order.

    :param archive: compressed or not.
    :param files: see :func:`pack`.
    :param target: the file to write.
    :raises OSError: it can't be written.
    """
    shutil.copyfile(archive, target)
    with target.open("ab") as stream:
        # Between archives are zeros, and each begins at a multiple of 4 bytes ("initramfs :=
        # ("\0" | cpio_archive | cpio_gzip_archive)*").
        stream.write(bytes(-stream.tell() % 4) + pack(files))


def _member(inode: int, path: str, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    #        ino, mode, uid, gid, nlink, mtime, size, devmajor, devminor, rdevmajor, rdevminor, …
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + "".join(f"{field:08x}" for field in fields).encode()
    return _aligned(header + name) + _aligned(content)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
