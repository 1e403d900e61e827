"""A kernel that was used before: found again by its key, without asking where it came from."""

from __future__ import annotations

from pathlib import Path

from ..errors import SourceError
from ..model import Build, ImageSource
from . import cache, image


def cached_build(key: str, name: str) -> Build | None:
    """A kernel in the cache; None where there is none.

    :param key: as ``metadata.json`` and the results have it.
    :param name: what to call it.
    """
    metadata = cache.find(key)
    if metadata is None:
        return None
    directory = cache.entry_directory(key)
    there = {one: directory / one if one in metadata.files else None for one in metadata.files}
    kernel = there.get("Image")
    if kernel is None:
        return None
    return Build(
        kernel=name,
        key=key,
        image=kernel,
        vmlinux=there.get("vmlinux"),
        config=there.get("config"),
        log=there.get("build.log"),
        release=metadata.release,
        cached=True,
        duration_s=0.0,
    )


def image_build(key: str, name: str, source: ImageSource) -> Build | None:
    """A kernel that was an image, if the file is still the same; else None."""
    try:
        build = image.ready_build(name, source)
    except SourceError:
        return None
    return build if build.key == key else None


def given_build(name: str, kernel: Path, vmlinux: Path | None) -> Build:
    """A kernel from files that the user names.

    :raise SourceError: a file is missing, or is not what it should be.
    """
    return image.ready_build(name, ImageSource(kernel.absolute(), vmlinux))
