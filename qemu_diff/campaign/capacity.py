"""What this process may use of its machine: CPUs and memory, as affinity and cgroups leave them.

A container's limits are its cgroup's, and those of the cgroups above (Linux
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/). /proc and os.cpu_count() tell of the whole
machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

_MIB = 1 << 20
_V1_UNLIMITED = 1 << 60
"""cgroup-v1 says `no limit` with a number near 2^63, rounded to pages."""


@dataclass(frozen=True)
class _Hierarchy:
    """One mounted hierarchy of cgroups.

    :param mount: where; a container sees its own cgroup there, not the path that it has outside.
    :param path: of this process's cgroup, below.
    """

    mount: Path
    path: str

    def upwards(self) -> Iterator[Path]:
        """This process's cgroup, and those above it, as far as they can be seen."""
        own = self.mount / self.path.lstrip("/")
        while own != self.mount and own.is_relative_to(self.mount):
            yield own
            own = own.parent
        yield self.mount


def usable_cpus(root: Path = ROOT) -> int:
    """CPUs of this process's affinity, and no more than its cgroups' quota; at least one."""
    quotas = [_v2_quota(group) for one in _hierarchies("", root) for group in one.upwards()]
    quotas += [_v1_quota(group) for one in _hierarchies("cpu", root) for group in one.upwards()]
    # Boots hardly wait: half a CPU more is none.
    allowed = [int(quota) for quota in quotas if quota is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *allowed]))


def available_mib(root: Path = ROOT) -> int | None:
    """Memory that can be had now without pushing anything out, in MiB; None: not known."""
    found = [_machine_bytes(root)]
    found += [_v2_bytes(group) for one in _hierarchies("", root) for group in one.upwards()]
    found += [_v1_bytes(group) for one in _hierarchies("memory", root) for group in one.upwards()]
    known = [one for one in found if one is not None]
    return min(known) // _MIB if known else None


def _hierarchies(controller: str, root: Path) -> Iterator[_Hierarchy]:
    """Those of a controller of cgroup v1; with an empty name, the one of cgroup v2.

    /proc/self/cgroup has ``ID:CONTROLLERS:PATH`` for each (cgroups(7)).
    """
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        if controller:
            yield _Hierarchy(base / controller, path)
        else:
            # systemd's hybrid layout has v2 below.
            yield _Hierarchy(base / "unified" if (base / "unified").is_dir() else base, path)


def _v2_quota(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() else None


def _v1_quota(group: Path) -> float | None:
    quota, period = (_number(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota is not None and period and quota > 0 else None


def _v2_bytes(group: Path) -> int | None:
    return _left(
        _number(group / "memory.max"), _number(group / "memory.current"), group, "inactive_file"
    )


def _v1_bytes(group: Path) -> int | None:
    limit = _number(group / "memory.limit_in_bytes")
    if limit is not None and limit > _V1_UNLIMITED:
        return None
    used = _number(group / "memory.usage_in_bytes")
    return _left(limit, used, group, "total_inactive_file")


def _left(limit: int | None, used: int | None, group: Path, reclaimable: str) -> int | None:
    """What a cgroup has left: the cache of files that nobody reads gives way."""
    if limit is None or used is None:
        return None
    return max(0, limit - used + _field(group / "memory.stat", reclaimable))


def _machine_bytes(root: Path) -> int | None:
    # In kB (proc(5)).
    return _field(root / "proc/meminfo", "MemAvailable:") * 1024 or None


def _field(path: Path, name: str) -> int:
    """The number after a name at a line's begin; 0 where there is none."""
    for line in _read(path).splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return 0


def _number(path: Path) -> int | None:
    """A file's only number; None where it has none: ``max``, or it is not there."""
    with suppress(ValueError):
        return int(_read(path))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
