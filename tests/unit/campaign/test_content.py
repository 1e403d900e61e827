"""Files that go to workers: by content, whole or not at all, and none that a task needs is left."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.campaign import content
from qemu_diff.campaign.cell_task import CellTask
from qemu_diff.campaign.confirm import FindingSources
from qemu_diff.campaign.content import (
    Content,
    ContentStore,
    content_of,
    files_of,
    pieces,
    with_files,
)
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.peer import PeerTools
from qemu_diff.errors import CorruptDataError
from qemu_diff.guest.image import StepVmm
from qemu_diff.guest.qemu import Qemu
from qemu_diff.guest.qemu_bundle import QemuBundle
from qemu_diff.kernels.selftest import NoSelftest, Selftest
from qemu_diff.model import (
    Build,
    Cell,
    Driver,
    FloodSpec,
    ImageSource,
    KernelSpec,
    MachineSpec,
    Payload,
)
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.plugin import TruthPlugin


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "store")


def send(store: ContentStore, path: Path, sender: str = "one") -> Content:
    about = content_of(path)
    for offset, piece in pieces(path):
        store.put(about, offset, piece, sender)
    return about


@given(data=st.binary(max_size=70), size=st.integers(1, 16))
def test_what_was_sent_is_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int
) -> None:
    folder = tmp_path_factory.mktemp("sent")
    (folder / "Image").write_bytes(data)
    store = ContentStore(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "PIECE_BYTES", size)
        about = send(store, folder / "Image")
    assert store.has(about)
    assert store.path(about).read_bytes() == data
    assert store.path(about).name == "Image"
    assert [path.name for path in store.path(about).parent.iterdir()] == ["Image"]


def test_what_is_not_whole_is_not_there(
    store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "PIECE_BYTES", 4)
    (tmp_path / "file").write_bytes(b"12345678")
    about = content_of(tmp_path / "file")
    first, last = pieces(tmp_path / "file")
    store.put(about, *first, "one")
    assert not store.has(about)
    # A second sender begins anew, and is not disturbed by the first.
    store.put(about, *first, "two")
    store.put(about, *last, "two")
    assert store.has(about)


def test_what_is_damaged_on_its_way_is_refused(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345678")
    (tmp_path / "other").write_bytes(b"12345679")
    about = content_of(tmp_path / "file")
    ((offset, piece),) = pieces(tmp_path / "other")
    with pytest.raises(CorruptDataError, match="file: damaged on its way"):
        store.put(about, offset, piece, "one")
    assert not store.has(about)
    assert not list(store.path(about).parent.iterdir())


def test_what_is_damaged_on_the_disk_is_sent_again(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345678")
    about = send(store, tmp_path / "file")
    store.path(about).write_bytes(b"1234567")
    assert not ContentStore(tmp_path / "store").has(about)
    assert send(store, tmp_path / "file") == about
    assert ContentStore(tmp_path / "store").has(about)


def test_what_nobody_asks_for_goes(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    old, new = send(store, tmp_path / "old"), send(store, tmp_path / "new")
    long_ago = time.time() - content.UNUSED_S - 1
    for about in (old, new):
        os.utime(store.path(about).parent, (long_ago, long_ago))
    later = ContentStore(tmp_path / "store")
    assert later.has(new)
    later.discard_unused()
    assert later.has(new)
    assert not later.has(old)


# --- a task's files ---


def full_task(here: Path) -> CellTask:
    """A task in which everything is named that a task can name."""
    build = Build(
        "k", "key", here / "Image", here / "vmlinux", here / "config", None, "6.1", True, 0
    )
    other = replace(build, image=here / "Image2", vmlinux=None)
    qemu = Qemu(Path("/usr/bin/qemu"), "id", "QEMU 1.0", sandbox=False, cpus=())
    plugin = TruthPlugin(here / "truth.so", 1, PhantomRule.INSN_SIZE)
    spec = KernelSpec("k", ImageSource(here / "Image"), (here / "a.patch",), (here / "a.config",))
    return CellTask(
        cell=Cell("c", "k", "hvc", MachineSpec(), FloodSpec(), Driver.IN_GUEST, 1),
        budget_s=1.0,
        findings=True,
        build=build,
        tools=Tools(qemu, plugin, StepVmm(here / "stepvmm", ()), here, here),
        peer=PeerTools(qemu, here / "init", here, here),
        payload=Payload("hvc", b"", 0, 0, 0, 0, (), (), program=here / "hvc.elf"),
        selftest=Selftest("k", "key", here / "debug-exceptions", True, 0.0),
        bundle=QemuBundle("s", "1", here / "bundle.cpio", "qemu", 1, 1, 1, 1, "sha"),
        sources=FindingSources(
            payload=here / "hvc.S",
            includes=(here / "payload.inc",),
            script=here / "step.job",
            spec=spec,
            patches=(),
            pair=(("k", build), ("l", other)),
        ),
    )


def test_every_file_goes_along_but_what_nobody_reads(tmp_path: Path) -> None:
    """The plugin is made there, for the QEMU that is there."""
    assert {path.name for path in files_of(full_task(tmp_path))} == {
        *("Image", "vmlinux", "Image2", "stepvmm", "init", "hvc.elf", "debug-exceptions"),
        *("bundle.cpio", "hvc.S", "payload.inc", "step.job", "a.config"),
    }


def test_no_path_of_the_other_machine_is_left() -> None:
    here, there = Path("/here"), Path("/there")
    moved = with_files(full_task(here), lambda path: there / path.relative_to(here))
    # The worker puts its own in the place of these, and a kernel's source is a name.
    tools = replace(moved.tools, plugin=full_task(there).tools.plugin, guest_images=there)
    assert moved.sources
    spec = replace(moved.sources.spec, source=ImageSource(there), patches=())
    moved = replace(
        moved,
        tools=replace(tools, cache=there),
        peer=moved.peer and replace(moved.peer, guest_images=there, cache=there),
        sources=replace(moved.sources, spec=spec),
    )
    assert "/here" not in repr(moved)


def test_a_kernel_without_a_selftest_has_no_file_of_it(tmp_path: Path) -> None:
    task = replace(full_task(tmp_path), selftest=NoSelftest("k", "too old"))
    assert "debug-exceptions" not in {path.name for path in files_of(task)}


def test_a_task_survives_being_sent(tmp_path: Path) -> None:
    task = full_task(tmp_path)
    assert pickle.loads(pickle.dumps(task)) == task
