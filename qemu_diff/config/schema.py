"""The shape of a campaign file: every key, its type and its default.

A kernel's ``source`` is written in one way each: a Debian package that this machine's apt offers as
the string ``"debian:PACKAGE"``, one of another suite as ``{ debian = PACKAGE, suite = SUITE }``;
everything that is a path as a table, ``{ tree = PATH }``, ``{ git = PATH_OR_URL, rev = REV }`` or
``{ image = PATH, vmlinux = PATH }``, since a path may hold any character.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qemu_diff.model import (
    DEFAULT_JOB,
    STOCK_QEMU,
    DebianSource,
    Driver,
    ExceptionOrder,
    Expectation,
    FloodSource,
    KvmMode,
    PairOf,
    Pending,
    Placement,
)

GIC_VERSIONS = (2, 3)

PAGE_SIZES_KIB = (4, 16, 64)
"""The translation granules (DDI 0487, D8.1.8)."""

NAME_CHARACTERS = "A-Z a-z 0-9 _ -"
NAME_LENGTH = 64
Name = Annotated[str, StringConstraints(pattern=rf"\A[A-Za-z0-9_-]{{1,{NAME_LENGTH}}}\z")]
"""Cell ids, directories and testcases are made of names: no dots, slashes or spaces."""

LONGEST_NS = 1_000_000_000
"""A second of virtual time: no step is longer, and delays are 32-bit words in a job."""

MOST_PASSES = 10_000
"""One boot's records hold so many passes of any payload that there is."""

MOST_SWEPT = 1_000_000
"""Passes of a sweep: more would take days, and the longest step that is known has 60,000 ns."""

MOST_CPUS = 8
"""CONFIG_NR_CPUS of guest_images/kconfig/l1.config."""

MOST_BURST = 8
"""``MOST_SHOTS`` of guest_images/stepvmm/timer.h."""

MOST_REDIRECTS = 1000
"""More than any case needs: a correct kernel makes no progress while its step is redirected."""

MOST_COST_CHANGE = 10.0
"""Eleven times the cost: no limit at all."""

_DEBIAN = re.compile(r"debian:(?P<package>[a-z0-9][a-z0-9.+-]+)")

_DEBIAN_WORD = re.compile(r"[a-z0-9][a-z0-9.+-]+")
"""A package's name (Debian Policy 5.6.1), or a suite's."""


def _choice(options: type[StrEnum]) -> BeforeValidator:
    def chosen(value: object) -> StrEnum:
        for option in options:
            if option == value:
                return option
        raise PydanticCustomError("choice", "not a choice", {"options": tuple(options)})

    return BeforeValidator(chosen)


def _one_of(numbers: tuple[int, ...]) -> AfterValidator:
    def chosen(value: int) -> int:
        if value in numbers:
            return value
        raise PydanticCustomError("choice", "not a choice", {"options": numbers})

    return AfterValidator(chosen)


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list) else [value]


KvmModeName = Annotated[KvmMode, _choice(KvmMode)]
ExceptionOrderName = Annotated[ExceptionOrder, _choice(ExceptionOrder)]
PendingName = Annotated[Pending, _choice(Pending)]
FloodSourceName = Annotated[FloodSource, _choice(FloodSource)]
DriverName = Annotated[Driver, _choice(Driver)]
ExpectationName = Annotated[Expectation, _choice(Expectation)]
MemoryMib = Annotated[int, Field(ge=64, le=65_536)]
CpuCount = Annotated[int, Field(ge=1, le=MOST_CPUS)]
GicVersion = Annotated[int, _one_of(GIC_VERSIONS)]
PageKib = Annotated[int, _one_of(PAGE_SIZES_KIB)]
Seed = Annotated[int, Field(ge=0)]
OneOrMany = BeforeValidator(_one_or_many)
ExpectationNames = Annotated[list[ExpectationName], Field(min_length=1), OneOrMany]


def _debian_word(value: str | None) -> str | None:
    if value is not None and not _DEBIAN_WORD.fullmatch(value):
        raise PydanticCustomError("debian_word", "no name of a package or suite")
    return value


