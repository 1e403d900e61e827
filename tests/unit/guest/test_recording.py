"""QEMU's options for a run that it records or replays."""

from __future__ import annotations

import struct
from pathlib import Path

from qemu_diff.guest.machine import MachineFiles, Recording, argv
from qemu_diff.guest.qcow2 import CLUSTER, empty_image
from qemu_diff.guest.qemu import Qemu
from qemu_diff.model import MachineSpec

QEMU = Qemu(Path("qemu"), "", "", sandbox=True, cpus=("max",))


def options(recording: Recording | None) -> str:
    path = Path("there")
    files = MachineFiles(path, path, path, path, path, None, recording=recording)
    return " ".join(argv(QEMU, MachineSpec(), files, 1))


def test_without_a_recording_nothing_is_added() -> None:
    assert "rr=" not in options(None)
    assert "-drive" not in options(None)
    assert "memdev=shared " in options(None)


def test_a_run_is_recorded_and_replayed() -> None:
    log = Path("a,log")
    assert "-icount shift=0,sleep=off,rr=record,rrfile=a,,log " in options(Recording(False, log))
    assert "-icount shift=0,sleep=off,rr=replay,rrfile=a,,log " in options(Recording(True, log))


def test_a_snapshot_takes_a_disk_and_all_memory() -> None:
    said = options(Recording(True, Path("log"), Path("image")))
    assert "rrfile=log,rrsnapshot=begin" in said
    assert "-drive file=image,if=none,id=snapshots" in said
    assert "memdev=shared,master=on" in said


def test_an_empty_image_counts_its_own_clusters(tmp_path: Path) -> None:
    empty_image(tmp_path / "image", 1 << 20)
    image = (tmp_path / "image").read_bytes()
    magic, version = struct.unpack_from(">4sI", image)
    assert (magic, version, len(image)) == (b"QFI\xfb", 3, 4 * CLUSTER)
    assert struct.unpack_from(">Q", image, 24) == (1 << 20,)
    (refcount_table,) = struct.unpack_from(">Q", image, 48)
    (refcounts,) = struct.unpack_from(">Q", image, refcount_table)
    assert struct.unpack_from(">5H", image, refcounts) == (1, 1, 1, 1, 0)
