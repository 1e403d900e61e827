"""The table of what steps cost."""

from __future__ import annotations

from qemu_diff.model import (
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    FloodSpec,
    KvmMode,
    MachineSpec,
    StepCost,
)
from qemu_diff.report.costs import CostRow, cost_table

VHE, NVHE = MachineSpec(KvmMode.VHE), MachineSpec(KvmMode.NVHE)


def cell(
    kernel: str, payload: str, costs: dict[str, int], machine: MachineSpec = VHE
) -> CellResult:
    name = f"{kernel}.{payload}.{machine.kvm_mode}.quiet"
    return CellResult(
        Cell(name, kernel, payload, machine, FloodSpec(), Driver.IN_GUEST, 1),
        CellVerdict.PASS,
        costs=tuple(StepCost(one, 4, cost, cost, cost + 9) for one, cost in costs.items()),
    )


def rows(*cells: CellResult) -> tuple[CostRow, ...]:
    return cost_table(CampaignResult("c", cells, (), complete=True)).rows


def test_classes_that_cost_the_same_share_a_row() -> None:
    both = [cell(kernel, "p", {"alu": 10, "hvc": 30, "nop": 10}) for kernel in ("old", "new")]
    assert rows(*both) == (
        CostRow(("alu", "nop"), KvmMode.VHE, (10, 10)),
        CostRow(("hvc",), KvmMode.VHE, (30, 30)),
    )


def test_modes_have_rows_of_their_own() -> None:
    shown = rows(cell("k", "p", {"alu": 10}), cell("k", "p", {"alu": 10}, NVHE))
    assert [row.kvm_mode for row in shown] == [KvmMode.NVHE, KvmMode.VHE]


def test_only_scenarios_that_each_kernel_has_are_compared() -> None:
    cells = [
        cell("old", "p", {"sysreg": 100}),
        cell("old", "q", {"sysreg": 900}),
        cell("new", "p", {"sysreg": 120}),
    ]
    assert rows(*cells) == (CostRow(("sysreg",), KvmMode.VHE, (100, 120)),)


def test_a_kernel_that_never_stepped_a_class_has_none() -> None:
    cells = [cell("old", "p", {"alu": 5}), cell("new", "p", {"alu": 6, "hvc": 7})]
    assert rows(*cells)[1] == CostRow(("hvc",), KvmMode.VHE, (None, 7))


def test_nothing_is_compared_where_no_scenario_is_common() -> None:
    cells = [cell("old", "p", {"alu": 5}), cell("new", "q", {"alu": 6})]
    assert rows(*cells) == (CostRow(("alu",), KvmMode.VHE, (5, None)),)


def test_a_control_of_few_scenarios_does_not_make_them_all_few() -> None:
    payloads = ("p", "q", "r")
    cells = [cell(name, one, {"alu": 5}) for name in ("old", "new") for one in payloads]
    assert rows(cell("control", "p", {"alu": 4}), *cells)[0].costs == (None, 5, 5)


def test_two_halves_that_have_nothing_in_common_with_each_other() -> None:
    cells = [cell("most", one, {"alu": 5}) for one in "pq"]
    cells += [cell("one", "p", {"alu": 6}), cell("other", "q", {"alu": 7})]
    assert rows(*cells)[0].costs == (None, None, None)
