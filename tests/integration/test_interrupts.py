"""Every source of interrupts, alone and mixed, on both kernels: what was sent, L2 handled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.cli_run import ROOT, CliRun, run_campaign
from integration.conftest import WriteCampaign, write_campaign

from qemu_diff.model import INTO_GUEST, Build, FloodSource

pytestmark = pytest.mark.integration

BOTH = {"bad": "unpatched", "good": "patched"}
KERNELS = tuple(BOTH)

SENT_BY_VMM = tuple(one for one in FloodSource if one not in (FloodSource.NONE, FloodSource.DEVICE))
ALL = ", ".join(f'"{one}"' for one in SENT_BY_VMM)
MIXED = tuple(one for one in SENT_BY_VMM if one is not FloodSource.SIGNAL)
MIX = ", ".join(f'"{one}"' for one in MIXED)
FROM_OTHER_CPU = ("signal", "spi_edge", "memslot")

CAMPAIGN = f"""
[[scenario]]
payload = "hvc"
[scenario.flood]
each_of = [{ALL}]
placement = "random"
count = 3
first_ns = 1200
last_ns = 5000

[[scenario]]
payload = "hvc"
machine = {{ cpus = 2 }}
[scenario.flood]
each_of = ["signal", "spi_edge", "memslot"]
placement = "random"
count = 2
first_ns = 1200
last_ns = 5000

[[scenario]]
payload = "trapped_sysreg"
machine = {{ cpus = 2 }}
[scenario.flood]
each_of = ["host_timer", "memslot"]
placement = "sweep"
first_ns = 2400
last_ns = 4000
step_ns = 100

[[scenario]]
payload = "sgi"

[[scenario]]
payload = "straightline"
flood = {{ source = "device", placement = "random", count = 100 }}

[[scenario]]
payload = "mixed"
[scenario.flood]
source = [{MIX}]
placement = "random"
count = 4
first_ns = 1200
last_ns = 8000

[[scenario]]
payload = "hvc"
machine = {{ cpus = 2 }}
kernels = "good"
[scenario.flood]
source = ["host_timer", "spi_edge", "spi_level", "lpi", "dirty_log"]
placement = "random"
count = 2
first_ns = 1200
last_ns = 5000

[[scenario]]
payload = "hvc"
kernels = "good"
[scenario.flood]
source = "spi_edge"
placement = "burst"
count = 2
burst = 3
period_ns = 900
first_ns = 1200
last_ns = 5000

[[scenario]]
payload = "hvc"
kernels = "good"
[scenario.flood]
source = "host_timer"
placement = "pairs"
first_ns = 1200
last_ns = 4200
step_ns = 1000

[[scenario]]
payload = "hvc"
kernels = "good"
flood = {{ source = "spi_edge", placement = "periodic", count = 60, period_ns = 331_000 }}

[[scenario]]
payload = "straightline"
kernels = "good"
flood = {{ source = "irqfd", placement = "periodic", count = 1, period_ns = 50_000 }}
"""

MIX_ID = "good.mixed.vhe.*"
OTHER_CPU_MIX_ID = "good.hvc.vhe.host_timer+*.cpus-2"


@dataclass(frozen=True)
class Cell:
    """One cell of ``verdicts.json``."""

    keys: dict[str, Any]

    @property
    def violations(self) -> dict[str, int]:
        return dict(self.keys["result"]["violations"])

    @property
    def lost_at(self) -> set[str]:
        """Instructions whose steps were lost."""
        broken = self.keys["result"]["breakdown"]
        return {one["instruction"]["text"] for one in broken if one["kind"] == "lost-step"}

    @property
    def excursions(self) -> dict[str, int]:
        found: dict[str, int] = self.keys["excursions"]
        return found

    def source(self, name: str) -> dict[str, Any]:
        """What one source did."""
        return next(one for one in self.keys["sources"] if one["source"] == name)

    def l1(self, name: str) -> int:
        """L1's own count of an interrupt; 0 where it had none."""
        counts = {one["name"]: int(one["count"]) for one in self.keys["interrupts"]}
        # L1's names of IPIs are cut off.
        return sum(count for whole, count in counts.items() if whole.startswith(name))


