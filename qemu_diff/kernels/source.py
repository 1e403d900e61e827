"""From a campaign's source to an isolated tree: where it comes from, and what makes it itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256

from ..errors import SourceError
from ..model import DebianSource, GitSource, KernelSpec, TreeSource
from . import cache, checkout, debian, git_tree
from .repository import open_repository
from .revert import reverted
from .tree import IsolatedTree, Overlay


@dataclass(frozen=True)
class ResolvedSource:
    """A source that can be built.

    :param lineage: name of its isolated tree; all variants of a source share it.
    :param words: what it is, for people.
    :param identity: the source's identity where that is known without a tree.
    :param prepare: makes the tree's base what the source is now, and returns the identity.
    :param overlay: what reverted commits make of the base; the identity has it.
    """

    lineage: str
    words: str
    identity: str | None
    prepare: Callable[[IsolatedTree], str]
    overlay: Overlay = field(default_factory=dict)


SourceCode = DebianSource | TreeSource | GitSource
"""What a kernel can be built from."""


def resolve(source: SourceCode, reverts: tuple[str, ...] = ()) -> ResolvedSource:
    """Find a source.

    :param reverts: commits that are taken out of it, in this order.
    :raise SourceError: it is not there, or not a kernel; a commit can't be taken out.
    :raise UnavailableSourceError: a package is not installed, and can't be fetched.
    """
    if isinstance(source, GitSource):
        return _resolve_git(source, reverts)
    if reverts:
        raise SourceError("reverts are of commits, and this source is no git repository")
    if isinstance(source, DebianSource):
        return _resolve_debian(source)
    checkout.check(source.path)
    return ResolvedSource(
        lineage=checkout.lineage(source.path),
        words=f"tree {source.path}",
        identity=None,
        prepare=lambda tree: checkout.synchronise(source.path, tree),
    )


def pinned(spec: KernelSpec) -> KernelSpec:
    """A kernel whose commits are named by their full ids: the same for as long as a run takes,
    whatever a branch does meanwhile.

    :raise SourceError: there is no such commit.
    :raise UnavailableSourceError: an URL can't be fetched.
    """
    if not isinstance(spec.source, GitSource):
        return spec
    repository = open_repository(spec.source.repository)
    source = replace(spec.source, rev=repository.commit(spec.source.rev))
    reverts = tuple(repository.commit(rev) for rev in spec.reverts)
    return replace(spec, source=source, reverts=reverts)


def source_identity(source: ResolvedSource) -> str:
    """What makes the source this source; a user's tree is copied to tell.

    :raise SourceError: not a kernel tree, or one that was built in place and is not under git.
    """
    if source.identity is not None:
        return source.identity
    with cache.disk_errors(), cache.lineage_lock(source.lineage):
        return source.prepare(IsolatedTree(source.lineage))


def _resolve_debian(source: DebianSource) -> ResolvedSource:
    tarball = debian.locate(source)

    def prepare(tree: IsolatedTree) -> str:
        if not tree.populated:
            debian.unpack(tarball, tree)
        return tarball.identity

    words = f"debian {tarball.package} {tarball.version}"
    return ResolvedSource(tarball.lineage, words, tarball.identity, prepare)


def _resolve_git(source: GitSource, reverts: tuple[str, ...]) -> ResolvedSource:
    repository = open_repository(source.repository)
    commit = repository.commit(source.rev)
    wanted = repository.tree(commit)
    words = f"git {commit} ({repository.describe(commit)})"
    taken_out = [repository.commit(rev) for rev in reverts]
    words += "".join(f" without {one[:12]}" for one in taken_out)
    overlay = reverted(repository, wanted, taken_out)
    identity = f"git tree {wanted}"
    if overlay:
        identity += f" but sha256:{sha256(repr(sorted(overlay.items())).encode()).hexdigest()}"

    def prepare(tree: IsolatedTree) -> str:
        git_tree.move_base(repository, wanted, tree)
        return identity

    return ResolvedSource(repository.lineage, words, identity, prepare, overlay)
