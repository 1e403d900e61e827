"""The kernel's own selftest: from a user's tree to a program, with a real make and compiler."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu_diff.errors import KernelBuildError, PatchError
from qemu_diff.kernels.selftest import NoSelftest, Selftest, build_selftest, first_error
from qemu_diff.model import DebianSource, ImageSource, KernelSource, KernelSpec, TreeSource

WritePatch = Callable[[str, str], Path]
Listing = dict[str, tuple[int, int, int, bytes]]

# Built with the commands that Linux's is built with, in milliseconds.
HEADERS = """
.PHONY: headers
headers:
	mkdir -p $(O)/usr/include/linux
	echo '#define KVM_GUESTDBG_SINGLESTEP 2' > $(O)/usr/include/linux/kvm.h
"""
SELFTESTS = """
CC := $(CROSS_COMPILE)gcc
$(OUTPUT)/%: %.c
	mkdir -p $(@D)
	$(CC) -nostdlib $(KHDR_INCLUDES) -MD -o $@ $< $(LDFLAGS)
"""
TEST = """\
#include <linux/kvm.h>
void _start(void)
{
	register long x0 asm("x0") = KVM_GUESTDBG_SINGLESTEP;
	asm volatile("hvc #0" : : "r"(x0));
}
"""

PATCH = """\
--- a/{path}
+++ b/{path}
@@ -1 +1 @@
-{old}
+{new}
"""

FOLDER = "tools/testing/selftests/kvm"


@pytest.fixture(params=["aarch64", "arm64"])
def tree(request: pytest.FixtureRequest, fakelinux: Path) -> Path:
    """A user's tree with the test, where older and where newer kernels have it."""
    with (fakelinux / "Makefile").open("a") as makefile:
        makefile.write(HEADERS)
    folder = fakelinux / FOLDER
    (folder / request.param).mkdir(parents=True)
    (folder / "Makefile").write_text(SELFTESTS)
    (folder / request.param / "debug-exceptions.c").write_text(TEST)
    return fakelinux


def text_of(tree: Path) -> Path:
    (text,) = (tree / FOLDER).glob("*/debug-exceptions.c")
    return text


def spec(tree: Path, *patches: Path, name: str = "k") -> KernelSpec:
    return KernelSpec(name, TreeSource(tree), patches)


def made(tree: Path, *patches: Path) -> Selftest:
    selftest = build_selftest(spec(tree, *patches))
    assert isinstance(selftest, Selftest)
    return selftest


def patch_of(tree: Path, path: str, new: str) -> str:
    old = (tree / path).read_text().splitlines()[0]
    count = len((tree / path).read_text().splitlines())
    rest = "".join(f" {line}\n" for line in (tree / path).read_text().splitlines()[1:])
    header = f"--- a/{path}\n+++ b/{path}\n@@ -1,{count} +1,{count} @@\n"
    return f"{header}-{old}\n+{new}\n{rest}"


def test_it_is_a_static_arm64_program(tree: Path) -> None:
    selftest = made(tree)
    header = selftest.program.read_bytes()[:20]
    assert header.startswith(b"\x7fELF")
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
    assert b"ld-linux" not in selftest.program.read_bytes()
    assert (selftest.kernel, selftest.cached) == ("k", False)
    assert selftest.program.parent.name == selftest.key


def test_it_is_built_once(tree: Path) -> None:
    first, again = made(tree), made(tree)
    assert again.cached
    assert (again.key, again.program) == (first.key, first.program)


def test_a_users_tree_is_not_written_to(tree: Path, listing: Callable[[Path], Listing]) -> None:
    before = listing(tree)
    made(tree)
    assert listing(tree) == before


def test_nothing_but_the_program_is_kept(tree: Path) -> None:
    selftest = made(tree)
    folder = selftest.program.parent
    assert [path.name for path in folder.iterdir()] == ["debug-exceptions"]
    assert [path.name for path in folder.parent.iterdir()] == [selftest.key]


