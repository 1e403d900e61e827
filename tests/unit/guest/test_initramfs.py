"""The initramfs, as the cpio program and as the format's description read it."""

from __future__ import annotations

import gzip
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.guest.initramfs import extend, pack

FILES = {
    "init": b"\x7fELF" + bytes(range(256)),
    "job": b"",
    "payload": b"\x1f\x20\x03\xd5",
    "lib/modules/one": b"1",
    "lib/modules/three": b"333",
}

CPIO = shutil.which("cpio")

names = st.text("abcxyz.-_é", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
"""Every name a file; no name is a directory too."""


@dataclass(frozen=True)
class Member:
    """One member of an archive."""

    name: str
    mode: int
    inode: int
    links: int
    modified: int
    owner: tuple[int, int]
    content: bytes


FIELDS = 13
HEADER_BYTES = 6 + 8 * FIELDS


def members(archive: bytes) -> list[Member]:
    """Read a newc archive by its description (Linux
    Documentation/driver-api/early-userspace/buffer-format.rst), trailer included."""
    found: list[Member] = []
    at = 0
    while not found or found[-1].name != "TRAILER!!!":
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        header = archive[at + 6 : at + HEADER_BYTES]
        field = [int(header[8 * index : 8 * index + 8], 16) for index in range(FIELDS)]
        inode, mode, uid, gid, links, modified, size = field[:7]
        name_size, checksum = field[11:]
        assert checksum == 0
        name = archive[at + HEADER_BYTES : at + HEADER_BYTES + name_size]
        assert name.endswith(b"\0")
        begin = aligned(at + HEADER_BYTES + name_size)
        content = archive[begin : begin + size]
        assert len(content) == size
        owner = (uid, gid)
        found.append(Member(name[:-1].decode(), mode, inode, links, modified, owner, content))
        at = aligned(begin + size)
    assert at == len(archive)
    return found


def aligned(offset: int) -> int:
    """The next multiple of four."""
    return -(-offset // 4) * 4


def test_files_are_packed_as_they_are() -> None:
    packed = {one.name: one.content for one in members(pack(FILES)) if stat.S_ISREG(one.mode)}

    assert packed == FILES


def test_files_are_programs_without_owner_or_time() -> None:
    for one in members(pack(FILES))[:-1]:
        assert stat.S_IMODE(one.mode) == 0o755
        assert one.owner == (0, 0)
        assert one.modified == 0
        assert one.links == 1


def test_directories_come_before_what_is_in_them() -> None:
    archive = members(pack(FILES))

    order = [one.name for one in archive]
    directories = [one.name for one in archive if stat.S_ISDIR(one.mode)]

    assert directories == ["lib", "lib/modules"]
    assert order.index("lib") < order.index("lib/modules") < order.index("lib/modules/one")


def test_inodes_differ() -> None:
    inodes = [one.inode for one in members(pack(FILES))[:-1]]

    assert len(set(inodes)) == len(inodes)
    assert 0 not in inodes


def test_the_archive_ends_with_its_trailer() -> None:
    trailer = members(pack(FILES))[-1]

    assert trailer.name == "TRAILER!!!"
    assert trailer.content == b""


def test_the_same_files_are_the_same_bytes() -> None:
    assert pack(FILES) == pack(dict(FILES))


def test_nothing_is_a_trailer() -> None:
    assert [one.name for one in members(pack({}))] == ["TRAILER!!!"]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, st.binary(max_size=9), max_size=5))
def test_names_and_contents_of_any_length_stay_aligned(files: dict[str, bytes]) -> None:
    assert {one.name: one.content for one in members(pack(files))[:-1]} == files


@pytest.mark.parametrize("size", range(5))
@pytest.mark.parametrize("compressed", [False, True])
def test_what_extends_an_archive_begins_aligned(
    compressed: bool, size: int, tmp_path: Path
) -> None:
    first, both = tmp_path / "first", tmp_path / "both"
    content = pack({"usr/bin/qemu": b"x" * size})
    first.write_bytes(gzip.compress(content, mtime=0) + b"\0" * size if compressed else content)

    extend(first, FILES, both)

    begin = aligned(first.stat().st_size)
    assert both.read_bytes()[:begin] == first.read_bytes().ljust(begin, b"\0")
    assert both.read_bytes()[begin:] == pack(FILES)


def test_cpio_lists_it() -> None:
    listed = run_cpio("--list", archive=pack(FILES))

    assert listed.splitlines() == ["init", "job", "payload", "lib", "lib/modules", *in_modules()]


def test_cpio_unpacks_it(tmp_path: Path) -> None:
    run_cpio("--extract", "--no-preserve-owner", archive=pack(FILES), folder=tmp_path)

    unpacked = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert unpacked == FILES
    assert (tmp_path / "init").stat().st_mode & 0o111


@pytest.mark.parametrize("size", range(9))
def test_cpio_unpacks_every_alignment(size: int, tmp_path: Path) -> None:
    files = {"n" * (size + 1): b"x" * size, "last": b"end"}

    run_cpio("--extract", "--no-preserve-owner", archive=pack(files), folder=tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def in_modules() -> list[str]:
    """Files of the deepest directory."""
    return [name for name in FILES if name.startswith("lib/modules/")]


def run_cpio(*arguments: str, archive: bytes, folder: Path | None = None) -> str:
    """Let cpio read an archive; it may complain about nothing."""
    assert CPIO is not None, "apt-get install cpio"
    done = subprocess.run(
        [CPIO, "--quiet", *arguments], input=archive, cwd=folder, capture_output=True, check=True
    )
    assert done.stderr == b""
    return done.stdout.decode()
