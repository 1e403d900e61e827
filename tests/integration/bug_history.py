"""A history on top of Linux 6.1 with one bug in its midst, and two commits that can't be tested."""

from __future__ import annotations

from dataclasses import dataclass, field

from integration.linux_history import BASE, LinuxHistory, linux_history

_KVM = "arch/arm64/kvm"
_REFS = "refs/heads/bug-history"

_CREATE = "int kvm_arch_vcpu_create(struct kvm_vcpu *vcpu)\n{\n	int err;\n"
_CRASH = f"{_CREATE}\n	BUG();\n"

# Linux kernel commit 370531d1e95b ("KVM: arm64: Clear PSTATE.SS when the Software Step state was
# Active-pending") (in v6.1)
_SET_IF_NOT_PENDING = """\
			if (!vcpu_get_flag(vcpu, DBG_SS_ACTIVE_PENDING))
				*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;
"""
_SET_ALWAYS = """\
			if (vcpu)
				*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;
"""

_HVC = "	int ret;\n\n	trace_kvm_hvc_arm64("
_NO_C = "	int ret\n\n	trace_kvm_hvc_arm64("

HARMLESS = (
    *("psci.c", "pmu.c", "hypercalls.c"),
    *("guest.c", "reset.c", "mmio.c", "psci.c"),
    *("pmu.c", "inject_fault.c", "hypercalls.c", "mmu.c"),
)
"""Files of KVM, each touched by a commit that changes nothing: c1 to c3, c9 to c12, c13 to c16."""


@dataclass
class BugHistory:
    """``base`` and 19 commits by name: ``c1`` … ``c16``, and ``s1`` and ``s2``, a branch off
    ``c11`` that ``merge`` joins to ``c12``.

    ``c6`` brings the bug, ``c4`` crashes in KVM and ``c7`` does not compile; ``c5`` and ``c8`` mend
    these two.
    """

    linux: LinuxHistory
    commits: dict[str, str] = field(default_factory=dict)
    _files: dict[str, str] = field(default_factory=dict)

    def ref(self, name: str) -> str:
        """What git knows a commit by."""
        return f"{_REFS}/{name}"

    def make(self) -> None:
        self.commits["base"] = self.linux.git("rev-parse", BASE).decode().strip()
        self.linux.git("update-ref", self.ref("base"), BASE)
        harmless = iter(HARMLESS)
        for number in range(1, 4):
            self._touch(f"c{number}", next(harmless))
        self._edit("c4", "arm.c", _CREATE, _CRASH)
        self._edit("c5", "arm.c", _CRASH, _CREATE)
        self._edit("c6", "debug.c", _SET_IF_NOT_PENDING, _SET_ALWAYS)
        self._edit("c7", "handle_exit.c", _HVC, _NO_C)
        self._edit("c8", "handle_exit.c", _NO_C, _HVC)
        for number in range(9, 13):
            self._touch(f"c{number}", next(harmless))
        side = ("vgic/vgic-init.c", "vgic/vgic-its.c")
        self._touch("s1", side[0], parent="c11")
        self._touch("s2", side[1])
        self._commit("merge", "Merge branch 'side'", side, "c12", self.commits["s2"])
        for number in range(13, 17):
            self._touch(f"c{number}", next(harmless))

    def _touch(self, name: str, file: str, parent: str = "") -> None:
        self._files[file] = f"{self._text(file)}\n/* {name} */\n"
        self._commit(name, f"KVM: arm64: {name}: {file}", (file,), parent)

    def _edit(self, name: str, file: str, old: str, new: str) -> None:
        assert self._text(file).count(old) == 1, f"{file} is not as it was"
        self._files[file] = self._text(file).replace(old, new)
        self._commit(name, f"KVM: arm64: {name}: {file}", (file,))

    def _commit(
        self, name: str, subject: str, files: tuple[str, ...], parent: str = "", merged: str = ""
    ) -> None:
        onto = self.commits[parent or [*self.commits][-1]]
        changed = {f"{_KVM}/{file}": self._files[file].encode() for file in files}
        self.commits[name] = self.linux.commit(self.ref(name), onto, subject, changed, merged)

    def _text(self, file: str) -> str:
        if file not in self._files:
            self._files[file] = self.linux.git("show", f"{BASE}:{_KVM}/{file}").decode()
        return self._files[file]


def bug_history() -> BugHistory:
    """The history, in the repository that all tests on real Linux share; always the same ids."""
    history = BugHistory(linux_history())
    history.make()
    return history


if __name__ == "__main__":
    print(bug_history().linux.path)