class Table(BaseModel):
    """A TOML table: unknown keys are errors, and no value is converted to fit a type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CampaignTable(Table):
    """``[campaign]``

    :param seed: all random placements derive from it.
    :param budget_s: wall-clock seconds that one boot may take.
    :param findings: whether what is found is confirmed from a fresh boot, and kept to be replayed.
    :param cost_change: by how much of its baseline's cost per step a candidate's may differ.
    """

    name: Name
    seed: Seed = 1
    budget_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0
    findings: bool = True
    cost_change: Annotated[float, Field(gt=0, le=MOST_COST_CHANGE)] | None = None


class SourceTable(Table):
    """``source`` as a table: a ``tree``, or a repository of ``git`` and a ``rev``, or an ``image``
    and perhaps its ``vmlinux``, or a package of Debian and its ``suite``."""

    tree: str | None = None
    git: str | None = None
    rev: str | None = None
    image: str | None = None
    vmlinux: str | None = None
    debian: str | None = None
    suite: str | None = None

    @field_validator("debian", "suite")
    @classmethod
    def _word(cls, value: str | None) -> str | None:
        return _debian_word(value)

    @model_validator(mode="after")
    def _exactly_one(self) -> SourceTable:
        if self.git is not None:
            others = (self.tree, self.image, self.vmlinux, self.debian, self.suite)
            if any(one is not None for one in others):
                raise PydanticCustomError("source_git", "git beside another source")
            return self
        if self.rev is not None:
            raise PydanticCustomError("source_rev", "rev without git")
        if self.tree is self.image is self.debian is None:
            raise PydanticCustomError("source_none", "neither tree nor image nor package")
        if self.tree is not None and (self.image is not None or self.vmlinux is not None):
            raise PydanticCustomError("source_both", "tree beside image or vmlinux")
        of_path = (self.tree, self.image, self.vmlinux) != (None, None, None)
        if of_path and (self.debian is not None or self.suite is not None):
            raise PydanticCustomError("source_debian", "a package beside a path")
        return self


class KernelTable(Table):
    """``[kernels.NAME]``

    :param reverts: of a repository: commits that are taken out, in this order.
    :param patches: applied in this order, after that.
    :param kconfig: fragments, merged in this order.
    :param optional: where the source can't be had, the kernel's cells are skipped.
    """

    source: DebianSource | SourceTable
    reverts: list[str] = []
    patches: list[str] = []
    kconfig: list[str] = []
    optional: bool = False

    @field_validator("source", mode="plain")
    @classmethod
    def _string_or_table(cls, value: object) -> DebianSource | SourceTable:
        if isinstance(value, dict):
            return SourceTable.model_validate(value)
        if isinstance(value, str) and (match := _DEBIAN.fullmatch(value)):
            return DebianSource(match["package"])
        raise PydanticCustomError("source_form", "neither a Debian package nor a table")


class QemuTable(Table):
    """``[qemu.NAME]``: an L0 QEMU beside the one on ``PATH``.

    :param program: a path, or a name on ``PATH``.
    :param suite: instead: the Debian suite whose QEMU is fetched into the cache.
    :param optional: where it can't be had, its cells are skipped.
    """

    program: Annotated[str, Field(min_length=1)] | None = None
    suite: str | None = None
    optional: bool = False

    @field_validator("suite")
    @classmethod
    def _suite(cls, value: str | None) -> str | None:
        return _debian_word(value)

    @model_validator(mode="after")
    def _exactly_one(self) -> QemuTable:
        if (self.program is None) == (self.suite is None):
            raise PydanticCustomError("qemu_source", "not one of program and suite")
        return self


class ExcludeTable(Table):
    """``[[exclude]]``: cells that are not run.

    :param cells: a glob over their ids.
    """

    cells: Annotated[str, Field(min_length=1)]
    reason: Annotated[str, StringConstraints(pattern=r"\A[^\r\n]*[^\s][^\r\n]*\z")]


class PairTable(Table):
    """``[[pair]]``: two kernels by name, two drivers, or two L0 QEMUs."""

    baseline: str
    candidate: str
    of: Annotated[PairOf, _choice(PairOf)] = PairOf.KERNEL


class FloodTable(Table):
    """``flood``: see :class:`qemu_diff.model.FloodSpec`.

    :param source: several are mixed: each step draws one.
    :param each_of: several floods of one source each, which multiply into the matrix.
    """

    each_of: Annotated[list[FloodSourceName], Field(min_length=1)] | None = None
    source: Annotated[list[FloodSourceName], Field(min_length=1), OneOrMany] = [FloodSource.NONE]
    placement: Annotated[Placement, _choice(Placement)] = Placement.NONE
    first_ns: Annotated[int, Field(ge=0, le=LONGEST_NS)] = 0
    last_ns: Annotated[int, Field(ge=0, le=LONGEST_NS)] | None = None
    step_ns: Annotated[int, Field(ge=1, le=LONGEST_NS)] | None = None
    count: Annotated[int, Field(ge=1, le=MOST_PASSES)] | None = None
    period_ns: Annotated[int, Field(ge=1, le=LONGEST_NS)] | None = None
    burst: Annotated[int, Field(ge=2, le=MOST_BURST)] | None = None


class MachineTable(Table):
    """``machine``: lists multiply into the matrix; but ``redirect_at`` is one list of labels."""

    kvm_mode: Annotated[list[KvmModeName], Field(min_length=1), OneOrMany] = [KvmMode.VHE]
    cpu: Annotated[list[Name], Field(min_length=1), OneOrMany] = ["max"]
    memory_mib: Annotated[list[MemoryMib], Field(min_length=1), OneOrMany] = [256]
    cpus: Annotated[list[CpuCount], Field(min_length=1), OneOrMany] = [1]
    gic_version: Annotated[list[GicVersion], Field(min_length=1), OneOrMany] = [3]
    page_kib: Annotated[list[PageKib], Field(min_length=1), OneOrMany] = [4]
    qemu: Annotated[list[Name], Field(min_length=1), OneOrMany] = [STOCK_QEMU]
    exception_order: Annotated[list[ExceptionOrderName], Field(min_length=1), OneOrMany] = [
        ExceptionOrder.TCG
    ]
    pending: Annotated[list[PendingName], Field(min_length=1), OneOrMany] = [Pending.SGI]
    redirects: Annotated[int, Field(ge=1, le=MOST_REDIRECTS)] = 1
    redirect_at: Annotated[list[str], OneOrMany] = []
    nested_qemu: Annotated[list[Name], Field(min_length=1), OneOrMany] = [""]


class ScenarioTable(Table):
    """``[[scenario]]``

    :param job: files in ``guest_images/jobs``, without ``.job``.
    :param session: files in ``guest_images/sessions``, without ``.gdb``.
    :param driver: several multiply into the matrix.
    :param expect: kernel → payload, or ``payload/job`` → what must be seen; everything else must
        pass.
    :param kernels: those that it is for; all where the key is not there.
    :param seeds: each makes cells of its own; the campaign's alone where the key is not there.
    """

    payload: Annotated[list[str], Field(min_length=1), OneOrMany]
    job: Annotated[list[str], Field(min_length=1), OneOrMany] = [DEFAULT_JOB]
    flood: FloodTable = FloodTable()
    machine: MachineTable = MachineTable()
    session: Annotated[list[str], Field(min_length=1), OneOrMany] = [""]
    driver: Annotated[list[DriverName], Field(min_length=1), OneOrMany] = [Driver.IN_GUEST]
    kernels: Annotated[list[str], Field(min_length=1), OneOrMany] = []
    expect: dict[str, dict[str, ExpectationNames]] = {}
    seeds: Annotated[list[Seed], Field(min_length=1), OneOrMany] = []


class DefaultsTable(Table):
    """``[defaults]``: what scenarios have that don't say otherwise themselves. Of ``machine`` and
    ``flood`` each key is a default of its own."""

    machine: MachineTable = MachineTable()
    flood: FloodTable = FloodTable()
    driver: Annotated[list[DriverName], Field(min_length=1), OneOrMany] = [Driver.IN_GUEST]
    kernels: Annotated[list[str], Field(min_length=1), OneOrMany] = []


class CampaignFile(Table):
    """A whole campaign file.

    :param include: other campaign files, which this one begins with.
    """

    campaign: CampaignTable
    include: list[str] = []
    defaults: DefaultsTable = DefaultsTable()
    kernels: dict[Name, KernelTable] = {}
    qemu: dict[Name, QemuTable] = {}
    pair: list[PairTable] = []
    scenario: list[ScenarioTable] = []
    exclude: list[ExcludeTable] = []


def keys_of(table: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys that may stand in the table at a key path of a campaign file."""
    shape: type[Table] = CampaignFile
    parts = iter(table)
    for part in parts:
        annotation = shape.model_fields[str(part)].annotation
        if get_origin(annotation) in (dict, list):
            next(parts)  # a kernel's name or an element's number: any stands for the same shape
        shape = _table_in(annotation)
    return tuple(shape.model_fields)


def _table_in(annotation: object) -> type[Table]:
    """The one table class that an annotation such as ``list[PairTable]`` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next(_table_in(part) for part in get_args(annotation) if _mentions_table(part))


def _mentions_table(annotation: object) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return True
    return any(_mentions_table(part) for part in get_args(annotation))
