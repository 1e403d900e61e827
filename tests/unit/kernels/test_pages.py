"""Page sizes: a fragment more for each, and none for the usual one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.config.schema import PAGE_SIZES_KIB
from qemu_diff.errors import InfrastructureError
from qemu_diff.kernels.kconfig import own_fragment, read_fragment
from qemu_diff.kernels.pages import with_pages
from qemu_diff.model import DebianSource, KernelSpec

SPEC = KernelSpec("k", DebianSource("linux-source-6.1"), kconfig=(Path("/mine.config"),))


def test_the_usual_pages_change_nothing() -> None:
    assert with_pages(SPEC, 4) == SPEC


@pytest.mark.parametrize("page_kib", [one for one in PAGE_SIZES_KIB if one != 4])
def test_others_are_an_option_that_wins_over_the_user_s(page_kib: int) -> None:
    spec = with_pages(SPEC, page_kib)
    *users, fragment = spec.kconfig
    assert (spec.name, spec.source, users) == (SPEC.name, SPEC.source, [Path("/mine.config")])
    assert fragment.parent == own_fragment().parent
    options = {name: value for name, (value, _) in read_fragment(fragment).options.items()}
    assert options == {f"CONFIG_ARM64_{page_kib}K_PAGES": "y"}


def test_a_size_that_no_cpu_has() -> None:
    with pytest.raises(InfrastructureError, match=r"page-8k\.config: our own kconfig fragment"):
        with_pages(SPEC, 8)
