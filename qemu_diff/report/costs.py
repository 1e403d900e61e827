"""The cost of a step, class by class and kernel beside kernel."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from qemu_diff.model import CampaignResult, KvmMode


@dataclass(frozen=True)
class CostRow:
    """Classes of instruction that cost the same on each kernel, in one mode of KVM.

    :param classes: ascending.
    :param costs: L1's instructions per step, one for each kernel of the table; None: not measured.
    """

    classes: tuple[str, ...]
    kvm_mode: KvmMode
    costs: tuple[int | None, ...]


@dataclass(frozen=True)
class CostTable:
    """What steps cost on each kernel.

    :param rows: by mode, then by the first class.
    """

    kernels: tuple[str, ...]
    rows: tuple[CostRow, ...]


def cost_table(result: CampaignResult) -> CostTable:
    """The mean over scenarios of what a step of a class costs there, without a flood.

    A class is not the same instruction in each scenario: only scenarios that were measured on each
    kernel are in the mean. A kernel that has less than half of what another has, as a control does,
    is left out instead.
    """
    kernels = tuple(dict.fromkeys(one.cell.kernel for one in result.cells))
    measured: dict[tuple[KvmMode, str], dict[str, dict[str, int]]] = {}
    for one in result.cells:
        point = one.cell.id.removeprefix(f"{one.cell.kernel}.")
        for cost in one.costs:
            of_class = measured.setdefault((one.cell.machine.kvm_mode, cost.instruction), {})
            of_class.setdefault(one.cell.kernel, {})[point] = cost.median
    alike: dict[tuple[KvmMode, tuple[int | None, ...]], list[str]] = {}
    for (mode, instruction), of_kernel in sorted(measured.items()):
        alike.setdefault((mode, _means(kernels, of_kernel)), []).append(instruction)
    rows = (CostRow(tuple(classes), mode, costs) for (mode, costs), classes in alike.items())
    return CostTable(kernels, tuple(rows))


def _means(kernels: tuple[str, ...], costs: dict[str, dict[str, int]]) -> tuple[int | None, ...]:
    most = max(costs.values(), key=len).keys()
    enough = {one for one, points in costs.items() if 2 * len(points.keys() & most) >= len(most)}
    common = [point for point in most if all(point in costs[one] for one in enough)]
    return tuple(
        round(mean(costs[kernel][point] for point in common))
        if kernel in enough and common
        else None
        for kernel in kernels
    )
