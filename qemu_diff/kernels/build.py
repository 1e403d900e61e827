"""A kernel variant: from its specification to an entry in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import Timeout

from ..errors import (
    InfrastructureError,
    KernelBuildError,
    QemuDiffError,
    SourceError,
    UnavailableSourceError,
)
from ..events import Stage, stage
from ..model import Build, DebianSource, ImageSource, KernelSource, KernelSpec
from . import cache, debian_image, image, kconfig, make, patch, toolchain
from .series import read_patches
from .source import ResolvedSource, resolve, source_identity
from .tree import IsolatedTree

#: Part of every key: to be counted up when a change in this package gives another image for the
#: same ingredients.
RECIPE = 1

#: Steps of a build of linux-source-6.1 with our fragment alone; only the progress display needs it.
_TYPICAL_STEPS = 705

#: Of what the compiler says, so many lines are told: what follows is mostly of the same cause.
_MOST_LINES = 3

# What is wrong, as gcc, Kconfig, ld and make word it: only the first that says anything counts.
_ERRORS = (
    re.compile(r"^.*\b(?:fatal )?error: .*$", re.MULTILINE),
    re.compile(r"^\S*Kconfig\S*:\d+: .*$", re.MULTILINE),
    re.compile(r"^.*(?:undefined reference to|multiple definition of).*$", re.MULTILINE),
    re.compile(r"^make.*\*\*\* (?!\[.*Error|Waiting).*$", re.MULTILINE),
    re.compile(r"^make.*\*\*\* .*$", re.MULTILINE),
)
_NO_HEADER = re.compile(r"fatal error: (?P<header>\S+): No such file or directory")


@dataclass(frozen=True)
class Ingredients:
    """All that decides what a kernel comes out as, but for its source."""

    spec: KernelSpec
    patches: tuple[patch.Patch, ...]
    own: kconfig.Fragment
    users: tuple[kconfig.Fragment, ...]
    toolchain: tuple[str, ...]

    @property
    def fragments(self) -> tuple[kconfig.Fragment, ...]:
        """Later ones win."""
        return (self.own, *self.users)

    @property
    def objects_name(self) -> str:
        """Name of the directory of objects: variants that differ in patches alone share one."""
        return _digest([kconfig.merge(self.fragments), self.toolchain])[:12]


def kernel_key(spec: KernelSpec) -> str:
    """The cache key of a kernel: equal keys, equal kernels.

    :raise UserError: as :func:`build_kernel`, short of building.
    """
    wanted = _ready_image(spec.source)
    if isinstance(wanted, ImageSource):
        return image.source_key(wanted)
    ingredients = _gather(spec)
    return _key(source_identity(resolve(wanted, spec.reverts)), ingredients)


def build_kernel(spec: KernelSpec, *, jobs: int | None = None) -> Build:
    """Build a kernel, or find it in the cache.

    :param jobs: compilers to run at once; by default one for each CPU that we may use.
    :raise SourceError: the source is not there, or not a kernel.
    :raise UnavailableSourceError: the source can't be had here.
    :raise PatchError: a patch does not apply.
    :raise MissingToolError: a program is missing.
    :raise KconfigError: an option that is needed or asked for did not come out.
    :raise UserError: a fragment can't be read; the cache can't be written to.
    :raise KernelBuildError: the compiler refused.
    :raise InfrastructureError: no space is left.
    """
    excused = (UnavailableSourceError,) if spec.optional else ()
    with stage("kernel", spec.name, excused=excused) as running:
        started = time.monotonic()
        running.progress("finding the source")
        wanted = _ready_image(spec.source)
        if isinstance(wanted, ImageSource):
            _refuse_changes(spec)
            return replace(image.ready_build(spec.name, wanted), source=_image_words(spec, wanted))
        ingredients = _gather(spec)
        source = resolve(wanted, spec.reverts)
        metadata = _find_ready(source, ingredients)
        cached = metadata is not None
        if metadata is None:
            with cache.disk_errors(), _locked(source.lineage, running):
                metadata, cached = _build_locked(source, ingredients, jobs, running)
        cache.note_use(metadata, spec.name)
        words = " + ".join([source.words, *_changes(ingredients)])
        return replace(_as_build(spec, metadata, cached, time.monotonic() - started), source=words)


def _ready_image(source: KernelSource) -> KernelSource:
    """The source, with the kernel of an image package in the package's place."""
    if isinstance(source, DebianSource) and debian_image.is_image(source):
        return debian_image.locate(source)
    return source


