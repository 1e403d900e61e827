"""What the schema alone can't see: names that mean nothing, floods that contradict themselves.

Each check yields :class:`Problem` values, and is pure but for looking whether named files exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qemu_diff.config.locate import KeyPath
from qemu_diff.config.paths import SearchPath, is_directory, mode
from qemu_diff.config.problems import Problem, label, listing, suggestion
from qemu_diff.config.resolve import scenario_spec
from qemu_diff.config.schema import (
    CampaignFile,
    FloodTable,
    KernelTable,
    PairTable,
    ScenarioTable,
    SourceTable,
)
from qemu_diff.model import Driver, FloodSource, FloodSpec, MachineSpec, Placement


@dataclass(frozen=True)
class Surroundings:
    """What a campaign file may refer to.

    :param paths: where its relative paths are looked up.
    :param payloads: names of the payloads that the project has, ascending.
    """

    paths: SearchPath
    payloads: tuple[str, ...]


def meaning_problems(file: CampaignFile, around: Surroundings) -> Iterator[Problem]:
    """Every mistake in a campaign file that has the right shape."""
    if not file.kernels:
        yield Problem((), "no kernels", "add a table [kernels.NAME] with a source")
    if not file.scenario:
        yield Problem((), "no scenarios", "add a table [[scenario]] with a payload")
    for name, kernel in file.kernels.items():
        yield from _kernel_problems(("kernels", name), kernel, around.paths)
    yield from _pair_problems(file.pair, tuple(file.kernels))
    for index, scenario in enumerate(file.scenario):
        path = ("scenario", index)
        yield from _payload_problems(path, scenario, around.payloads)
        yield from _expect_problems(path, scenario, tuple(file.kernels), around.payloads)
        yield from _flood_problems((*path, "flood"), scenario.flood)
    yield from _duplicate_cells(file.scenario)


# --- kernels -------------------------------------------------------------------------------------


def _kernel_problems(path: KeyPath, kernel: KernelTable, paths: SearchPath) -> Iterator[Problem]:
    if isinstance(kernel.source, SourceTable):
        yield from _source_problems((*path, "source"), kernel.source, paths)
        if kernel.source.image is not None:
            yield from _image_is_final(path, kernel)
    for index, patch in enumerate(kernel.patches):
        yield from _path_problems((*path, "patches", index), patch, paths)
    for index, fragment in enumerate(kernel.kconfig):
        yield from _path_problems((*path, "kconfig", index), fragment, paths)


def _source_problems(path: KeyPath, source: SourceTable, paths: SearchPath) -> Iterator[Problem]:
    if source.tree is not None:
        yield from _path_problems((*path, "tree"), source.tree, paths, directory=True)
    if source.image is not None:
        yield from _path_problems((*path, "image"), source.image, paths)
    if source.vmlinux is not None:
        yield from _path_problems((*path, "vmlinux"), source.vmlinux, paths)


def _image_is_final(path: KeyPath, kernel: KernelTable) -> Iterator[Problem]:
    for key in ("patches", "kconfig"):
        if getattr(kernel, key):
            yield Problem(
                (*path, key),
                f"{label((*path, key))}: a kernel that is an image is not built",
                f"remove {key}, or name a tree as the source",
            )


def _path_problems(
    path: KeyPath, named: str, paths: SearchPath, *, directory: bool = False
) -> Iterator[Problem]:
    found = paths.resolve(named)
    if mode(found) is None:
        where = paths.looked_in(named)
        text = f"{label(path)}: {named!r} does not exist" + (f" in {where}" if where else "")
        yield Problem(path, text)
    elif directory and not is_directory(found):
        yield Problem(path, f"{label(path)}: {named!r} is not a directory")
    elif not directory and is_directory(found):
        yield Problem(path, f"{label(path)}: {named!r} is a directory, not a file")


# --- pairs ---------------------------------------------------------------------------------------


def _pair_problems(pairs: Sequence[PairTable], kernels: tuple[str, ...]) -> Iterator[Problem]:
    seen: dict[PairTable, int] = {}
    for index, pair in enumerate(pairs):
        path: KeyPath = ("pair", index)
        yield from _unknown_kernel((*path, "baseline"), pair.baseline, kernels)
        yield from _unknown_kernel((*path, "candidate"), pair.candidate, kernels)
        if pair.baseline == pair.candidate:
            text = f"{label(path)}: baseline and candidate are both {pair.baseline!r}"
            yield Problem(path, text, "a pair holds two kernels against each other")
        if (first := seen.setdefault(pair, index)) != index:
            yield Problem(path, f"{label(path)}: the same pair as pair.{first}", "remove one")


def _unknown_kernel(path: KeyPath, name: str, kernels: tuple[str, ...]) -> Iterator[Problem]:
    if name not in kernels:
        remedy = suggestion(name, kernels) or f"the kernels here are {listing(kernels) or 'none'}"
        yield Problem(path, f"{label(path)}: no kernel is named {name!r}", remedy)


# --- scenarios -----------------------------------------------------------------------------------


def _payload_problems(
    path: KeyPath, scenario: ScenarioTable, payloads: tuple[str, ...]
) -> Iterator[Problem]:
    for index, name in enumerate(scenario.payload):
        if name not in payloads:
            element = (*path, "payload", index)
            yield Problem(
                element,
                f"{label((*path, 'payload'))}: no payload is named {name!r}",
                _which_of(name, payloads),
            )


def _which_of(name: str, payloads: tuple[str, ...]) -> str:
    there = f"there are {listing(payloads) or 'none'}"
    near = suggestion(name, payloads)
    return f"{near} {there}" if near else there


def _expect_problems(
    path: KeyPath,
    scenario: ScenarioTable,
    kernels: tuple[str, ...],
    payloads: tuple[str, ...],
) -> Iterator[Problem]:
    for kernel, expected in scenario.expect.items():
        of_kernel = (*path, "expect", kernel)
        yield from _unknown_kernel(of_kernel, kernel, kernels)
        for payload in expected:
            if payload not in scenario.payload:
                yield _unused_expectation((*of_kernel, payload), scenario.payload, payloads)


def _unused_expectation(
    path: KeyPath, of_scenario: Sequence[str], payloads: Iterable[str]
) -> Problem:
    payload = str(path[-1])
    what = "is not in this scenario" if payload in payloads else "is not a payload"
    return Problem(
        path,
        f"{label(path[:-1])}: {payload!r} {what}",
        suggestion(payload, of_scenario) or f"the payloads here are {listing(of_scenario)}",
    )


# --- floods --------------------------------------------------------------------------------------

_MEANINGLESS = {
    Placement.NONE: ("first_ns", "last_ns", "step_ns"),
    Placement.SWEEP: ("count",),
    Placement.RANDOM: ("step_ns",),
}


def _flood_problems(path: KeyPath, flood: FloodTable) -> Iterator[Problem]:
    quiet, unplaced = flood.source is FloodSource.NONE, flood.placement is Placement.NONE
    if quiet != unplaced:
        yield _half_a_flood(path, flood)
        return
    for key in _MEANINGLESS[flood.placement]:
        if key in flood.model_fields_set:
            text = f"{label((*path, key))}: means nothing when placement is {flood.placement}"
            yield Problem((*path, key), text, f"remove {key}")
    if flood.placement is Placement.RANDOM and flood.count is None:
        text = f"{label(path)}: placement random needs count"
        yield Problem(path, text, "count is the number of passes over the payload")
    if flood.last_ns is not None and flood.last_ns < flood.first_ns:
        text = f"{label(path)}: last_ns {flood.last_ns} is less than first_ns {flood.first_ns}"
        yield Problem((*path, "last_ns"), text, "both belong to the interval")


def _half_a_flood(path: KeyPath, flood: FloodTable) -> Problem:
    sources = " or ".join(source for source in FloodSource if source is not FloodSource.NONE)
    placements = " or ".join(place for place in Placement if place is not Placement.NONE)
    if flood.source is FloodSource.NONE:
        text = f"placement {flood.placement} needs a source of interrupts"
        return Problem((*path, "placement"), f"{label(path)}: {text}", f"set source to {sources}")
    text = f"source {flood.source} needs a placement"
    return Problem((*path, "source"), f"{label(path)}: {text}", f"set placement to {placements}")


# --- the matrix ----------------------------------------------------------------------------------

_Point = tuple[str, MachineSpec, FloodSpec, Driver]


def _duplicate_cells(scenarios: Sequence[ScenarioTable]) -> Iterator[Problem]:
    seen: set[_Point] = set()
    for index, scenario in enumerate(scenarios):
        path: KeyPath = ("scenario", index)
        repeated: dict[str, None] = {}
        for point in _points(scenario):
            if point in seen:
                repeated[point[0]] = None
            seen.add(point)
        for payload in repeated:
            yield Problem(
                path,
                f"{label(path)}: {payload!r} is here twice with the same machine, flood and driver",
                "remove one, or make them differ",
            )


def _points(scenario: ScenarioTable) -> Iterator[_Point]:
    spec = scenario_spec(scenario)
    for payload in spec.payloads:
        for machine in spec.machines:
            yield payload, machine, spec.flood, spec.driver
