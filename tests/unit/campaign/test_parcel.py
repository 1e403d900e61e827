"""What comes from a worker is unpacked into its folder, and nowhere else."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.campaign import parcel
from qemu_diff.campaign.parcel import packed, unpack
from qemu_diff.campaign.prepare import Places
from qemu_diff.errors import CorruptDataError


def places(root: Path) -> Places:
    return Places(root, root, root / "results" / "cells")


def everything(root: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def test_a_cell_and_its_findings_come_home(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for name in ("cell/run/records.bin", "cell/learn/argv", "findings/f.1/finding.json", "other"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(name.encode())
    for stale in ("cells/c/run.try-1/argv", "findings/f.1/stale", "findings/kept/finding.json"):
        (here / "results" / stale).parent.mkdir(parents=True, exist_ok=True)
        (here / "results" / stale).write_bytes(b"before")
    unpack(packed(there), "c", places(here))
    assert everything(here / "results") == {
        "cells/c/run/records.bin": b"cell/run/records.bin",
        "cells/c/learn/argv": b"cell/learn/argv",
        "findings/f.1/finding.json": b"findings/f.1/finding.json",
        "findings/kept/finding.json": b"before",
    }


def test_a_cell_that_left_nothing_brings_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    unpack(packed(tmp_path / "there"), "c", places(tmp_path / "here"))
    assert everything(tmp_path / "here") == {}


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside")],
        [member("cell/../../outside")],
        [member("/outside")],
        [member("outside")],
        [member("cell/../outside")],
        [member("cells/other/argv")],
        [member("cell", tarfile.SYMTYPE, "/tmp"), member("cell/outside")],
        [member("cell/link", tarfile.SYMTYPE, "../../outside")],
        [member("cell/link", tarfile.LNKTYPE, "../../outside")],
        [member("cell/pipe", tarfile.FIFOTYPE)],
        [member("cell/disk", tarfile.BLKTYPE)],
        [member("findings/.hidden/finding.json")],
        [member("findings/a b/finding.json")],
        [member("findings/-rf/finding.json")],
    ],
)
def test_what_would_leave_its_folder_is_refused(
    tmp_path: Path, members: list[tarfile.TarInfo]
) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    sent = archive((member("cell/argv"), b"new"), *((one, b"") for one in members))
    with pytest.raises(CorruptDataError):
        unpack(sent, "c", places(tmp_path / "here"))
    assert everything(tmp_path) == {"outside": b"mine"}


def test_no_file_is_written_twice(tmp_path: Path) -> None:
    sent = archive((member("cell/argv"), b"one"), (member("cell/argv"), b"two"))
    with pytest.raises(OSError, match="File exists"):
        unpack(sent, "c", places(tmp_path))
    assert everything(tmp_path) == {}


def test_no_bomb_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "MOST_BYTES", 1000)
    sent = archive((member("cell/a"), bytes(600)), (member("cell/b"), bytes(600)))
    with pytest.raises(CorruptDataError, match="are no cell"):
        unpack(sent, "c", places(tmp_path))
    assert everything(tmp_path) == {}


@given(cut=st.floats(0, 1), flip=st.integers(0, 255))
def test_damage_is_said(tmp_path_factory: pytest.TempPathFactory, cut: float, flip: int) -> None:
    """Or the same is unpacked: gzip's header has bytes that mean nothing."""
    root = tmp_path_factory.mktemp("damage")
    whole = bytearray(archive((member("cell/argv"), b"qemu" * 50)))
    at = int(cut * (len(whole) - 1))
    whole[at] ^= flip
    try:
        unpack(bytes(whole), "c", places(root))
    except CorruptDataError:
        assert everything(root) == {}
    else:
        assert everything(root) in ({"results/cells/c/argv": b"qemu" * 50}, {})


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    for sent in (
        b"no archive",
        gzip.compress(b"no archive"),
        archive((member("cell/a"), b""))[:40],
    ):
        with pytest.raises(CorruptDataError):
            unpack(sent, "c", places(tmp_path))
