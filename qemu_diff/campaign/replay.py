"""A finding seen again: the same job on the same kernel, bit for bit where that can be."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qemu_diff.campaign.confirm import portable_argv
from qemu_diff.campaign.finding_directory import FindingRecord, StoredFinding
from qemu_diff.campaign.fresh_boot import Bench, FreshBoot, fresh_boot
from qemu_diff.compare.decode import program_of
from qemu_diff.drive.async_first import plan_of
from qemu_diff.drive.in_guest import Tools
from qemu_diff.errors import CompileError, InfrastructureError, ResultsError, UserError
from qemu_diff.guest.host_qemu import qemu_of
from qemu_diff.guest.host_qemu import source_words as qemu_words
from qemu_diff.guest.image import read_stepvmm
from qemu_diff.guest.process import ARGV
from qemu_diff.guest.qemu import Qemu, check_cpu, find_qemu
from qemu_diff.kernels import build_kernel, cached_build, given_build, image_build
from qemu_diff.model import Build, Finding, GitSource, ImageSource, KernelSpec, TreeSource
from qemu_diff.truth.plugin import prepare_plugin

_QEMU_NAME = re.compile(r"qemu-system-[\w.-]+")
"""A program that is looked for on ``PATH``."""


@dataclass(frozen=True)
class KernelChoice:
    """Where a finding's kernel may come from, besides the cache.

    Parameters
    ----------
    image
        The kernel to boot; default: the finding's own, from the cache.
    vmlinux
        The vmlinux of --image: without it nothing in L1's kernel has a name.
    build
        Build the finding's kernel from its source and its patches where the cache lacks it.
    """

    image: Path | None = None
    vmlinux: Path | None = None
    build: bool = False


class Outcome(StrEnum):
    """What a replay came to."""

    IDENTICAL = "identical"
    """Bit for bit what the finding recorded."""
    SAME_SIGNATURE = "same-signature"
    NOT_REPRODUCED = "not-reproduced"


@dataclass(frozen=True)
class Replay:
    """One replay.

    :param fingerprint: of what it recorded.
    :param finding: what it showed of the signature.
    :param differs: in what the surroundings are not those of the finding.
    """

    outcome: Outcome
    fingerprint: str
    finding: Finding | None
    differs: tuple[str, ...]


def replay(
    stored: StoredFinding, choice: KernelChoice, directory: Path, guest_images: Path, cache: Path
) -> Replay:
    """Boot a finding's job again.

    :param directory: gets the boot's files.
    :raises UserError: its kernel is not there, or this QEMU has no such CPU.
    :raises LostGuestError: it did not come to its end, so that nothing can be said.
    :raises InfrastructureError: QEMU can't be started.
    """
    bench = bench_of(stored, choice, guest_images, cache)
    done = fresh_boot(bench, stored.job, directory)
    record = stored.record
    finding = done.finding(record.cell, bench.payload, record.signature)
    identical = done.fingerprint == record.fingerprint
    outcome = (
        Outcome.NOT_REPRODUCED
        if finding is None
        else Outcome.IDENTICAL
        if identical
        else Outcome.SAME_SIGNATURE
    )
    differs = () if identical else _differences(stored, bench, done)
    return Replay(outcome, done.fingerprint, finding, differs)


def bench_of(stored: StoredFinding, choice: KernelChoice, guest_images: Path, cache: Path) -> Bench:
    """What it takes to boot a finding's job: its own step VMM and payload, this machine's QEMU.

    :raises UserError: as :func:`replay`.
    :raises ResultsError: its payload or its step VMM is none.
    """
    record = stored.record
    qemu, _ = _qemu(record)
    check_cpu(qemu, record.cell.machine.cpu)
    try:
        program_of(record.payload)
        stepvmm = read_stepvmm(stored.stepvmm)
    except CompileError as error:
        raise ResultsError(f"{stored.directory}: {error}") from error
    plan_of(record.cell.machine, record.payload, guest_images, cache)
    build = kernel_of(stored, choice)
    tools = Tools(qemu, prepare_plugin(qemu, guest_images, cache), stepvmm, guest_images, cache)
    return Bench(record.cell, build, record.payload, tools, record.budget_s, threading.Event())


def _qemu(record: FindingRecord) -> tuple[Qemu, str]:
    """The finding's QEMU; or the one on ``PATH``, and why it is not the finding's."""
    spec = record.qemu_spec
    if spec is None:
        return find_qemu(), ""
    if spec.program and not _QEMU_NAME.fullmatch(spec.program):
        # Whoever sent the finding may have sent the program, too.
        why = "a finding may not name a program by its path; set QEMU_DIFF_QEMU"
        return find_qemu(), f"QEMU {spec.name} ({spec.program}) is not used: {why}"
    try:
        return qemu_of(spec), ""
    except (UserError, InfrastructureError) as error:
        where = f"QEMU {spec.name} ({qemu_words(spec)})"
        return find_qemu(), f"{where} can't be had here: {error}"


def kernel_of(stored: StoredFinding, choice: KernelChoice) -> Build:
    """The finding's kernel.

    :raises UserError: it is not in the cache, nor anywhere that was named.
    """
    kernel = stored.record.kernel
    if choice.vmlinux is not None and choice.image is None:
        raise UserError("--vmlinux: goes with --image, the kernel that it belongs to")
    if choice.image is not None:
        return given_build(kernel.name, choice.image, choice.vmlinux)
    found = cached_build(kernel.key, kernel.name)
    if found is None and isinstance(kernel.source, ImageSource):
        found = image_build(kernel.key, kernel.name, kernel.source)
    if found is not None:
        return found
    what = f"kernel {kernel.name} ({kernel.release}, key {kernel.key})"
    if isinstance(kernel.source, ImageSource):
        raise UserError(
            f"{what}: {kernel.source.image} is not there, or another one; name it with --image"
        )
    if not choice.build:
        made = "; its patches run what they like while it is built" if kernel.patches else ""
        raise UserError(
            f"{what} is not in the cache; --build makes it of {source_words(stored)}{made}"
        )
    return build_kernel(spec_of(stored))


def spec_of(stored: StoredFinding) -> KernelSpec:
    """The kernel's specification, with the patches that the finding holds."""
    kernel = stored.record.kernel
    return KernelSpec(
        kernel.name,
        kernel.source,
        tuple(stored.directory.absolute() / one.file for one in kernel.patches),
        tuple(stored.directory.absolute() / one.file for one in kernel.kconfig),
        reverts=kernel.reverts,
    )


