"""Everything that qemu-diff raises, typed by whose fault it is.

::

    QemuDiffError
    ├── UserError                 exit 2: the user can mend it
    │   ├── ConfigError           a campaign or job file; carries file, line, column
    │   ├── SourceError           a kernel source that is not there or not a kernel
    │   │   ├── UnavailableSourceError  one that this machine can't get
    │   │   ├── NotLinuxError         a commit whose tree is no Linux with KVM for arm64
    │   │   └── RevertError           a commit that can't be taken out
    │   ├── PatchError            a patch that does not apply; carries file and hunk
    │   ├── KconfigError          an option that is needed or asked for did not come out
    │   ├── MissingToolError      a program the machine lacks; carries the command that installs it
    │   ├── ResultsError          a results directory that can't be read or written
    │   └── LedgerError           a ledger that can't be read or written
    │       └── NoLedgerError         a file that is something else, or of a newer qemu-diff
    ├── KernelBuildError          exit 3: the compiler refused; carries the log and its first error
    └── InfrastructureError       exit 3: never a verdict about a kernel
        ├── CompileError          our own C or assembly did not compile
        ├── LostGuestError        QEMU died, or the guest ended without a sealed record file
        │   └── KilledGuestError      something of this machine's ended it: it tells nothing
        ├── CorruptDataError      a record or truth file that fails version, counts or checksum
        ├── DebuggerError         what drives a guest from outside does not answer as it must
        │   └── GdbStubError          QEMU's gdbstub refused, or fell silent
        │       └── GdbStubClosedError    it went away
        └── NoPhantomRuleError    no rule tells executed from phantom records on this QEMU
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path


class QemuDiffError(Exception):
    """Root of the tree. ``str()`` is one human line; ``exit_code`` is the process's."""

    exit_code = 3


class UserError(QemuDiffError):
    """Something that the user can mend."""

    exit_code = 2


class ConfigError(UserError):
    """A campaign or job file that can't be used. ``str()`` has one line for each mistake.

    :param path: the file.
    :param line: 1-based line, or 0 where the file as a whole is meant.
    :param column: 1-based column.
    :param problem: what is wrong.
    :param remedy: what would be right; may be empty.
    :param others: further mistakes in the same file.
    """

    def __init__(
        self,
        path: Path,
        line: int,
        column: int,
        problem: str,
        remedy: str = "",
        *,
        others: tuple[ConfigError, ...] = (),
    ) -> None:
        self.path = path
        self.line = line
        self.column = column
        self.problem = problem
        self.remedy = remedy
        self.others = others
        where = f"{path}:{line}:{column}" if line else f"{path}"
        own = f"{where}: {problem}" + (f"; {remedy}" if remedy else "")
        super().__init__("\n".join([own, *map(str, others)]))


class SourceError(UserError):
    """A kernel source that does not exist, or is not what it was said to be."""


class UnavailableSourceError(SourceError):
    """A kernel source, or a program for L1, that this machine can't get: no apt, no network, no
    such package or suite.

    A kernel that is ``optional`` is then left out.
    """


class NotLinuxError(SourceError):
    """A commit whose tree is no Linux tree with KVM for arm64."""


class RevertError(SourceError):
    """A commit that can't be taken out of a tree: it conflicts, or is a merge, or is not there."""


class KconfigError(UserError):
    """A kernel whose configuration comes out otherwise than it must."""


class PatchError(UserError):
    """A patch that does not apply.

    :param patch: the patch file.
    :param target: the file in the kernel tree that the failing hunk is for.
    :param hunk: the failing hunk's number, from 1, or 0 where the whole file is missing.
    :param subject: of the mail that the patch came in; empty for a plain diff.
    :param advice: what would be right; may be empty.
    """

    def __init__(
        self,
        patch: Path,
        target: str,
        hunk: int,
        detail: str = "",
        *,
        subject: str = "",
        advice: str = "",
    ) -> None:
        self.patch = patch
        self.target = target
        self.hunk = hunk
        self.detail = detail
        self.subject = subject
        where = f"hunk {hunk} of {target}" if hunk else target
        name = f"{patch}: {subject}" if subject else f"{patch}"
        why = f" ({detail})" if detail else ""
        remedy = f"; {advice}" if advice else ""
        super().__init__(f"{name}: does not apply: {where}{why}{remedy}")

    def advised(self, advice: str) -> PatchError:
        """The same, with what would be right."""
        return PatchError(
            self.patch, self.target, self.hunk, self.detail, subject=self.subject, advice=advice
        )


class MissingToolError(UserError):
    """A program that the machine lacks.

    :param tool: the program or feature.
    :param apt: Debian packages that bring it, separated by spaces; may be empty.
    :param dnf: Fedora packages that bring it; may be empty.
    """

    def __init__(self, tool: str, apt: str = "", dnf: str = "") -> None:
        fedora = shutil.which("apt-get") is None and shutil.which("dnf") is not None
        packages, program = (dnf, "dnf") if fedora else (apt, "apt-get")
        install = f"{program} install {packages}" if packages else ""
        self.tool = tool
        self.install = install
        remedy = f"; install it with: {install}" if install else ""
        super().__init__(f"{tool} is missing{remedy}")


class ResultsError(UserError):
    """A results directory that can't be read or written."""


class LedgerError(UserError):
    """A ledger that can't be read or written: locked, damaged, or on a full disk."""


class NoLedgerError(LedgerError):
    """What is in the ledger's place is none that this qemu-diff may write to."""


class KernelBuildError(QemuDiffError):
    """A kernel that does not build.

    :param log: the whole build log.
    :param lines: the first of the compiler's that say what is wrong, with file and line.
    """

    def __init__(self, message: str, log: Path, lines: tuple[str, ...] = ()) -> None:
        self.log = log
        self.lines = lines
        super().__init__(f"{message} (log: {log})")


class InfrastructureError(QemuDiffError):
    """Our side or the machine's failed: nothing was learnt about a kernel."""


class CompileError(InfrastructureError):
    """Our own C or assembly did not compile."""


class LostGuestError(InfrastructureError):
    """The guest or its QEMU went away without leaving a sealed result."""


class KilledGuestError(LostGuestError):
    """Something of this machine's ended the guest, or left it no CPU: it tells nothing of it."""


class CorruptDataError(InfrastructureError):
    """A record or truth file that contradicts its own header."""


class DebuggerError(InfrastructureError):
    """A debugger, or a monitor, refused, talked nonsense, fell silent, or went away."""


class GdbStubError(DebuggerError):
    """QEMU's gdbstub refused a request, or fell silent."""


class GdbStubClosedError(GdbStubError):
    """QEMU's gdbstub went away: the machine has ended, or was ended."""


def refuse_killed(program: str, status: int) -> None:
    """A program that was killed has not answered: what it did not say must not count as a no.

    :param status: as :mod:`subprocess` has it.
    :raises InfrastructureError: it was killed.
    """
    if status == -signal.SIGKILL:
        raise InfrastructureError(f"{program} was killed (signal {signal.SIGKILL:d})")


class NoPhantomRuleError(InfrastructureError):
    """This QEMU gives no way to tell executed instructions from phantom records."""