def _image_words(spec: KernelSpec, image_source: ImageSource) -> str:
    package = spec.source
    if isinstance(package, DebianSource):
        # The cache names a package's kernel by its version: NAME_VERSION.vmlinuz.
        version = image_source.image.stem.rpartition("_")[2]
        return f"debian {package.package} {version} of {package.suite}"
    return f"image {image_source.image}"


def _changes(ingredients: Ingredients) -> list[str]:
    """What a kernel has beyond its source, in words."""
    counted = (
        (len(ingredients.patches), "patch", "patches"),
        (len(ingredients.users), "fragment", "fragments"),
    )
    return [f"{count} {one if count == 1 else many}" for count, one, many in counted if count]


def _refuse_changes(spec: KernelSpec) -> None:
    if spec.patches or spec.kconfig or spec.reverts:
        raise SourceError(
            f"kernel {spec.name!r}: an image is built already; "
            "patches, reverts and kconfig fragments need a source"
        )


def _gather(spec: KernelSpec) -> Ingredients:
    return Ingredients(
        spec=spec,
        patches=read_patches(spec.patches),
        own=kconfig.read_fragment(kconfig.own_fragment()),
        users=tuple(kconfig.read_fragment(path) for path in spec.kconfig),
        toolchain=toolchain.toolchain_identity(),
    )


def _key(identity: str, ingredients: Ingredients) -> str:
    patches = [_sha256(entry.content) for entry in ingredients.patches]
    fragments = kconfig.merge(ingredients.fragments)
    return _digest([RECIPE, identity, patches, fragments, ingredients.toolchain])[:20]


