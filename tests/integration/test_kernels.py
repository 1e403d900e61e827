"""Both variants of linux-source-6.1, really built."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qemu_diff.kernels import build_kernel
from qemu_diff.kernels.cache import find
from qemu_diff.model import Build, DebianSource, KernelSpec

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
UNPATCHED = REPOSITORY / "guest_images/patches/unpatched.patch"
SOURCE = DebianSource("linux-source-6.1")


@dataclass(frozen=True)
class Variants:
    patched: Build
    unpatched: Build


@pytest.fixture(scope="module")
def variants() -> Variants:
    """Both kernels, in the user's own cache: a build from nothing takes minutes."""
    patched = build_kernel(KernelSpec("patched", SOURCE))
    unpatched = build_kernel(KernelSpec("unpatched", SOURCE, (UNPATCHED,)))
    return Variants(patched, unpatched)


def both(variants: Variants) -> tuple[Build, Build]:
    return variants.patched, variants.unpatched


def test_they_are_kernels_for_arm64(variants: Variants) -> None:
    for build in both(variants):
        assert build.image.read_bytes()[0x38:0x3C] == b"ARM\x64"
        assert build.vmlinux is not None
        assert build.vmlinux.read_bytes()[:4] == b"\x7fELF"
        assert build.release.startswith("6.1.")


def test_they_are_two(variants: Variants) -> None:
    patched, unpatched = both(variants)
    assert patched.key != unpatched.key
    assert patched.image.read_bytes() != unpatched.image.read_bytes()


def test_their_configuration_is_the_same_and_has_kvm(variants: Variants) -> None:
    patched, unpatched = both(variants)
    assert patched.config is not None
    assert unpatched.config is not None
    assert patched.config.read_bytes() == unpatched.config.read_bytes()
    assert "\nCONFIG_KVM=y\n" in patched.config.read_text()


def test_nothing_of_our_fragment_is_lost_but_what_6_1_has_no_more(variants: Variants) -> None:
    metadata = find(variants.patched.key)
    assert metadata is not None
    assert metadata.dropped == ("CONFIG_ARM64_VHE",)


def symbols(vmlinux: Path | None) -> set[str]:
    command = ["aarch64-linux-gnu-nm", "--defined-only", "--format=just-symbols", str(vmlinux)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(output.split())


def test_the_addresses_that_a_run_looks_up_are_there(variants: Variants) -> None:
    for build in both(variants):
        assert {"__kvm_hyp_vector", "__kvm_nvhe___kvm_hyp_vector"} <= symbols(build.vmlinux)


def instructions(build: Build, function: str) -> int:
    command = ["aarch64-linux-gnu-objdump", "-d", f"--disassemble={function}", str(build.vmlinux)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(line.startswith("ffff") and "\t" in line for line in output.splitlines())


def test_the_unpatched_one_does_less(variants: Variants) -> None:
    patched, unpatched = both(variants)
    for function in ("kvm_arm_setup_debug", "kvm_arm_clear_debug"):
        assert 0 < instructions(unpatched, function) < instructions(patched, function)


TOUCH = """\
--- a/arch/arm64/kvm/pvtime.c
+++ b/arch/arm64/kvm/pvtime.c
@@ -1,2 +1,3 @@
+/* touched */
 // SPDX-License-Identifier: GPL-2.0
 // Copyright (C) 2019 Arm Ltd.
"""


@pytest.fixture
def salted(tmp_path: Path) -> Iterator[Callable[[str, str], Build]]:
    """Builds a variant that no cache has: the salt, in the patch's text, is in the key."""
    built = []

    def build(name: str, text: str) -> Build:
        path = tmp_path / f"{name}.patch"
        path.write_text(f"{uuid.uuid4()}\n\n{text}")
        built.append(build_kernel(KernelSpec(name, SOURCE, (path,))))
        return built[-1]

    yield build
    for variant in built:
        shutil.rmtree(variant.image.parent)


@pytest.mark.usefixtures("variants")
def test_another_variant_compiles_only_what_differs(
    salted: Callable[[str, str], Build],
) -> None:
    salted("touched", TOUCH)
    build = salted("unpatched", UNPATCHED.read_text())
    assert not build.cached
    assert build.log is not None
    lines = [line.split() for line in build.log.read_text().splitlines()]
    compiled = {words[1] for words in lines if len(words) == 2 and words[0] == "CC"}
    ours = {name for name in compiled if name.startswith("arch/arm64/kvm/")}
    assert ours == {
        f"arch/arm64/kvm/{name}.o" for name in ("debug", "guest", "handle_exit", "pvtime")
    }
    assert len(compiled) <= 10


def test_a_variant_is_the_same_whatever_was_built_before(
    variants: Variants, salted: Callable[[str, str], Build]
) -> None:
    again = salted("unpatched", UNPATCHED.read_text())
    assert again.image.read_bytes() == variants.unpatched.image.read_bytes()
