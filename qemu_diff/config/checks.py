"""What the schema alone can't see: names that mean nothing, floods that contradict themselves.

Each check yields :class:`Problem` values, and is pure but for looking whether named files exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from qemu_diff.config.locate import KeyPath
from qemu_diff.config.paths import SearchPath, is_directory, is_url, mode
from qemu_diff.config.problems import Problem, label, listing, suggestion
from qemu_diff.config.ranges import BASE, HEAD, expanded, range_problems
from qemu_diff.config.resolve import scenario_specs
from qemu_diff.config.schema import (
    LONGEST_NS,
    MOST_SWEPT,
    CampaignFile,
    FloodTable,
    KernelTable,
    MachineTable,
    PairTable,
    ScenarioTable,
    SourceTable,
)
from qemu_diff.model import (
    ADAPTIVE_STEP_NS,
    FROM_OUTSIDE,
    INTO_GUEST,
    SELFTEST_PAYLOAD,
    STOCK_QEMU,
    DebianSource,
    Driver,
    ExceptionOrder,
    Expectation,
    FloodSource,
    FloodSpec,
    KvmMode,
    MachineSpec,
    PairOf,
    Pending,
    Placement,
)


@dataclass(frozen=True)
class Surroundings:
    """What a campaign file may refer to.

    :param paths: where its relative paths are looked up.
    :param payloads: names of the payloads that the project has, ascending.
    :param jobs: the same of the jobs.
    :param sessions: the same of the sessions.
    """

    paths: SearchPath
    payloads: tuple[str, ...]
    jobs: tuple[str, ...]
    sessions: tuple[str, ...] = ()


def meaning_problems(file: CampaignFile, around: Surroundings) -> Iterator[Problem]:
    """Every mistake in a campaign file that has the right shape."""
    if not file.kernels:
        yield Problem((), "no kernels", "add a table [kernels.NAME] with a source")
    if not file.scenario:
        yield Problem((), "no scenarios", "add a table [[scenario]] with a payload")
    for name, kernel in file.kernels.items():
        yield from _kernel_problems(("kernels", name), kernel, around.paths)
    yield from range_problems(file)
    kernels = expanded(file).kernels
    qemus: tuple[str, ...] = (STOCK_QEMU, *file.qemu)
    if STOCK_QEMU in file.qemu:
        stock = ("qemu", STOCK_QEMU)
        text = f"{label(stock)}: {STOCK_QEMU} is the QEMU on PATH"
        yield Problem(stock, text, "give it another name")
    sides: dict[PairOf, tuple[str, ...]] = {
        PairOf.KERNEL: tuple(kernels),
        PairOf.DRIVER: tuple(one.value for one in Driver),
        PairOf.QEMU: qemus,
    }
    yield from _pair_problems(file.pair, sides)
    for index, scenario in enumerate(file.scenario):
        path = ("scenario", index)
        if Driver.SELFTEST in scenario.driver:
            yield from _peer_problems(path, scenario)
            payloads: tuple[str, ...] = (SELFTEST_PAYLOAD,)
        else:
            yield from _payload_problems(path, scenario, around.payloads)
            payloads = around.payloads
        yield from _job_problems(path, scenario, around.jobs)
        yield from _session_problems(path, scenario, around.sessions)
        if FROM_OUTSIDE.intersection(scenario.driver):
            yield from _outside_problems(path, scenario)
        elif "nested_qemu" in scenario.machine.model_fields_set:
            at = (*path, "machine", "nested_qemu")
            text = f"{label(at)}: L1 has a QEMU where a debugger drives L2 only"
            yield Problem(at, text, f"remove it, or set driver to {listing(sorted(FROM_OUTSIDE))}")
        for number, wanted in enumerate(scenario.kernels):
            yield from _unknown_kernel((*path, "kernels", number), wanted, tuple(kernels))
        yield from _expect_problems(path, scenario, tuple(kernels), payloads)
        yield from _flood_problems((*path, "flood"), scenario.flood)
        yield from _machine_problems((*path, "machine"), scenario)
        yield from _gic_problems((*path, "machine"), scenario)
        yield from _page_problems((*path, "machine", "page_kib"), scenario, kernels)
        for number, name in enumerate(scenario.machine.qemu):
            yield from _unknown((*path, "machine", "qemu", number), name, PairOf.QEMU, qemus)
    yield from _duplicate_cells(file, tuple(kernels))


# --- kernels -------------------------------------------------------------------------------------


def _kernel_problems(path: KeyPath, kernel: KernelTable, paths: SearchPath) -> Iterator[Problem]:
    table = _source_table(kernel)
    yield from _source_problems((*path, "source"), table, paths)
    if table.image is not None or _is_image_package(table):
        yield from _image_is_final(path, kernel)
    elif kernel.reverts and table.git is None:
        at = (*path, "reverts")
        yield Problem(
            at,
            f"{label(at)}: commits are taken out of a git repository only",
            "name one as the source, or undo them with a patch",
        )
    for index, patch in enumerate(kernel.patches):
        # A directory is a series.
        if not is_directory(paths.resolve(patch)):
            yield from _path_problems((*path, "patches", index), patch, paths)
    for index, fragment in enumerate(kernel.kconfig):
        yield from _path_problems((*path, "kconfig", index), fragment, paths)


def _source_table(kernel: KernelTable) -> SourceTable:
    source = kernel.source
    return SourceTable(debian=source.package) if isinstance(source, DebianSource) else source


def _source_problems(path: KeyPath, source: SourceTable, paths: SearchPath) -> Iterator[Problem]:
    if source.tree is not None:
        yield from _path_problems((*path, "tree"), source.tree, paths, directory=True)
    if source.git is not None and not is_url(source.git):
        yield from _path_problems((*path, "git"), source.git, paths, directory=True)
    if source.image is not None:
        yield from _path_problems((*path, "image"), source.image, paths)
    if source.vmlinux is not None:
        yield from _path_problems((*path, "vmlinux"), source.vmlinux, paths)
    if _is_image_package(source) and source.suite is None:
        yield Problem(
            path,
            f"{label(path)}: {source.debian} is got from a suite that must be named",
            f'write {{ debian = "{source.debian}", suite = SUITE }}',
        )


def _is_image_package(source: SourceTable) -> bool:
    return source.debian is not None and source.debian.startswith("linux-image-")


def _image_is_final(path: KeyPath, kernel: KernelTable) -> Iterator[Problem]:
    for key in ("patches", "reverts", "kconfig"):
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


def _pair_problems(
    pairs: Sequence[PairTable], sides: Mapping[PairOf, tuple[str, ...]]
) -> Iterator[Problem]:
    seen: dict[PairTable, int] = {}
    for index, pair in enumerate(pairs):
        path: KeyPath = ("pair", index)
        for key, name in (("baseline", pair.baseline), ("candidate", pair.candidate)):
            yield from _unknown((*path, key), name, pair.of, sides[pair.of])
        if pair.baseline == pair.candidate:
            text = f"{label(path)}: baseline and candidate are both {pair.baseline!r}"
            what = _WORDS.get(pair.of, pair.of.value)
            yield Problem(path, text, f"a pair holds two {what}s against each other")
        if (first := seen.setdefault(pair, index)) != index:
            yield Problem(path, f"{label(path)}: the same pair as pair.{first}", "remove one")


def _unknown(path: KeyPath, name: str, what: PairOf, there: tuple[str, ...]) -> Iterator[Problem]:
    if name in there:
        return
    if what is PairOf.KERNEL and f"{name}{BASE}" in there:
        text = f"{label(path)}: the kernel {name!r} is a range, and so it is two"
        yield Problem(path, text, f"name {name}{BASE} or {name}{HEAD}")
        return
    word = _WORDS.get(what, what.value)
    remedy = suggestion(name, there) or f"the {word}s here are {listing(there) or 'none'}"
    yield Problem(path, f"{label(path)}: no {word} is named {name!r}", remedy)


def _unknown_kernel(path: KeyPath, name: str, kernels: tuple[str, ...]) -> Iterator[Problem]:
    return _unknown(path, name, PairOf.KERNEL, kernels)


_WORDS = {PairOf.QEMU: "QEMU"}


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


def _job_problems(
    path: KeyPath, scenario: ScenarioTable, jobs: tuple[str, ...]
) -> Iterator[Problem]:
    for index, name in enumerate(scenario.job):
        if name not in jobs:
            text = f"{label((*path, 'job'))}: no job is named {name!r}"
            yield Problem((*path, "job", index), text, _which_of(name, jobs))


def _session_problems(
    path: KeyPath, scenario: ScenarioTable, sessions: tuple[str, ...]
) -> Iterator[Problem]:
    if "session" not in scenario.model_fields_set:
        return
    at = (*path, "session")
    for index, name in enumerate(scenario.session):
        if name not in sessions:
            text = f"{label(at)}: no session is named {name!r}"
            yield Problem((*at, index), text, _which_of(name, sessions))
    if scenario.driver != [Driver.GDB]:
        yield Problem(at, f"{label(at)}: sessions are gdb's", 'set driver to "gdb"')
    if "job" in scenario.model_fields_set:
        yield Problem(at, f"{label(at)}: a session takes the place of a job", "remove one of them")
    at = (*path, "flood", "source")
    for source in _sources(scenario.flood):
        if source in INTO_GUEST:
            text = f"{label(at)}: nobody raises {source} between the commands of a session"
            yield Problem(at, text, f"there are {listing(_BESIDE_SESSIONS)}")


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
        if kernel in kernels and scenario.kernels and kernel not in scenario.kernels:
            text = f"{label(of_kernel)}: this scenario is not for the kernel {kernel!r}"
            yield Problem(of_kernel, text, f"it is for {listing(scenario.kernels)}")
        for what, kinds in expected.items():
            payload, slash, job = what.partition("/")
            if payload not in scenario.payload:
                yield _unused_expectation((*of_kernel, what), payload, scenario.payload, payloads)
            elif slash and job not in (there := _jobs_or_sessions(scenario)):
                text = f"{label(of_kernel)}: the job {job!r} is not in this scenario"
                remedy = suggestion(job, there) or f"the jobs are {listing(there)}"
                yield Problem((*of_kernel, what), text, remedy)
            if len(kinds) > 1 and (alone := _ALONE.intersection(kinds)):
                text = f"{label((*of_kernel, what))}: {min(alone)} can't be expected with others"
                yield Problem((*of_kernel, what), text, "expect it alone, or only the others")


def _jobs_or_sessions(scenario: ScenarioTable) -> list[str]:
    return scenario.session if "session" in scenario.model_fields_set else scenario.job


_ALONE = {Expectation.PASS, Expectation.HANG, Expectation.KERNEL_OOPS, Expectation.FAIL}
"""These show no violation."""


# --- peers ---------------------------------------------------------------------------------------


def _peer_problems(path: KeyPath, scenario: ScenarioTable) -> Iterator[Problem]:
    """What does not go with the kernel's own selftest."""
    if len(scenario.driver) > 1:
        text = f"{label((*path, 'driver'))}: selftest stands beside no other driver"
        yield Problem((*path, "driver"), text, "make it a scenario of its own")
    for index, name in enumerate(scenario.payload):
        if name != SELFTEST_PAYLOAD:
            text = f"{label((*path, 'payload'))}: driver selftest runs {SELFTEST_PAYLOAD!r} only"
            yield Problem((*path, "payload", index), text, f"write {SELFTEST_PAYLOAD!r}")
    if "job" in scenario.model_fields_set:
        yield Problem((*path, "job"), f"{label((*path, 'job'))}: a peer takes no job", "remove job")
    if scenario.machine.redirect_at:
        at = (*path, "machine", "redirect_at")
        yield Problem(at, f"{label(at)}: a peer has no labels", "remove redirect_at")
    flood = scenario.flood
    others = {*flood.source} - {FloodSource.NONE, FloodSource.HOST_TIMER}
    if others or flood.placement not in (Placement.NONE, Placement.RANDOM):
        text = f"{label((*path, 'flood'))}: a peer can be flooded by host_timer at random only"
        yield Problem((*path, "flood"), text)
    if flood.placement is Placement.RANDOM and flood.last_ns is None:
        text = f"{label((*path, 'flood'))}: a peer's flood needs last_ns"
        yield Problem(
            (*path, "flood"), text, "an interrupt comes first_ns to last_ns after another"
        )