def test_an_edit_is_another_program(tree: Path) -> None:
    first = made(tree)
    text_of(tree).write_text(TEST.replace("hvc #0", "hvc #1"))
    second = made(tree)
    assert not second.cached
    assert second.key != first.key
    assert second.program.read_bytes() != first.program.read_bytes()


def test_a_patch_of_the_kernel_alone_does_not_change_it(
    tree: Path, write_patch: WritePatch
) -> None:
    """The variants of one source are judged by one and the same program."""
    text = patch_of(tree, "kernel/fork.c", "/* changed */")
    assert made(tree, write_patch("fix.patch", text)).key == made(tree).key


def test_a_patch_of_the_test_counts(tree: Path, write_patch: WritePatch) -> None:
    first = made(tree)
    path = str(text_of(tree).relative_to(tree))
    patch = write_patch("test.patch", patch_of(tree, path, '#include "linux/kvm.h"'))
    second = made(tree, patch)
    assert second.key != first.key
    assert text_of(tree).read_text() == TEST
    # And with it those that it may build on.
    fix = write_patch("fix.patch", patch_of(tree, "kernel/fork.c", "/* changed */"))
    assert made(tree, fix, patch).key not in {first.key, second.key}


def test_a_patch_of_the_test_that_does_not_apply(tree: Path, write_patch: WritePatch) -> None:
    path = text_of(tree).relative_to(tree)
    stale = PATCH.format(path=path, old="gone", new="new")
    with pytest.raises(PatchError, match="debug-exceptions"):
        build_selftest(spec(tree, write_patch("stale.patch", stale)))


def test_a_source_without_the_test_is_said_to_be_one(fakelinux: Path) -> None:
    assert build_selftest(spec(fakelinux)) == NoSelftest(
        "k", "its source has no KVM selftest debug-exceptions"
    )


def test_a_test_that_does_not_step_would_pass_on_any_kernel(tree: Path) -> None:
    text_of(tree).write_text("void _start(void) {}\n")
    found = build_selftest(spec(tree))
    assert isinstance(found, NoSelftest)
    assert found.reason.endswith("does not step: older than v6.1")


@pytest.mark.parametrize(
    "source", [ImageSource(Path("Image")), DebianSource("linux-image-cloud-arm64")]
)
def test_an_image_has_no_source(source: KernelSource) -> None:
    found = build_selftest(KernelSpec("k", source))
    assert found == NoSelftest("k", "an image that is built already comes without its source")


def test_a_compile_error_is_told_and_its_log_kept(tree: Path, cache_directory: Path) -> None:
    text_of(tree).write_text(TEST.replace("x0;", "x0").replace("(x0)", "(x9)"))
    with pytest.raises(KernelBuildError) as caught:
        build_selftest(spec(tree))
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith("the selftest debug-exceptions of kernel 'k' does not build: ")
    assert "debug-exceptions.c:5:" in told
    assert str(cache_directory / "trees") not in told
    assert "x9" in caught.value.log.read_text()
    assert not list((cache_directory / "guest/selftests").iterdir())


def test_what_the_user_exports_does_not_steer_the_build(
    tree: Path, cache_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tree).program.read_bytes()
    shutil.rmtree(cache_directory / "guest/selftests")
    for name, value in {"ARCH": "x86", "CFLAGS": "-Wnone", "MAKEFLAGS": "-n", "O": "/"}.items():
        monkeypatch.setenv(name, value)
    assert made(tree).program.read_bytes() == first


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("warning: x\na.c:1:2: error: no\nmake: *** [x] Error 1", "a.c:1:2: error: no"),
        ("ld: a.o: undefined reference to `f'\n", "ld: a.o: undefined reference to `f'"),
        ("ld: cannot find -lcap: No such file\n", "ld: cannot find -lcap: No such file"),
        (
            "make: *** No rule to make target 'x'.  Stop.",
            "make: *** No rule to make target 'x'.  Stop.",
        ),
        ("", "make failed"),
    ],
)
def test_the_line_that_says_what_went_wrong(output: str, line: str) -> None:
    assert first_error(output) == line