@pytest.fixture(scope="module")
def campaign(builds: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("interrupts") / "campaign.toml"
    return write_campaign(path, builds, dict(BOTH), CAMPAIGN)


@pytest.fixture(scope="module")
def done(campaign: Path) -> CliRun:
    return run_campaign(campaign, campaign.parent / "out", "--set", "campaign.findings=false")


def cell(done: CliRun, begin: str) -> Cell:
    (found,) = (one for one in done.verdicts["cells"] if one["id"].startswith(begin))
    return Cell(found)


def alone(done: CliRun, kernel: str, source: str) -> Cell:
    return cell(done, f"{kernel}.hvc.vhe.{source}-random.1200-5000.x3")


def cells_of(done: CliRun, kernel: str) -> list[Cell]:
    return [Cell(one) for one in done.verdicts["cells"] if one["kernel"] == kernel]


# --- each source alone ---


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("source", SENT_BY_VMM)
def test_what_is_sent_arrives(done: CliRun, kernel: str, source: FloodSource) -> None:
    one = Cell(done.cell(f"{kernel}.hvc.vhe.{source}-random.1200-5000.x3"))
    sent, handled = one.source(source)["sent"], one.source(source)["handled"]
    assert sent > 5
    assert handled == (sent if source in INTO_GUEST else None)
    assert one.keys["placements"] > 0
    if source is FloodSource.VTIMER:
        # One that expires while L1 has it fires no timer: KVM injects it at the entry.
        assert 0 < one.l1("vtimer") <= sent
    else:
        assert one.l1("arch_timer") >= sent
        assert one.l1("vtimer") == 0


def test_the_merged_fix_loses_nothing(done: CliRun) -> None:
    """A signal costs steps that KVM emulates (docs/findings/0001): none of these cells has both."""
    wrong = {one.keys["id"]: one.violations for one in cells_of(done, "good") if one.violations}
    assert wrong == {}
    assert {one.keys["verdict"] for one in cells_of(done, "good")} == {"pass"}


@pytest.mark.parametrize("source", SENT_BY_VMM)
def test_unpatched_loses_steps_at_hvc_whatever_comes(done: CliRun, source: FloodSource) -> None:
    one = Cell(done.cell(f"bad.hvc.vhe.{source}-random.1200-5000.x3"))
    assert one.lost_at == {"hvc #0"}
    assert not {"lost-interrupt", "spurious-interrupt"} & {*one.violations}


@pytest.mark.parametrize("kernel", KERNELS)
def test_l2_interrupts_itself(done: CliRun, kernel: str) -> None:
    """Three times in a pass: two of one INTID at once are one."""
    one = cell(done, f"{kernel}.sgi.")
    assert one.source("sgi") == {"source": "sgi", "sent": 3, "held_back": 0, "handled": 3}
    assert one.excursions["handled"] == 3
    assert one.keys["verdict"] == "pass"


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_interrupt_of_a_device_is_taken_by_l1(done: CliRun, kernel: str) -> None:
    one = cell(done, f"{kernel}.straightline.vhe.device-")
    assert one.l1("uart-pl011") == one.source("device")["sent"] > 0


# --- from another CPU ---


def test_another_cpu_interrupts_by_ipi(done: CliRun) -> None:
    """A change of memory sends none, and so shows how many there are without."""
    found = {name: cell(done, f"good.hvc.vhe.{name}-random.1200-5000.x2.cpus-2") for name in
             FROM_OTHER_CPU}  # fmt: skip
    without = found["memslot"].l1("Rescheduling")
    for name in ("signal", "spi_edge"):
        sent = found[name].source(name)["sent"]
        assert found[name].l1("Rescheduling") - without >= sent / 2 > 2, name


def test_an_ipi_alone_loses_the_step_of_a_trapped_read(done: CliRun) -> None:
    timer = cell(done, "bad.trapped_sysreg.vhe.host_timer-sweep")
    assert timer.lost_at == {"mrs x0, id_aa64pfr0_el1"}
    memory = cell(done, "bad.trapped_sysreg.vhe.memslot-sweep")
    assert memory.source("memslot")["sent"] > 20
    assert memory.keys["verdict"] == "pass"


# --- many at once ---


@pytest.mark.parametrize("kernel", KERNELS)
def test_mixed_interrupts_nest_and_none_is_lost(done: CliRun, kernel: str) -> None:
    one = cell(done, f"{kernel}.mixed.")
    assert {source["source"] for source in one.keys["sources"]} == {*MIXED}
    for source in one.keys["sources"]:
        assert source["sent"] > 0
        assert source["handled"] in (None, source["sent"])
    assert one.excursions["nested"] > 0
    assert one.excursions["unfinished"] == 0
    assert not {"lost-interrupt", "spurious-interrupt"} & {*one.violations}


def test_bursts_pairs_and_periods(done: CliRun) -> None:
    burst = cell(done, "good.hvc.vhe.spi_edge-burst").source("spi_edge")
    # The handler is longer than the burst: those that follow would be one with the first.
    assert burst["held_back"] > burst["sent"] == burst["handled"] > 0
    pairs = cell(done, "good.hvc.vhe.host_timer-pairs")
    assert pairs.source("host_timer")["sent"] > pairs.keys["placements"] > 16
    period = cell(done, "good.hvc.vhe.spi_edge-periodic")
    assert period.source("spi_edge")["handled"] == period.source("spi_edge")["sent"] > 5
    assert period.excursions["unfinished"] == 0


def test_a_storm_leaves_no_time_and_that_is_legal(done: CliRun) -> None:
    storm = cell(done, "good.straightline.vhe.irqfd-periodic")
    assert storm.keys["verdict"] == "pass"
    assert storm.excursions["unfinished"] > 0
    assert storm.source("irqfd")["held_back"] > storm.source("irqfd")["sent"] > 100


def test_the_same_cell_is_the_same_run(done: CliRun, campaign: Path) -> None:
    """Under icount, whatever interrupts, and from whichever CPU."""
    only = ("--only", MIX_ID, "--only", OTHER_CPU_MIX_ID)
    again = run_campaign(campaign, campaign.parent / "again", *only)
    cells = again.verdicts["cells"]
    assert len(cells) == 2
    for one in cells:
        assert one["fingerprint"] == done.cell(one["id"])["fingerprint"] != ""


# --- mistakes ---

HVC = '[[scenario]]\npayload = "hvc"\n'


def test_placements_after_the_step_test_nothing(campaign_of: WriteCampaign, tmp_path: Path) -> None:
    interval = "first_ns = 80000, last_ns = 90000"
    flood = f'flood = {{ source = "host_timer", placement = "random", count = 1, {interval} }}\n'
    late = run_campaign(campaign_of({"good": "patched"}, HVC + flood), tmp_path / "out")
    assert late.status == 3
    assert "no placed interrupt came inside a step window" in late.said
    assert "see the flood's first_ns and last_ns" in late.said


def test_a_qemu_without_qtest_sends_no_device_s_interrupts(
    campaign_of: WriteCampaign, tmp_path: Path
) -> None:
    flood = 'flood = { source = "device", placement = "random", count = 1 }\n'
    fake = ROOT / "tests" / "fakes" / "qemu_without_qtest"
    without = run_campaign(
        campaign_of({"good": "patched"}, HVC + flood), tmp_path / "out", QEMU_DIFF_QEMU=str(fake)
    )
    assert without.status == 2
    assert without.stderr == (
        f"qemu-diff: {fake} has no -qtest, which a flood's source device needs\n"
    )


@pytest.mark.parametrize(
    ("flood", "words"),
    [
        ('each_of = ["spi_egde"], placement = "random", count = 1', "did you mean 'spi_edge'?"),
        ('each_of = ["none"], placement = "random", count = 1', "none is no flood; remove none"),
        (
            'each_of = ["ppi", "lpi"], placement = "random"',
            "placement random needs count; count is the number of passes",
        ),
        (
            'source = "ppi", placement = "periodic", count = 1, period_ns = 19999',
            "19999 leaves L1 no time to enter L2; at least 20000",
        ),
    ],
)
def test_a_wrong_flood_is_told_in_one_line(
    campaign_of: WriteCampaign, tmp_path: Path, flood: str, words: str
) -> None:
    campaign = campaign_of({"good": "patched"}, f"{HVC}flood = {{ {flood} }}\n")
    wrong = run_campaign(campaign, tmp_path / "out")
    assert wrong.status == 2
    (line,) = wrong.stderr.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()