# --- debuggers -----------------------------------------------------------------------------------

_AT_RANDOM = (
    FloodSource.NONE,
    FloodSource.HOST_TIMER,
    FloodSource.DEVICE,
    FloodSource.SPI_EDGE,
    FloodSource.SPI_LEVEL,
    FloodSource.PPI,
)
"""What can interrupt an L2 that a debugger drives: not before each step, but at random."""

_BESIDE_SESSIONS = tuple(source for source in _AT_RANDOM if source not in INTO_GUEST)


def _outside_problems(path: KeyPath, scenario: ScenarioTable) -> Iterator[Problem]:
    """What a debugger of L2 can't do."""
    flood, at = scenario.flood, (*path, "flood")
    sources = (*flood.source, *(flood.each_of or ()))
    for source in sources:
        if source not in _AT_RANDOM:
            text = f"{label((*at, 'source'))}: a debugger's L2 is not flooded by {source}"
            yield Problem((*at, "source"), text, f"there are {listing(_AT_RANDOM)}")
    if flood.placement not in (Placement.NONE, Placement.RANDOM):
        text = f"{label((*at, 'placement'))}: nothing is placed into a debugger's steps"
        yield Problem((*at, "placement"), text, "set placement to random, with last_ns")
    if FloodSource.HOST_TIMER in sources and flood.last_ns is None:
        text = f"{label(at)}: the flood of a debugger's L2 needs last_ns"
        yield Problem(at, text, "an interrupt comes first_ns to last_ns after another")
    if max(scenario.machine.cpus) > 1:
        at = (*path, "machine", "cpus")
        yield Problem(at, f"{label(at)}: the drivers from outside have one L1 CPU", "remove cpus")