def source_words(stored: StoredFinding) -> str:
    """``debian:linux-source-6.1 + unpatched.patch``."""
    kernel = stored.record.kernel
    source = kernel.source
    if isinstance(source, TreeSource):
        base = str(source.path)
    elif isinstance(source, GitSource):
        base = f"{source.repository} {source.rev}"
        base += "".join(f" without {rev}" for rev in kernel.reverts)
    elif isinstance(source, ImageSource):
        base = str(source.image)
    else:
        base = f"debian:{source.package}" + (f" of {source.suite}" if source.suite else "")
    return " + ".join([base, *(one.name for one in (*kernel.patches, *kernel.kconfig))])


def _differences(stored: StoredFinding, bench: Bench, done: FreshBoot) -> tuple[str, ...]:
    record, tools = stored.record, bench.tools
    found = []
    if missing := _qemu(record)[1]:
        found.append(missing)
    if tools.qemu.identity != record.qemu_identity:
        found.append(f"QEMU is another binary: {tools.qemu.version}, was {record.qemu}")
    if bench.build.key != record.kernel.key:
        found.append(f"the kernel is another: key {bench.build.key}, was {record.kernel.key}")
    if tools.plugin.rule.value != record.phantom_rule:
        found.append(f"the phantom rule is {tools.plugin.rule}, was {record.phantom_rule}")
    if record.cell.machine.redirect_at:
        found.append("a debugger takes part in this machine, and its stops take time")
    if ARGV in stored.files:
        now = portable_argv((done.directory / ARGV).read_text(), done.directory, bench)
        if now != (stored.directory / ARGV).read_text():
            found.append("QEMU's command line is another: this qemu-diff builds it differently")
    return tuple(found)


def replay_sentences(stored: StoredFinding, done: Replay) -> list[str]:
    """What a replay came to, in words."""
    record = stored.record
    if done.outcome is Outcome.IDENTICAL:
        first = f"reproduced bit for bit: fingerprint {done.fingerprint}"
    elif done.outcome is Outcome.SAME_SIGNATURE:
        first = (
            "reproduced with the same signature, but not bit for bit: fingerprint "
            f"{done.fingerprint}, was {record.fingerprint}"
        )
    else:
        first = f"not reproduced: no {record.signature.kind} with this signature came out"
    unknown = "nothing that is known of differs: please report this"
    why = done.differs or ((unknown,) if done.outcome is not Outcome.IDENTICAL else ())
    return [f"{record.id}: {first}", *(f"  {one}" for one in why)]
