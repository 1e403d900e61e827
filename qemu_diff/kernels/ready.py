"""Whether a kernel has to be built, found out without building, fetching or copying anything."""

from __future__ import annotations

from ..errors import UserError
from ..model import DebianSource, ImageSource, KernelSpec
from . import cache, debian, debian_image
from .build import kernel_key


def kernel_is_ready(spec: KernelSpec) -> bool | None:
    """Whether a kernel is there already; None where only getting at its source would tell, or where
    it can't be built as things are."""
    if isinstance(spec.source, ImageSource):
        return True
    if not isinstance(spec.source, DebianSource) or debian_image.is_image(spec.source):
        return None
    try:
        if not debian.at_hand(spec.source):
            return None
        return (cache.entry_directory(kernel_key(spec)) / "metadata.json").is_file()
    except UserError:
        return None
