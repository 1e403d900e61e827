"""Sources fetched ahead, so that a night needs no network: nothing is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config.paths import is_url
from ..errors import SourceError
from ..events import stage
from ..model import DebianSource, GitSource, ImageSource, KernelSpec, TreeSource
from . import cache, debian, debian_image
from .repository import open_repository


@dataclass(frozen=True)
class Fetched:
    """Where a kernel's source lies.

    :param path: a file or a directory.
    :param size: bytes in the cache; 0 of what is the user's own, and is not copied.
    """

    kernel: str
    path: Path
    size: int


def fetch_source(spec: KernelSpec) -> Fetched:
    """Have a kernel's source on this machine; of a Debian package the newest version.

    :raise SourceError: it is not there, or not what it was said to be.
    :raise UnavailableSourceError: this machine can't get it.
    :raise InfrastructureError: no space is left.
    """
    with stage("fetch", spec.name):
        source = spec.source
        if isinstance(source, DebianSource):
            found = _from_debian(source)
            return Fetched(spec.name, found, found.stat().st_size)
        if isinstance(source, GitSource):
            repository = open_repository(source.repository)
            repository.commit(source.rev)
            if not is_url(source.repository):
                return Fetched(spec.name, Path(source.repository), 0)
            return Fetched(spec.name, repository.directory, cache.disk_usage(repository.directory))
        return Fetched(spec.name, _own(source), 0)


def _from_debian(source: DebianSource) -> Path:
    if debian_image.is_image(source):
        return debian_image.locate(source, newer=True).image
    return debian.locate(source, newer=True).path


def _own(source: TreeSource | ImageSource) -> Path:
    path = source.path if isinstance(source, TreeSource) else source.image
    if not path.exists():
        raise SourceError(f"{path}: no such file or directory")
    return path
