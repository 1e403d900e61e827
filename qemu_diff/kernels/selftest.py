"""The kernel's own single-step test: KVM's selftest ``debug-exceptions``, from the tree at hand.

It comes from the source that a campaign's kernel comes from, is linked statically, and is kept in
the cache by content. A kernel's patches count only where they change the test or its headers: the
variants of one source are judged by one and the same program.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ..errors import InfrastructureError, KernelBuildError
from ..events import Stage, stage
from ..model import DebianSource, ImageSource, KernelSource, KernelSpec
from ..scratch import scratch_directory
from . import cache, patch, toolchain
from .series import read_patches
from .source import ResolvedSource, SourceCode, resolve
from .tree import IsolatedTree

#: Part of every key: to be counted up when a change in this module gives another program.
RECIPE = 1

PROGRAM = "debug-exceptions"

_SELFTESTS = Path("tools/testing/selftests/kvm")

# arm64's directory was renamed after v6.12.
_ARCHITECTURES = ("aarch64", "arm64")

# Before Linux kernel commit b18e4d4aebdd ("KVM: arm64: selftests: Add a test case for
# KVM_GUESTDBG_SINGLESTEP") (in v6.1) the program does not step, ignores its arguments, and passes.
_STEPS = "KVM_GUESTDBG_SINGLESTEP"

# Files that the program is made from, as a patch names them.
_CONCERNS_TEST = re.compile(
    rb"^(?:(?:---|\+\+\+) [^/\s]+/|(?:rename|copy) (?:from|to) )"
    rb"(?:Makefile|tools/|scripts/|usr/|include/uapi/|include/asm-generic/"
    rb"|arch/arm64/(?:Makefile|tools/|include/uapi/))",
    re.MULTILINE,
)

# The first that is wrong, as gcc and ld, and then make, word it.
_ERRORS = (
    re.compile(r"^.*(?:\berror: |undefined reference to|cannot find -l).*$", re.MULTILINE),
    re.compile(r"^make.*\*\*\* .*$", re.MULTILINE),
)

_INHERITED = ("PATH", "HOME", "TMPDIR")


@dataclass(frozen=True)
class Selftest:
    """The test, ready to be run in L1.

    :param kernel: the kernel whose source it comes from.
    :param key: of its content in the cache: equal keys, the same program.
    :param program: a static aarch64 ELF file.
    :param duration_s: wall-clock seconds that it took to build or find.
    """

    kernel: str
    key: str
    program: Path
    cached: bool
    duration_s: float


@dataclass(frozen=True)
class NoSelftest:
    """A kernel whose source has no such test.

    :param reason: why, in one line.
    """

    kernel: str
    reason: str


class _Make(NamedTuple):
    """Where make works."""

    source: Path
    objects: Path
    jobs: int


def build_selftest(spec: KernelSpec, *, jobs: int | None = None) -> Selftest | NoSelftest:
    """Build the test from a kernel's source, or find it in the cache.

    :param jobs: compilers to run at once; by default one for each CPU that we may use.
    :raise SourceError: the source is not there, or not a kernel.
    :raise PatchError: a patch that changes the test does not apply.
    :raise MissingToolError: a program is missing.
    :raise UserError: a patch can't be read; the cache can't be written to.
    :raise KernelBuildError: the compiler refused: the source is the user's.
    :raise InfrastructureError: no space is left.
    """
    if (origin := _source_code(spec.source)) is None:
        return NoSelftest(spec.name, "an image that is built already comes without its source")
    with stage("selftest", spec.name) as running:
        started = time.monotonic()
        source = resolve(origin, spec.reverts)
        patches = _patches_of_test(spec)
        # What a user's tree holds is only known once it is copied.
        ready = _find(spec, _key(source.identity, patches)) if source.identity else None
        made: Selftest | NoSelftest | None = ready
        if made is None:
            with cache.disk_errors(), cache.lineage_lock(source.lineage):
                made = _build_locked(spec, source, patches, jobs, running)
        if isinstance(made, NoSelftest):
            return made
        return replace(made, duration_s=time.monotonic() - started)


def _source_code(source: KernelSource) -> SourceCode | None:
    """The source, unless it is a kernel that is built already."""
    if isinstance(source, ImageSource) or (
        isinstance(source, DebianSource) and source.package.startswith("linux-image-")
    ):
        return None
    return source


def _patches_of_test(spec: KernelSpec) -> tuple[patch.Patch, ...]:
    """All patches if one of them changes the test, or else none: they build on each other."""
    patches = read_patches(spec.patches)
    return patches if any(_CONCERNS_TEST.search(one.content) for one in patches) else ()


def _key(identity: str, patches: tuple[patch.Patch, ...]) -> str:
    parts = [str(RECIPE), identity, *toolchain.toolchain_identity()]
    parts += [sha256(one.content).hexdigest() for one in patches]
    return sha256("\0".join(parts).encode()).hexdigest()[:20]


def _directory() -> Path:
    return cache.cache_directory("guest/selftests")


def _find(spec: KernelSpec, key: str) -> Selftest | None:
    program = _directory() / key / PROGRAM
    return Selftest(spec.name, key, program, True, 0.0) if program.is_file() else None


# --- with the tree's lock held -------------------------------------------------------------------


def _build_locked(
    spec: KernelSpec,
    source: ResolvedSource,
    patches: tuple[patch.Patch, ...],
    jobs: int | None,
    running: Stage,
) -> Selftest | NoSelftest:
    tree = IsolatedTree(source.lineage)
    running.progress("preparing the source")
    key = _key(source.prepare(tree), patches)
    if (ready := _find(spec, key)) is not None:
        return ready
    toolchain.require()
    tree.switch(patch.patched(patches, tree, source.overlay))
    text = _find_text(tree.source)
    if text is None:
        return NoSelftest(spec.name, f"its source has no KVM selftest {PROGRAM}")
    if _STEPS not in text.read_text(errors="replace"):
        return NoSelftest(spec.name, f"its KVM selftest {PROGRAM} does not step: older than v6.1")
    architecture = text.parent.name
    with scratch_directory(_directory()) as objects:
        make = _Make(tree.source, objects, jobs or len(os.sched_getaffinity(0)))
        running.progress("compiling")
        _compile(make, architecture, spec.name, key)
        program = _publish(make.objects / architecture / PROGRAM, key)
    return Selftest(spec.name, key, program, False, 0.0)


def _find_text(source: Path) -> Path | None:
    """The test's own source in a tree."""
    places = (source / _SELFTESTS / name / f"{PROGRAM}.c" for name in _ARCHITECTURES)
    return next((place for place in places if place.is_file()), None)


