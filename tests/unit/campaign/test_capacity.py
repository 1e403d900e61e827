"""What a process may use: the least of what the machine, its affinity and its cgroups leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qemu_diff.campaign.capacity import available_mib, usable_cpus

MIB = 1 << 20


def machine(root: Path, files: dict[str, object]) -> Path:
    """A file system with these files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


MEMINFO = f"MemTotal:       {16 << 20} kB\nMemAvailable:    {10 << 20} kB\n"


@pytest.mark.usefixtures("eight_cpus")
def test_a_machine_without_cgroups_is_all_ours(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/meminfo": MEMINFO})
    assert usable_cpus(root) == 8
    assert available_mib(root) == 10 << 10


@pytest.mark.usefixtures("eight_cpus")
def test_a_container_sees_its_own_cgroup_at_the_mount(tmp_path: Path) -> None:
    """cgroup v2 in a namespace: the path is `/`, or one that exists only outside."""
    for path in ("/", "/docker/1234"):
        root = machine(
            tmp_path / path.strip("/"),
            {
                "proc/self/cgroup": f"0::{path}",
                "proc/meminfo": MEMINFO,
                "sys/fs/cgroup/cpu.max": "250000 100000",
                "sys/fs/cgroup/memory.max": 2048 * MIB,
                "sys/fs/cgroup/memory.current": 1024 * MIB,
                "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {512 * MIB}",
            },
        )
        assert usable_cpus(root) == 2
        assert available_mib(root) == 1536


@pytest.mark.usefixtures("eight_cpus")
def test_a_limit_further_up_counts_as_well(tmp_path: Path) -> None:
    """A batch system limits the job; the step below says `max`."""
    job = "sys/fs/cgroup/slurm/job_7"
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slurm/job_7/step_0",
            "proc/meminfo": MEMINFO,
            f"{job}/cpu.max": "300000 100000",
            f"{job}/memory.max": 4096 * MIB,
            f"{job}/memory.current": 96 * MIB,
            f"{job}/step_0/cpu.max": "max 100000",
            f"{job}/step_0/memory.max": "max",
            f"{job}/step_0/memory.current": MIB,
        },
    )
    assert usable_cpus(root) == 3
    assert available_mib(root) == 4000


@pytest.mark.usefixtures("eight_cpus")
def test_cgroup_v1(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpuacct,cpu:/ci\n4:memory:/ci\n1:name=systemd:/\n0::/",
            "proc/meminfo": MEMINFO,
            "sys/fs/cgroup/unified/cgroup.procs": "",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/cpu/ci/cpu.cfs_quota_us": 150000,
            "sys/fs/cgroup/cpu/ci/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": MIB,
            "sys/fs/cgroup/memory/ci/memory.limit_in_bytes": 700 * MIB,
            "sys/fs/cgroup/memory/ci/memory.usage_in_bytes": 100 * MIB,
        },
    )
    assert usable_cpus(root) == 1
    assert available_mib(root) == 600


def test_less_than_one_cpu_is_one(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"})
    assert usable_cpus(root) == 1


def test_a_cgroup_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 100 * MIB,
            "sys/fs/cgroup/memory.current": 101 * MIB,
        },
    )
    assert available_mib(root) == 0


def test_nothing_known_is_no_limit(tmp_path: Path) -> None:
    assert available_mib(tmp_path) is None


def test_this_machine_says_something() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
    assert (available_mib() or 0) > 0
