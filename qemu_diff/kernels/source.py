"""From a campaign's source to an isolated tree: where it comes from, and what makes it itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..model import DebianSource, TreeSource
from . import cache, checkout, debian
from .tree import IsolatedTree


@dataclass(frozen=True)
class ResolvedSource:
    """A source that can be built.

    :param lineage: name of its isolated tree; all variants of a source share it.
    :param identity: the source's identity where that is known without a tree.
    :param prepare: makes the tree's base what the source is now, and returns the identity.
    """

    lineage: str
    identity: str | None
    prepare: Callable[[IsolatedTree], str]


def resolve(source: DebianSource | TreeSource) -> ResolvedSource:
    """Find a source.

    :raise SourceError: it is not there, or not a kernel.
    :raise UnavailableSourceError: a package is not installed, and can't be fetched.
    """
    if isinstance(source, DebianSource):
        return _resolve_debian(source)
    checkout.check(source.path)
    return ResolvedSource(
        lineage=checkout.lineage(source.path),
        identity=None,
        prepare=lambda tree: checkout.synchronise(source.path, tree),
    )


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

    return ResolvedSource(tarball.lineage, tarball.identity, prepare)