def _unused_expectation(
    path: KeyPath, payload: str, of_scenario: Sequence[str], payloads: Iterable[str]
) -> Problem:
    what = "is not in this scenario" if payload in payloads else "is not a payload"
    return Problem(
        path,
        f"{label(path[:-1])}: {payload!r} {what}",
        suggestion(payload, of_scenario) or f"the payloads here are {listing(of_scenario)}",
    )


# --- floods --------------------------------------------------------------------------------------

_MEANINGLESS = {
    Placement.NONE: ("first_ns", "last_ns", "step_ns", "period_ns", "burst"),
    Placement.SWEEP: ("count", "period_ns", "burst"),
    Placement.ADAPTIVE: ("period_ns", "burst"),
    Placement.PAIRS: ("count", "period_ns", "burst"),
    Placement.RANDOM: ("step_ns", "period_ns", "burst"),
    Placement.PERIODIC: ("first_ns", "last_ns", "step_ns", "burst"),
    Placement.BURST: ("step_ns",),
}

_NEEDED = {
    Placement.RANDOM: {"count": "count is the number of passes over the payload"},
    Placement.PERIODIC: {
        "count": "count is the number of passes over the payload",
        "period_ns": "period_ns is from one interrupt to the next",
    },
    Placement.BURST: {
        "count": "count is the number of passes over the payload",
        "burst": "burst is the number of interrupts of one burst",
        "period_ns": "period_ns is from one interrupt of a burst to the next",
    },
}

