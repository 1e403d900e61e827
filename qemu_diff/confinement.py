"""What a program that reads a guest's bytes may still do to this machine.

The kernel under test is untrusted, and so is whatever it makes of QEMU. Beside QEMU's own seccomp
filter (``-sandbox``), a child gives up before it becomes QEMU: new privileges, the network, writing
outside of its own directories, signals to others, memory and files without an end, and the secrets
that our environment may hold. What this machine's kernel does not offer is left out, and
:func:`offered` says so.

No limit on the number of processes: RLIMIT_NPROC counts all of a user's, so that it would fail for
others' reasons, and ``-sandbox spawn=deny`` allows QEMU none at all.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LIBC = ctypes.CDLL(None)
"""Loaded before any fork: a child of a process with threads must not load libraries."""

_LIBC.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
"""Linux include/uapi/linux/prctl.h."""

_KEPT_CAPABILITIES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (linux/capability.h): in a container root's files may be
somebody else's."""

_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000
"""Linux include/uapi/linux/sched.h."""

OPEN_FILES = 256
"""QEMU has some twenty files open; each debugger and port takes one or two more."""

OVERHEAD_BYTES = 4 << 30
"""Address space beside the guest's memory: QEMU reserves 1 GiB for translated code, and each of its
threads 64 MiB for malloc and 8 MiB for its stack; the truth and the records are mapped."""

FILE_BYTES = 1 << 30
"""Of one file. The truth takes 70 MB; QEMU's log of L1's timers is as long as L1 makes it."""

_KEPT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TERM", "TMPDIR", "TZ")


@dataclass(frozen=True)
class Confinement:
    """What a child is left with.

    :param writable: directories and devices that it may write to.
    :param memory_bytes: of address space.
    :param file_bytes: of each file that it writes.
    """

    writable: tuple[Path, ...]
    memory_bytes: int
    file_bytes: int = FILE_BYTES


@dataclass(frozen=True)
class Offered:
    """What this machine's kernel offers to a process without privileges.

    :param no_network: network namespaces.
    :param landlock: version of Landlock's interface; 0: there is none.
    """

    no_network: bool
    landlock: int


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What of an environment a child gets: no credentials, nor whatever else a CI job is given."""
    return {name: inherited[name] for name in _KEPT if name in inherited}


def confine(confinement: Confinement, parent: int) -> Callable[[], None]:
    """What a child does before it becomes QEMU.

    :param parent: our process id: whatever kills us takes the child along.
    """
    # Read here: a child of a process with threads does as little as it can.
    user, group = os.geteuid(), os.getegid()
    version = _landlock_version()
    writable = [os.fsencode(path) for path in confinement.writable]

    def prepare() -> None:
        _restore_signals()
        _limit(confinement)
        os.umask(0o077)
        _leave_network(user, group)
        _drop_capabilities()
        _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if version:
            _restrict(version, writable)
        # Last: a change of credentials undoes it (prctl(2)).
        _end_with(parent)

    return prepare


def cut_off(parent: int = 0) -> Callable[[], None]:
    """What a child does before it becomes a program that writes where it likes, but needs neither
    the network nor new privileges.

    :param parent: see :func:`confine`; 0: it is ended in another way.
    """
    user, group = os.geteuid(), os.getegid()

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _leave_network(user, group)
        _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if parent:
            _end_with(parent)

    return prepare


def _end_with(parent: int) -> None:
    """In a child: whatever kills its parent, SIGKILL included, takes it along (prctl(2),
    PR_SET_PDEATHSIG); and so does a death before that took effect."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def offered() -> Offered:
    """What this machine offers; a child tries it."""
    child = os.fork()
    if not child:
        os._exit(0 if _leave_network(os.geteuid(), os.getegid()) else 1)
    _, status = os.waitpid(child, 0)
    return Offered(no_network=status == 0, landlock=_landlock_version())


def _restore_signals() -> None:
    # Python ignores these, and what is ignored stays so: a QEMU whose log may not grow any more
    # would go on without it.
    for one in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(one, signal.SIG_DFL)


def _limit(confinement: Confinement) -> None:
    for kind, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, confinement.memory_bytes),
        (resource.RLIMIT_FSIZE, confinement.file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        _, most = resource.getrlimit(kind)
        allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (allowed, allowed))


def _leave_network(user: int, group: int) -> bool:
    """Into a network of one's own, without an interface that is up: Unix sockets are files."""
    if _LIBC.unshare(_CLONE_NEWNET) == 0:
        return True
    # Who has no privileges has them in a user namespace of its own (user_namespaces(7)).
    if _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return False
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with suppress(OSError):
            Path("/proc/self", name).write_text(content)
    return True


def _drop_capabilities() -> None:
    """Of root's; who is not root has none."""
    for capability in range(64):
        if capability not in _KEPT_CAPABILITIES:
            _LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


# --- Landlock (Linux Documentation/userspace-api/landlock.rst) -----------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls: the same numbers on every architecture that Linux has them on."""

_ASK_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_OF_A_FILE = _WRITE_FILE | _TRUNCATE
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""LANDLOCK_ACCESS_FS_*: writing, removing, making anything."""

_REMOVE_FILE, _MAKE_SOCK = 1 << 5, 1 << 9
_IN_A_DIRECTORY = _OF_A_FILE | _REMOVE_FILE | _MAKE_SOCK
"""Whatever is to be written is there already. No links, pipes or devices: what lies there is opened
by us, and what we write there would go where a link leads. No files: each has a bound, their number
has none."""

_SINCE = {2: 1 << 13, 3: _TRUNCATE}
"""Version → what came with it: moving between directories, truncating."""

_TCP_SINCE, _TCP = 4, 3
"""LANDLOCK_ACCESS_NET_BIND_TCP and _CONNECT_TCP."""

_SCOPE_SINCE, _SCOPE = 6, 3
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and _SIGNAL: neither reaches a process outside."""


class _Ruleset(ctypes.Structure):
    """``struct landlock_ruleset_attr``."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _landlock_version() -> int:
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)))


def _restrict(version: int, writable: list[bytes]) -> None:
    """No changes to files but beneath these, and no links there; no TCP; no signals to others."""
    changes = _CHANGES | sum(right for since, right in _SINCE.items() if version >= since)
    rules = _Ruleset(
        changes,
        _TCP if version >= _TCP_SINCE else 0,
        _SCOPE if version >= _SCOPE_SINCE else 0,
    )
    # What an older kernel does not know must be 0, and then is no matter to it.
    ruleset = _LIBC.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if ruleset < 0:
        return
    for path in writable:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = _IN_A_DIRECTORY if os.path.isdir(path) else _OF_A_FILE  # noqa: PTH112
        rule = _PathBeneath(changes & allowed, place)
        _LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
        os.close(place)
    _LIBC.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
