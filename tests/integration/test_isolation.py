"""QEMU, seen from outside while it steps a guest."""

from __future__ import annotations

import pytest
from benchmarks.isolation import PROPERTIES, Seen, look

from qemu_diff.confinement import offered
from qemu_diff.model import Build, Driver

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def seen(builds: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    assert builds
    return look(tmp_path_factory.mktemp("isolation") / "results", (Driver.IN_GUEST, Driver.RSP))


def test_every_driver_was_looked_at(seen: Seen) -> None:
    assert seen.status == 0, seen.output
    assert set(seen.looked_at) == {"in_guest", "rsp"}


@pytest.mark.parametrize("name", PROPERTIES)
def test_qemu_is_left_with_little(seen: Seen, name: str) -> None:
    if "network of its own" in name and not offered().no_network:
        pytest.skip("this machine's kernel gives us no network namespace")
    assert seen.faults[name] == []