SHORTEST_PERIOD_NS = 20_000
"""Twice what a step and a thread that preempts it take: with less, that L2 makes no progress would
be legal."""

_OF_SEVERAL_TIMERS = (Placement.PERIODIC, Placement.BURST, Placement.PAIRS)

_MIXED = (Placement.RANDOM, Placement.BURST)
"""Placements that may draw from several sources."""


def _flood_problems(path: KeyPath, flood: FloodTable) -> Iterator[Problem]:
    if flood.each_of:
        yield from _each_of_problems(path, flood)
        floods = [
            flood.model_copy(update={"each_of": None, "source": [source]})
            for source in flood.each_of
            if source is not FloodSource.NONE
        ]
        # What is wrong with each of them is told once.
        yield from dict.fromkeys(
            problem for one in floods for problem in _flood_problems(path, one)
        )
        return
    quiet, unplaced = flood.source == [FloodSource.NONE], flood.placement is Placement.NONE
    if quiet != unplaced:
        yield _half_a_flood(path, flood)
        return
    for key in _MEANINGLESS.get(flood.placement, ()):
        if key in flood.model_fields_set:
            text = f"{label((*path, key))}: means nothing when placement is {flood.placement}"
            yield Problem((*path, key), text, f"remove {key}")
    for key, remedy in _NEEDED.get(flood.placement, {}).items():
        if getattr(flood, key) is None:
            text = f"{label(path)}: placement {flood.placement} needs {key}"
            yield Problem(path, text, remedy)
    yield from _mix_problems(path, flood)
    if flood.placement is Placement.ADAPTIVE and flood.step_ns == 1:
        text = f"{label((*path, 'step_ns'))}: a grid of 1 ns leaves nothing to be refined"
        yield Problem((*path, "step_ns"), text, "set placement to sweep, or step_ns to 2 or more")
    if (swept := _passes(flood)) > MOST_SWEPT:
        text = f"{label(path)}: {swept:,} passes over the payload; there may be {MOST_SWEPT:,}"
        yield Problem((*path, "last_ns"), text, "lower last_ns, or raise step_ns")
    if flood.last_ns is not None and flood.last_ns < flood.first_ns:
        text = f"{label(path)}: last_ns {flood.last_ns} is less than first_ns {flood.first_ns}"
        yield Problem((*path, "last_ns"), text, "both belong to the interval")