def _compile(make: _Make, architecture: str, kernel: str, key: str) -> None:
    target = make.objects / architecture / PROGRAM
    common = ["make", "--silent", f"--jobs={make.jobs}", "ARCH=arm64"]
    common.append(f"CROSS_COMPILE={toolchain.CROSS_COMPILE}")
    steps = (
        # The test is written against this tree's user-space headers, not the C library's.
        [*common, f"--directory={make.source}", f"O={make.objects / 'headers'}", "headers"],
        [
            *(*common, f"--directory={make.source / _SELFTESTS}", f"OUTPUT={make.objects}"),
            # Below it, in tools/, newer trees generate headers; by default in the source.
            f"abs_objdir={make.objects}",
            f"KHDR_INCLUDES=-isystem {make.objects / 'headers/usr/include'}",
            # Debugging information names no scratch directory: the same key, the same program.
            f"EXTRA_CFLAGS=-ffile-prefix-map={make.objects}/= -ffile-prefix-map={make.source}/=",
            # L1 has no dynamic linker. The last two are the Makefile's own, which this overrides.
            *("LDFLAGS=-static -pthread -no-pie", str(target)),
        ],
    )
    for name in ("headers", "tools"):
        (make.objects / name).mkdir()
    output = ""
    for command in steps:
        done = subprocess.run(
            command, capture_output=True, check=False, env=_environment(), stdin=subprocess.DEVNULL
        )
        output += (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode:
            raise _build_error(output, make.source, kernel, key)


def _environment() -> dict[str, str]:
    """The rest of the user's may steer a build: ARCH, CFLAGS, MAKEFLAGS."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "LC_ALL": "C"}


def _build_error(
    output: str, source: Path, kernel: str, key: str
) -> KernelBuildError | InfrastructureError:
    if "No space left on device" in output:
        return InfrastructureError(cache.no_space_message())
    log = cache.cache_directory("failed") / f"{key}.log"
    log.write_text(output)
    first = first_error(output).replace(f"{source}/", "")
    return KernelBuildError(
        f"the selftest {PROGRAM} of kernel {kernel!r} does not build: {first}", log
    )


def first_error(output: str) -> str:
    """The line of a build's output that says what went wrong."""
    for pattern in _ERRORS:
        if found := pattern.search(output):
            return found[0].strip()
    return "make failed"


def _publish(program: Path, key: str) -> Path:
    """Put the program into the cache, complete or not at all."""
    target = _directory() / key / PROGRAM
    target.parent.mkdir(exist_ok=True)
    with scratch_directory(target.parent) as scratch:
        whole = scratch / PROGRAM
        shutil.copyfile(program, whole)
        return whole.rename(target)
