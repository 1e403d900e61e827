"""Campaign files: wide matrices, QEMUs, exclusions, seeds, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.config import load_campaign
from qemu_diff.errors import ConfigError
from qemu_diff.model import (
    Campaign,
    Exclusion,
    KvmMode,
    MachineSpec,
    PairOf,
    PairSpec,
    QemuSpec,
)

HEAD = """\
[campaign]
name = "c"
[kernels.built]
source = "debian:linux-source-6.1"
[kernels.ready]
source = { image = "Image" }
[qemu.new]
suite = "bookworm-backports"
[[scenario]]
payload = "hvc"
"""
LINES = HEAD.count("\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a payload and a job; its campaign is ``c.toml``."""
    for name in ("guest_images/payloads/hvc.S", "guest_images/jobs/step.job", "Image"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def loaded(root: Path, text: str, *overrides: str) -> Campaign:
    path = root / "c.toml"
    path.write_text(text)
    return load_campaign(path, overrides, root=root)


def machines(root: Path, table: str) -> tuple[MachineSpec, ...]:
    text = HEAD + f'kernels = "built"\nmachine = {{ {table} }}\n'
    return loaded(root, text).scenarios[0].machines


def mistakes(root: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(root, text, *overrides)
    path = root / "c.toml"
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


# --- right ones ----------------------------------------------------------------------------------


def test_each_key_of_a_machine_multiplies(root: Path) -> None:
    found = machines(root, "cpus = [1, 2], memory_mib = [256, 512], page_kib = [4, 16, 64]")
    assert len(found) == len({*found}) == 12
    assert {one.page_kib for one in found} == {4, 16, 64}
    found = machines(root, 'gic_version = [2, 3], qemu = ["stock", "new"], cpu = ["max", "a"]')
    assert len(found) == len({*found}) == 8
    assert {(one.gic_version, one.qemu) for one in found} == {
        (2, ""),
        (2, "new"),
        (3, ""),
        (3, "new"),
    }


def test_protected_is_a_mode(root: Path) -> None:
    (machine,) = machines(root, 'kvm_mode = "protected"')
    assert machine == MachineSpec(KvmMode.PROTECTED)


def test_qemus_are_programs_or_of_a_suite(root: Path) -> None:
    text = (
        HEAD
        + '[qemu.old]\nprogram = "qemu-old"\n'
        + '[qemu.mine]\nprogram = "./bin/qemu"\noptional = true\n'
        + '[[pair]]\nof = "qemu"\nbaseline = "stock"\ncandidate = "new"\n'
    )
    campaign = loaded(root, text)
    assert campaign.qemus == (
        QemuSpec("new", suite="bookworm-backports"),
        QemuSpec("old", program="qemu-old"),
        QemuSpec("mine", program=str(root / "bin/qemu"), optional=True),
    )
    assert campaign.pairs == (PairSpec("", "new", PairOf.QEMU),)


def test_seeds_exclusions_and_the_cost_that_may_change(root: Path) -> None:
    text = HEAD.replace('name = "c"', 'name = "c"\ncost_change = 0.1') + "seeds = [1, 2]\n"
    text += '[[exclude]]\ncells = "*.hvc.*"\nreason = "not today"\n'
    campaign = loaded(root, text)
    assert campaign.scenarios[0].seeds == (1, 2)
    assert campaign.cost_change == 0.1
    place = f"{root / 'c.toml'}:{LINES + 4}:1"
    assert campaign.exclusions == (Exclusion("*.hvc.*", "not today", place),)


def test_one_seed_is_a_list_of_one(root: Path) -> None:
    assert loaded(root, HEAD + "seeds = 5\n").scenarios[0].seeds == (5,)


# --- wrong ones ----------------------------------------------------------------------------------

AT = f"{LINES + 1}"
WRONG = {
    "a GIC that there is not": (
        HEAD + "machine = { gic_version = 4 }\n",
        f"{AT}:13: scenario.0.machine.gic_version: expected one of 2, 3; got the integer 4",
    ),
    "pages that there are not": (
        HEAD + 'kernels = "built"\nmachine = { page_kib = [4, 8] }\n',
        f"{LINES + 2}:28: scenario.0.machine.page_kib.1: expected one of 4, 16, 64; got the"
        " integer 8",
    ),
    "pages of a kernel that is built already": (
        HEAD + "machine = { page_kib = [4, 64] }\n",
        f"{AT}:13: scenario.0.machine.page_kib: kernel 'ready' is built already, with the pages"
        " that it has; leave 'ready' out by kernels = […], or set page_kib to 4",
    ),
    "interrupts into L2 without a GICv3": (
        HEAD + "machine = { gic_version = [2, 3] }\n"
        'flood = { source = "spi_edge", placement = "sweep" }\n',
        f"{AT}:13: scenario.0.machine.gic_version: spi_edge into L2 needs gic_version 3; make it a"
        " scenario of its own, of gic_version 3",
    ),
    "an SGI of the stub's without a GICv3": (
        HEAD + 'machine = { gic_version = 2, exception_order = "async_first" }\n',
        f"{AT}:13: scenario.0.machine.gic_version: async_first with pending sgi needs gic_version"
        " 3; set pending to spurious or flood",
    ),
    "an interrupt from outside at a GICv2 of several CPUs": (
        HEAD + 'machine = { gic_version = 2, cpus = [1, 2], exception_order = "async_first",'
        ' pending = "ppi", redirect_at = "a" }\n',
        f"{AT}:13: scenario.0.machine.gic_version: a GICv2 of several CPUs takes no spi or ppi from"
        " outside; remove cpus, or set gic_version to 3",
    ),
    "a protected KVM without a GICv3": (
        HEAD + 'machine = { gic_version = 2, kvm_mode = "protected" }\n',
        f"{AT}:13: scenario.0.machine.gic_version: a protected KVM has no vgic for a GICv2; make"
        " it a scenario of its own, of gic_version 3",
    ),
    "a QEMU that nobody named": (
        HEAD + 'machine = { qemu = ["stock", "nwe"] }\n',
        f"{AT}:30: scenario.0.machine.qemu.1: no QEMU is named 'nwe'; did you mean 'new'?",
    ),
    "the QEMU on PATH, named again": (
        HEAD + '[qemu.stock]\nprogram = "q"\n',
        f"{AT}:7: qemu.stock: stock is the QEMU on PATH; give it another name",
    ),
    "a QEMU of two sources": (
        HEAD + '[qemu.q]\nprogram = "q"\nsuite = "trixie"\n',
        f"{AT}:7: qemu.q: a QEMU is a program that is here, or one of a Debian suite; write either"
        " program = PATH, or suite = SUITE",
    ),
    "a QEMU of none": (
        HEAD + "[qemu.q]\noptional = true\n",
        f"{AT}:7: qemu.q: a QEMU is a program that is here, or one of a Debian suite; write either"
        " program = PATH, or suite = SUITE",
    ),
    "a suite that is no name": (
        HEAD + '[qemu.q]\nsuite = "Book worm"\n',
        f'{LINES + 2}:1: qemu.q.suite: the string "Book worm" is no name of a Debian suite',
    ),
    "a pair of QEMUs that are not there": (
        HEAD + '[[pair]]\nof = "qemu"\nbaseline = "stock"\ncandidate = "built"\n',
        f"{LINES + 4}:1: pair.0.candidate: no QEMU is named 'built'; the QEMUs here are stock, new",
    ),
    "a pair of a QEMU with itself": (
        HEAD + '[[pair]]\nof = "qemu"\nbaseline = "new"\ncandidate = "new"\n',
        f"{AT}:3: pair.0: baseline and candidate are both 'new'; a pair holds two QEMUs against"
        " each other",
    ),
    "an exclusion without a reason": (
        HEAD + '[[exclude]]\ncells = "*"\nreason = " "\n',
        f'{LINES + 3}:1: exclude.0.reason: expected one line that says why, got the string " "',
    ),
    "an exclusion of nothing": (
        HEAD + '[[exclude]]\ncells = ""\nreason = "why"\n',
        f"{LINES + 2}:1: exclude.0.cells: the string is empty",
    ),
    "exclusions as a table": (
        HEAD + '[exclude]\ncells = "*"\nreason = "why"\n',
        f"{AT}:2: exclude: expected an array, got a table; write [[exclude]]",
    ),
    "a seed twice": (
        HEAD + "seeds = [2, 2]\n",
        f"{LINES - 1}:3: scenario.0: 'hvc' is here twice for built, ready with the same job,"
        " machine, flood, driver and seed; remove one, or make them differ",
    ),
    "a seed that is the campaign's": (
        HEAD + '[[scenario]]\npayload = "hvc"\nseeds = [1, 2]\n',
        f"{AT}:3: scenario.1: 'hvc' is here twice for built, ready with the same job, machine,"
        f" flood, driver and seed; the other is at ROOT/c.toml:{LINES - 1}:3; remove one, or make"
        " them differ",
    ),
    "a change of costs that is none": (
        HEAD.replace('name = "c"', 'name = "c"\ncost_change = 0'),
        "3:1: campaign.cost_change: must be more than 0, got 0",
    ),
    "a change of costs beyond sense": (
        HEAD.replace('name = "c"', 'name = "c"\ncost_change = 11.0'),
        "3:1: campaign.cost_change: must be at most 10, got 11.0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_matrix_is_told_in_one_line(root: Path, case: str) -> None:
    text, expected = WRONG[case]
    assert [line.replace(str(root), "ROOT") for line in mistakes(root, text)] == [expected]
