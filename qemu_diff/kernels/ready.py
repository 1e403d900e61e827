"""Whether a kernel has to be built, found out without building, fetching or copying anything."""

from __future__ import annotations

from ..config.paths import is_url
from ..errors import UserError
from ..model import DebianSource, GitSource, ImageSource, KernelSource, KernelSpec
from . import cache, debian, debian_image
from .build import kernel_key


def kernel_is_ready(spec: KernelSpec) -> bool | None:
    """Whether a kernel is there already; None where only getting at its source would tell, or where
    it can't be built as things are."""
    if isinstance(spec.source, ImageSource):
        return True
    try:
        if not _tells(spec.source):
            return None
        return (cache.entry_directory(kernel_key(spec)) / "metadata.json").is_file()
    except UserError:
        return None


def _tells(source: KernelSource) -> bool:
    """Whether a source can be told from others where it lies."""
    if isinstance(source, GitSource):
        return not is_url(source.repository)
    if not isinstance(source, DebianSource) or debian_image.is_image(source):
        return False
    return bool(debian.at_hand(source))