def _digest(content: object) -> str:
    return _sha256(json.dumps(content).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _find_ready(source: ResolvedSource, ingredients: Ingredients) -> cache.KernelMetadata | None:
    """A kernel that is in the cache, as far as that can be told without a lock."""
    if source.identity is None:
        return None
    return cache.find(_key(source.identity, ingredients))


def _as_build(
    spec: KernelSpec, metadata: cache.KernelMetadata, cached: bool, duration_s: float
) -> Build:
    directory = cache.entry_directory(metadata.key)
    return Build(
        kernel=spec.name,
        key=metadata.key,
        image=directory / "Image",
        vmlinux=directory / "vmlinux",
        config=directory / "config",
        log=directory / "build.log",
        release=metadata.release,
        cached=cached,
        duration_s=duration_s,
    )


@contextmanager
def _locked(lineage: str, running: Stage) -> Iterator[None]:
    lock = cache.lineage_lock(lineage)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        running.progress("waiting for another build in the same source tree")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# --- with the tree's lock held -------------------------------------------------------------------


def _build_locked(
    source: ResolvedSource, ingredients: Ingredients, jobs: int | None, running: Stage
) -> tuple[cache.KernelMetadata, bool]:
    """The kernel, and whether it was in the cache after all."""
    tree = IsolatedTree(source.lineage)
    running.progress("preparing the source")
    identity = source.prepare(tree)
    key = _key(identity, ingredients)
    if (ready := cache.find(key)) is not None:
        return ready, True
    toolchain.require()
    tree.switch(patch.patched(ingredients.patches, tree, source.overlay))
    began = time.monotonic()
    run = make.MakeRun(
        source=tree.source,
        objects=tree.directory / "objects" / ingredients.objects_name,
        output=tree.directory / "output",
        jobs=jobs or len(os.sched_getaffinity(0)),
    )
    dropped = _configure(tree, run, key, ingredients, running)
    _compile(run, key, ingredients.spec.name, running)
    metadata = cache.KernelMetadata(
        key=key,
        names=(ingredients.spec.name,),
        release=(run.objects / "include/config/kernel.release").read_text().strip(),
        lineage=source.lineage,
        source=identity,
        patches=tuple((p.name, _sha256(p.content)) for p in ingredients.patches),
        fragments=tuple((f.path.name, f.sha256) for f in ingredients.fragments),
        toolchain=ingredients.toolchain,
        dropped=dropped,
        build_s=time.monotonic() - began,
    )
    return cache.publish(metadata, _results(run)), False


def _results(run: make.MakeRun) -> dict[str, Path | bytes]:
    return {
        "Image": run.objects / "arch/arm64/boot/Image",
        "vmlinux": run.objects / "vmlinux",
        "config": run.objects / ".config",
        "build.log": run.log,
    }


def _configure(
    tree: IsolatedTree,
    run: make.MakeRun,
    key: str,
    ingredients: Ingredients,
    running: Stage,
) -> tuple[str, ...]:
    """Put a ``.config`` into the objects; return the options of our own that did not come out.

    It is made elsewhere and only put there when it differs, so that its time tells make the truth.
    """
    running.progress("configuring")
    elsewhere = make.MakeRun(run.source, tree.directory / "kconfig", run.output, run.jobs)
    content = _configured(elsewhere, tree, key, ingredients, ingredients.fragments)
    if kconfig.parse_config(content.decode()).get("CONFIG_KVM") != "y":
        companion = kconfig.read_fragment(kconfig.companion_fragment())
        fragments = (ingredients.own, companion, *ingredients.users)
        content = _configured(elsewhere, tree, key, ingredients, fragments)
    config = kconfig.parse_config(content.decode())
    dropped = kconfig.check(ingredients.spec.name, ingredients.own, ingredients.users, config)
    run.objects.mkdir(parents=True, exist_ok=True)
    target = run.objects / ".config"
    if not target.exists() or target.read_bytes() != content:
        cache.replace_file(target, content)
    return dropped


def _configured(
    run: make.MakeRun,
    tree: IsolatedTree,
    key: str,
    ingredients: Ingredients,
    fragments: tuple[kconfig.Fragment, ...],
) -> bytes:
    """The ``.config`` that fragments come to."""
    merged = tree.directory / "merged.config"
    merged.write_text(kconfig.merge(fragments))
    if not make.configure(run, merged):
        raise _build_error(ingredients.spec.name, "the configuration failed", run, key)
    return (run.objects / ".config").read_bytes()


def _compile(run: make.MakeRun, key: str, name: str, running: Stage) -> None:
    warm = run.warm
    steps = 0

    def on_step(target: str) -> None:
        nonlocal steps
        steps += 1
        running.progress(target, None if warm else min(steps / _TYPICAL_STEPS, 0.99))

    running.progress("compiling", None if warm else 0.0)
    if not make.build_image(run, on_step):
        raise _build_error(name, "the build failed", run, key)


# --- what went wrong -----------------------------------------------------------------------------


def _build_error(name: str, what: str, run: make.MakeRun, key: str) -> QemuDiffError:
    """The error that a failed make stands for; its log is kept."""
    text = run.log.read_text(errors="replace") if run.log.exists() else ""
    if "No space left on device" in text:
        return InfrastructureError(cache.no_space_message())
    if (header := _NO_HEADER.search(text)) and (missing := _package_of(header["header"])):
        return toolchain.missing_tools([missing])
    log = cache.cache_directory("failed") / f"{key}.log"
    if run.log.exists():
        shutil.copyfile(run.log, log)
    lines = _first_errors(text, run.source)
    reason = "; ".join(lines) or what
    return KernelBuildError(f"kernel {name!r} does not build: {reason}", log, lines)


def _package_of(header: str) -> toolchain.Requirement | None:
    needs = (need for part, need in toolchain.OPTIONAL_HEADERS if part in header)
    return next(needs, None)


def _first_errors(text: str, source: Path) -> tuple[str, ...]:
    """The first lines that say what is wrong, with the paths that the source has."""
    for pattern in _ERRORS:
        found = (match[0].strip().replace(f"{source}/", "") for match in pattern.finditer(text))
        if lines := tuple(dict.fromkeys(found)):
            return lines[:_MOST_LINES]
    return ()
