"""A git repository with a made history on top of Linux 6.1, and one bug in its midst.

It lies in the cache and is the same each time it is made, down to the object ids: kernels that were
built of it once are found there by later runs.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from qemu_diff.kernels import cache_directory, debian
from qemu_diff.model import DebianSource

_KVM = "arch/arm64/kvm"

_BUILD_FILES = ("Kconfig", "Makefile", "Kbuild")

# Not one file of these is compiled for our L1, and they are most of Linux.
_NOT_NEEDED = tuple(
    f"{name}/"
    for name in (
        "Documentation",
        "arch/arm64/boot/dts",
        "drivers/crypto",
        "drivers/gpu",
        "drivers/hwmon",
        "drivers/iio",
        "drivers/infiniband",
        "drivers/media",
        "drivers/mtd",
        "drivers/net",
        "drivers/scsi",
        "drivers/staging",
        "drivers/usb",
        "drivers/video",
        "fs/btrfs",
        "fs/ext4",
        "fs/ocfs2",
        "fs/xfs",
        "net",
        "samples",
        "sound",
    )
)

_SET_IF_NOT_PENDING = """\
			if (!vcpu_get_flag(vcpu, DBG_SS_ACTIVE_PENDING))
				*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;
"""
_SET_ALWAYS = """\
			if (vcpu)
				*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;
"""
_CREATE = "int kvm_arch_vcpu_create(struct kvm_vcpu *vcpu)\n{\n	int err;\n"
_HVC = "	int ret;\n\n	trace_kvm_hvc_arm64("


@dataclass(frozen=True)
class LinuxHistory:
    """The bare repository, and its commits by name: ``base``, ``c1`` … ``c16``, and ``s1`` and
    ``s2``, a branch off ``c11`` that ``merge`` joins to ``c12``.

    ``c6`` brings the bug, ``c4`` crashes in KVM and ``c7`` does not compile; ``c5`` and ``c8`` mend
    these two. Each of the others touches one file of KVM, and changes nothing.
    """

    repository: Path
    commits: dict[str, str]


def linux_history() -> LinuxHistory:
    """Make it, or find it in the cache."""
    place = cache_directory("tests") / "linux-6.1-history.git"
    with FileLock(place.with_suffix(".lock")):
        if not (place / "made").exists():
            shutil.rmtree(place, ignore_errors=True)
            _git("init", "--quiet", "--bare", "--initial-branch=main", str(place))
            _make(place)
            (place / "made").touch()
    listed = _git("-C", str(place), "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)")
    return LinuxHistory(place, dict(line.split() for line in listed.splitlines()))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def _make(place: Path) -> None:
    tarball = debian.locate(DebianSource("linux-source-6.1")).path
    command = ["git", "-C", str(place), "-c", "core.compression=0", "fast-import", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as git, tarfile.open(tarball) as linux:
        assert git.stdin is not None
        _Stream(git.stdin, linux).write()
    assert git.returncode == 0, "git fast-import failed"


class _Stream:
    """What makes the history, as git-fast-import(1) reads it."""

    def __init__(self, stream: BinaryIO, linux: tarfile.TarFile) -> None:
        self._stream = stream
        self._linux = linux
        self._kvm: dict[str, str] = {}
        self._number = 0
        self._last = "base"

    def write(self) -> None:
        self._base()
        self._touch("c1", "psci.c")
        self._touch("c2", "pmu.c")
        self._touch("c3", "hypercalls.c")
        self._edit("c4", "arm.c", _CREATE, f"{_CREATE}\n	BUG();\n")
        self._edit("c5", "arm.c", f"{_CREATE}\n	BUG();\n", _CREATE)
        self._edit("c6", "debug.c", _SET_IF_NOT_PENDING, _SET_ALWAYS)
        self._edit("c7", "handle_exit.c", _HVC, _HVC.replace("ret;", "ret"))
        self._edit("c8", "handle_exit.c", _HVC.replace("ret;", "ret"), _HVC)
        for number, name in enumerate(("guest.c", "reset.c", "mmio.c", "psci.c"), 9):
            self._touch(f"c{number}", name)
        self._touch("s1", "vgic/vgic-init.c", onto=("c11",))
        self._touch("s2", "vgic/vgic-its.c")
        side = ("vgic/vgic-init.c", "vgic/vgic-its.c")
        self._commit("merge", "Merge branch 'side'", side, onto=("c12", "s2"))
        for number, name in enumerate(("pmu.c", "inject_fault.c", "hypercalls.c", "mmu.c"), 13):
            self._touch(f"c{number}", name)

    def _base(self) -> None:
        self._say(f"commit refs/tags/base\ncommitter {self._who()}\ndata 4\nbase")
        for member in self._linux:
            name = member.name.partition("/")[2]
            if member.isdir() or not _needed(name):
                continue
            if member.issym():
                self._file(name, "120000", member.linkname.encode())
                continue
            content = self._linux.extractfile(member)
            assert content is not None
            text = content.read()
            self._file(name, "100755" if member.mode & stat.S_IXUSR else "100644", text)
            if name.startswith(f"{_KVM}/"):
                self._kvm[name.removeprefix(f"{_KVM}/")] = text.decode()

    def _touch(self, tag: str, name: str, onto: tuple[str, ...] = ()) -> None:
        self._kvm[name] = f"{self._kvm[name]}\n/* {tag} */\n"
        self._commit(tag, f"KVM: arm64: {tag}: {name}", (name,), onto)

    def _edit(self, tag: str, name: str, old: str, new: str) -> None:
        text = self._kvm[name]
        assert text.count(old) == 1, f"{name} is not as it was"
        self._kvm[name] = text.replace(old, new)
        self._commit(tag, f"KVM: arm64: {tag}: {name}", (name,))

    def _commit(
        self, tag: str, subject: str, names: tuple[str, ...], onto: tuple[str, ...] = ()
    ) -> None:
        first, *others = onto or (self._last,)
        self._say(f"commit refs/tags/{tag}\ncommitter {self._who()}")
        self._say(f"data {len(subject)}\n{subject}\nfrom refs/tags/{first}")
        for other in others:
            self._say(f"merge refs/tags/{other}")
        for name in names:
            self._file(f"{_KVM}/{name}", "100644", self._kvm[name].encode())
        self._last = tag

    def _who(self) -> str:
        # git goes by dates where it has to choose; a second apart, they are in order.
        self._number += 1
        return f"A. Developer <dev@example.org> {1_700_000_000 + self._number} +0000"

    def _file(self, name: str, mode: str, content: bytes) -> None:
        self._say(f"M {mode} inline {name}\ndata {len(content)}")
        self._stream.write(content + b"\n")

    def _say(self, line: str) -> None:
        self._stream.write(f"{line}\n".encode())


def _needed(name: str) -> bool:
    if name.rpartition("/")[2].startswith(_BUILD_FILES):
        return True
    if name.startswith("arch/") and name.count("/") > 1:
        return name.startswith("arch/arm64/") and not name.startswith(_NOT_NEEDED)
    if name.startswith("tools/"):
        return name.startswith(("tools/include/", "tools/scripts/"))
    return not name.startswith(_NOT_NEEDED)