def _each_of_problems(path: KeyPath, flood: FloodTable) -> Iterator[Problem]:
    if "source" in flood.model_fields_set:
        text = f"{label(path)}: source and each_of exclude each other"
        yield Problem((*path, "source"), text, "remove one")
    if FloodSource.NONE in (flood.each_of or ()):
        text = f"{label((*path, 'each_of'))}: none is no flood"
        yield Problem((*path, "each_of"), text, "remove none")


def _mix_problems(path: KeyPath, flood: FloodTable) -> Iterator[Problem]:
    """Sources that do not go with each other, or with the placement."""
    if len(flood.source) > 1 and flood.placement not in _MIXED:
        text = f"{label((*path, 'source'))}: placement {flood.placement} takes one source"
        yield Problem((*path, "source"), text, f"mix with {' or '.join(_MIXED)}")
    if FloodSource.DEVICE in flood.source and (
        len(flood.source) > 1 or flood.placement is not Placement.RANDOM
    ):
        text = f"{label((*path, 'source'))}: device comes when the host says, alone and at random"
        yield Problem((*path, "source"), text, "set placement to random, and no other source")
    if flood.placement is Placement.PERIODIC and 0 < (flood.period_ns or 0) < SHORTEST_PERIOD_NS:
        text = f"{label((*path, 'period_ns'))}: {flood.period_ns} leaves L1 no time to enter L2"
        yield Problem((*path, "period_ns"), text, f"at least {SHORTEST_PERIOD_NS}")
    if flood.placement is Placement.BURST:
        yield from _burst_problems(path, flood)
    if FloodSource.NONE in flood.source and len(flood.source) > 1:
        text = f"{label((*path, 'source'))}: none stands beside others"
        yield Problem((*path, "source"), text, "remove none")
    if flood.placement in _OF_SEVERAL_TIMERS and FloodSource.VTIMER in flood.source:
        text = f"{label((*path, 'source'))}: L2 has one virtual timer, which is set at each step"
        remedy = f"leave vtimer out where placement is {flood.placement}"
        yield Problem((*path, "source"), text, remedy)


