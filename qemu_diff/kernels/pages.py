"""A kernel with another page size: a variant of its own, made by a fragment more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import InfrastructureError
from ..model import KernelSpec, MachineSpec


def with_pages(spec: KernelSpec, page_kib: int) -> KernelSpec:
    """The kernel as it is built for a page size.

    :raise InfrastructureError: the fragment is not installed.
    """
    if page_kib == MachineSpec.page_kib:
        return spec
    folder = Path(__file__).resolve().parents[2] / "guest_images" / "kconfig"
    fragment = folder / f"page-{page_kib}k.config"
    if not fragment.is_file():
        raise InfrastructureError(f"{fragment}: our own kconfig fragment is missing")
    return replace(spec, kconfig=(*spec.kconfig, fragment))