def _burst_problems(path: KeyPath, flood: FloodTable) -> Iterator[Problem]:
    """The step VMM counts a burst's last delay in 32 bits."""
    later = (flood.burst or 1) - 1
    whole = later * (flood.period_ns or 0)
    if whole > LONGEST_NS:
        text = f"{label((*path, 'period_ns'))}: a burst of {flood.burst} takes {whole:,} ns"
        remedy = f"there may be {LONGEST_NS:,}: period_ns at most {LONGEST_NS // later:,}"
        yield Problem((*path, "period_ns"), text, remedy)


def _passes(flood: FloodTable) -> int:
    """Of a sweep whose interval the campaign names; 0 of any other."""
    if flood.last_ns is None or flood.placement not in (Placement.SWEEP, Placement.ADAPTIVE):
        return 0
    usual = 1 if flood.placement is Placement.SWEEP else ADAPTIVE_STEP_NS
    return (flood.last_ns - flood.first_ns) // (flood.step_ns or usual) + 1


def _half_a_flood(path: KeyPath, flood: FloodTable) -> Problem:
    sources = " or ".join(source for source in FloodSource if source is not FloodSource.NONE)
    placements = " or ".join(place for place in Placement if place is not Placement.NONE)
    if flood.source == [FloodSource.NONE]:
        text = f"placement {flood.placement} needs a source of interrupts"
        return Problem((*path, "placement"), f"{label(path)}: {text}", f"set source to {sources}")
    text = f"source {'+'.join(flood.source)} needs a placement"
    return Problem((*path, "source"), f"{label(path)}: {text}", f"set placement to {placements}")


# --- machines ------------------------------------------------------------------------------------

_OF_ASYNC_FIRST = ("pending", "redirects", "redirect_at")
FINE = (None, 1)
"""A sweep's ``step_ns`` that leaves nothing out."""
_FROM_OUTSIDE = (Pending.SPI, Pending.PPI)


def _machine_problems(path: KeyPath, scenario: ScenarioTable) -> Iterator[Problem]:
    machine = scenario.machine
    if max(machine.cpus) > 1 and scenario.flood.placement is Placement.PERIODIC:
        # QEMU's log tells whose timer fired from its period alone, and not on which CPU.
        text = f"{label((*path, 'cpus'))}: placement periodic is of one CPU"
        yield Problem((*path, "cpus"), text, "remove cpus, or set placement to random or burst")
    if max(machine.cpus) > 1 and FloodSource.DEVICE in _sources(scenario.flood):
        # Linux routes an SPI to its first CPU (drivers/irqchip/irq-gic-v3.c, gic_dist_init()).
        text = f"{label((*path, 'cpus'))}: a device interrupts the first CPU, and L2 has the last"
        yield Problem((*path, "cpus"), text, "remove cpus, or the source device")
    if ExceptionOrder.ASYNC_FIRST not in machine.exception_order:
        for key in _OF_ASYNC_FIRST:
            if key in machine.model_fields_set:
                text = f"{label((*path, key))}: means nothing without exception_order async_first"
                yield Problem((*path, key), text, f"remove {key}")
        return
    for pending in machine.pending:
        if text := _pending_problem(pending, machine, scenario.flood):
            yield Problem((*path, "pending"), f"{label((*path, 'pending'))}: {pending} {text}")


def _gic_problems(path: KeyPath, scenario: ScenarioTable) -> Iterator[Problem]:
    """What needs the GICv3: L2's handlers use its system registers, and so does the stub of
    ``async_first`` for its SGI."""
    machine = scenario.machine
    if 2 not in machine.gic_version:
        return
    at, remedy = (*path, "gic_version"), "make it a scenario of its own, of gic_version 3"
    if KvmMode.PROTECTED in machine.kvm_mode:
        # Linux arch/arm64/kvm/vgic/vgic-v2.c, vgic_v2_probe().
        yield Problem(at, f"{label(at)}: a protected KVM has no vgic for a GICv2", remedy)
    for source in _sources(scenario.flood):
        if source in INTO_GUEST:
            yield Problem(at, f"{label(at)}: {source} into L2 needs gic_version 3", remedy)
    if ExceptionOrder.ASYNC_FIRST in machine.exception_order and Pending.SGI in machine.pending:
        text = f"{label(at)}: async_first with pending sgi needs gic_version 3"
        yield Problem(at, text, "set pending to spurious or flood")
    if max(machine.cpus) > 1 and {*_FROM_OUTSIDE} & {*machine.pending}:
        # QEMU asks which CPU it is that writes, and dies where it is a debugger (hw/intc/arm_gic.c,
        # gic_get_current_cpu()).
        text = f"{label(at)}: a GICv2 of several CPUs takes no spi or ppi from outside"
        yield Problem(at, text, "remove cpus, or set gic_version to 3")


def _page_problems(
    path: KeyPath, scenario: ScenarioTable, kernels: Mapping[str, KernelTable]
) -> Iterator[Problem]:
    """A page size is chosen when a kernel is built."""
    if {*scenario.machine.page_kib} == {MachineSpec.page_kib}:
        return
    for name in scenario.kernels or kernels:
        if name in kernels and _is_ready(kernels[name]):
            text = f"{label(path)}: kernel {name!r} is built already, with the pages that it has"
            yield Problem(path, text, f"leave {name!r} out by kernels = […], or set page_kib to 4")


def _is_ready(kernel: KernelTable) -> bool:
    source = _source_table(kernel)
    return source.image is not None or _is_image_package(source)


def _sources(flood: FloodTable) -> Sequence[FloodSource]:
    return flood.each_of or flood.source


def _pending_problem(pending: Pending, machine: MachineTable, flood: FloodTable) -> str:
    if pending in _FROM_OUTSIDE and not machine.redirect_at:
        return "is for chosen instructions: name their labels in redirect_at"
    if pending is Pending.SGI and machine.redirect_at:
        return "is sent at every step; with redirect_at pending is spi, ppi or spurious"
    if pending is Pending.FLOOD and machine.redirect_at:
        return "can't go with redirect_at: the flood says which steps are redirected"
    if pending is Pending.FLOOD and flood.source == [FloodSource.NONE]:
        return "takes the flood's interrupts, and there is no flood"
    return _too_coarse(flood) if pending is Pending.FLOOD else ""


def _too_coarse(flood: FloodTable) -> str:
    few = "is hit in a few ns of a step only"
    if flood.placement is Placement.ADAPTIVE:
        return f"{few}: placement must be sweep"
    if flood.placement is Placement.SWEEP and flood.step_ns not in FINE:
        return f"{few}: the sweep's step_ns must be 1"
    return ""


# --- the matrix ----------------------------------------------------------------------------------

_Point = tuple[str, str, MachineSpec, FloodSpec, Driver, int]


def _duplicate_cells(file: CampaignFile, kernels: tuple[str, ...]) -> Iterator[Problem]:
    first: dict[tuple[str, _Point], int] = {}
    for index, scenario in enumerate(file.scenario):
        path: KeyPath = ("scenario", index)
        repeated: dict[tuple[str, int], dict[str, None]] = {}
        points = _points(scenario, file.campaign.seed)
        for cell in product(scenario.kernels or kernels, points):
            kernel, (payload, *_) = cell
            if cell in first:
                repeated.setdefault((payload, first[cell]), {})[kernel] = None
            first.setdefault(cell, index)
        for (payload, other), of in repeated.items():
            text = (
                f"{payload!r} is here twice for {listing(tuple(of))} with the same job, machine, "
                "flood, driver and seed"
            )
            elsewhere: KeyPath = () if other == index else ("scenario", other)
            remedy = "remove one, or make them differ"
            yield Problem(path, f"{label(path)}: {text}", remedy, elsewhere)


def _points(scenario: ScenarioTable, seed: int) -> Iterator[_Point]:
    for spec in scenario_specs(scenario):
        for payload, job, session, machine, drawn in product(
            spec.payloads, spec.jobs, spec.sessions, spec.machines, spec.seeds or (seed,)
        ):
            yield payload, session or job, machine, spec.flood, spec.driver, drawn
