"""From a user's tree to a kernel, with a real make and a real compiler."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from qemu_diff.errors import KernelBuildError, MissingToolError, PatchError, SourceError, UserError
from qemu_diff.events import Event, subscribe
from qemu_diff.kernels import build_kernel, cached_kernels, kernel_key, kernel_requirements
from qemu_diff.kernels.cache import entry_directory
from qemu_diff.model import Build, KernelSpec, TreeSource

WritePatch = Callable[[str, str], Path]
Listing = dict[str, tuple[int, int, int, bytes]]

FAKELINUX = Path(__file__).resolve().parents[2] / "fakes" / "fakelinux"

FIX = """\
The candidate.

--- a/arch/arm64/kvm/debug.c
+++ b/arch/arm64/kvm/debug.c
@@ -6,5 +6,5 @@
 int setup_debug(void)
 {
-\tif (!vcpu.flags)
+\tif (vcpu.flags)
 \t\tvcpu.pstate_ss = 1;
 \telse
"""

BROKEN = FIX.replace("+\tif (vcpu.flags)", "+\tif (vcpu.flogs)")


def spec(tree: Path, *patches: Path, name: str = "k", kconfig: tuple[Path, ...] = ()) -> KernelSpec:
    return KernelSpec(name, TreeSource(tree), patches, kconfig)


def compiled(build: Build) -> list[str]:
    assert build.log is not None
    lines = build.log.read_text().splitlines()
    return sorted(line.split()[1] for line in lines if line.startswith("  CC"))


ALL_OBJECTS = [
    "arch/arm64/kernel/head.o",
    "arch/arm64/kvm/debug.o",
    "init/main.o",
    "kernel/fork.o",
]


@dataclass(frozen=True)
class Story:
    """A user's tree; what was built from it, in this order; and what happened meanwhile."""

    tree: Path
    first: Build
    again: Build
    fixed: Build
    before: Listing
    after: Listing
    events: tuple[Event, ...]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, listing: Callable[[Path], Listing]) -> Story:
    directory = tmp_path_factory.mktemp("story")
    tree = shutil.copytree(FAKELINUX, directory / "linux")
    fix = directory / "fix.patch"
    fix.write_text(FIX)
    events: list[Event] = []
    before = listing(tree)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("QEMU_DIFF_CACHE", str(directory / "cache"))
        with subscribe(events.append):
            first = build_kernel(spec(tree))
        again = build_kernel(spec(tree, name="again"))
        fixed = build_kernel(spec(tree, fix))
    return Story(tree, first, again, fixed, before, listing(tree), tuple(events))


def test_a_build_has_all_that_a_run_needs(story: Story) -> None:
    build = story.first
    assert build.image.read_bytes()[0x38:0x3C] == b"ARM\x64"
    assert build.vmlinux is not None
    assert build.vmlinux.read_bytes().startswith(b"\x7fELF")
    assert build.config is not None
    assert "CONFIG_KVM=y" in build.config.read_text()
    assert (build.release, build.cached) == ("6.1.0-fake", False)
    assert compiled(build) == ALL_OBJECTS
    assert build.duration_s > 0


def test_the_second_time_it_comes_from_the_cache(story: Story) -> None:
    assert (story.again.key, story.again.cached) == (story.first.key, True)
    metadata = json.loads((story.first.image.parent / "metadata.json").read_text())
    assert metadata["names"] == ["k", "again"]


def test_a_variant_compiles_what_its_patch_changes(story: Story) -> None:
    assert story.fixed.key != story.first.key
    assert story.fixed.image.read_bytes() != story.first.image.read_bytes()
    assert compiled(story.fixed) == ["arch/arm64/kvm/debug.o"]


def test_the_users_tree_is_never_written_to(story: Story) -> None:
    assert story.after == story.before


def test_progress_is_announced(story: Story) -> None:
    events = story.events
    assert {(event.stage, event.subject) for event in events} == {("kernel", "k")}
    assert [events[0].state, events[-1].state] == ["started", "finished"]
    fractions = [event.fraction for event in events if event.fraction is not None]
    assert fractions == sorted(fractions)
    assert len(fractions) > len(ALL_OBJECTS)
    assert "arch/arm64/kvm/debug.o" in {event.text for event in events}


def test_a_variant_is_the_same_whatever_was_built_before(
    fakelinux: Path, write_patch: WritePatch
) -> None:
    fix = write_patch("fix.patch", FIX)
    first, fixed = build_kernel(spec(fakelinux)), build_kernel(spec(fakelinux, fix))
    content = {build.key: build.image.read_bytes() for build in (first, fixed)}
    for build in (first, fixed):
        shutil.rmtree(entry_directory(build.key))
    assert build_kernel(spec(fakelinux, fix)).image.read_bytes() == content[fixed.key]
    assert build_kernel(spec(fakelinux)).image.read_bytes() == content[first.key]


def test_an_edit_is_built_and_nothing_else(fakelinux: Path) -> None:
    first = build_kernel(spec(fakelinux))
    header = fakelinux / "include/linux/kvm_host.h"
    header.write_text(header.read_text().replace("int pstate_ss", "long pstate_ss"))
    second = build_kernel(spec(fakelinux))
    assert second.key != first.key
    assert compiled(second) == ["arch/arm64/kvm/debug.o"]


def test_everything_that_matters_is_in_the_key(
    fakelinux: Path, write_patch: WritePatch, tmp_path: Path
) -> None:
    fix = write_patch("fix.patch", FIX)
    renamed = write_patch("renamed.patch", FIX)
    other = write_patch("other.patch", FIX.replace("candidate", "other"))
    fragment = tmp_path / "extra.config"
    fragment.write_text("CONFIG_FAKE_EXTRA=y\n")
    plain = kernel_key(spec(fakelinux))
    keys = [
        plain,
        kernel_key(spec(fakelinux, fix)),
        kernel_key(spec(fakelinux, other)),
        kernel_key(spec(fakelinux, kconfig=(fragment,))),
    ]
    assert len(set(keys)) == len(keys)
    assert kernel_key(spec(fakelinux, renamed)) == keys[1]
    assert kernel_key(spec(fakelinux, name="other")) == plain
    (fakelinux / "kernel/fork.c").write_text("int fork(void) { return 3; }\n")
    assert kernel_key(spec(fakelinux)) != plain


def test_another_compiler_is_another_key(
    fakelinux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kernel_key(spec(fakelinux))
    programs = tmp_path / "bin"
    programs.mkdir()
    newer = programs / "aarch64-linux-gnu-gcc"
    newer.write_text("#!/bin/sh\necho 'aarch64-linux-gnu-gcc 99.1'\n")
    newer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert kernel_key(spec(fakelinux)) != first


def test_an_option_that_is_asked_for_is_there(fakelinux: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "extra.config"
    fragment.write_text("CONFIG_FAKE_EXTRA=y\n")
    build = build_kernel(spec(fakelinux, kconfig=(fragment,)))
    assert build.config is not None
    assert "CONFIG_FAKE_EXTRA=y" in build.config.read_text()


def test_kvm_that_depends_on_the_network_comes_with_it(fakelinux: Path) -> None:
    kconfig = fakelinux / "Kconfig"
    old = kconfig.read_text().replace("config KVM\n", "config KVM depends on NET\nconfig NET\n")
    kconfig.write_text(old)
    build = build_kernel(spec(fakelinux))
    assert build.config is not None
    options = build.config.read_text().splitlines()
    assert {"CONFIG_KVM=y", "CONFIG_NET=y"} <= {*options}


def test_the_network_does_not_come_where_kvm_does_without(fakelinux: Path) -> None:
    kconfig = fakelinux / "Kconfig"
    kconfig.write_text(kconfig.read_text() + "config NET\n")
    build = build_kernel(spec(fakelinux))
    assert build.config is not None
    assert "CONFIG_NET" not in build.config.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CONFIG_KVM=n\n", "kernel 'k' comes out without CONFIG_KVM=y and so has no KVM to test"),
        ("CONFIG_NO_SUCH=y\n", "CONFIG_NO_SUCH=y came out as n: this source does not know"),
    ],
)
def test_an_option_that_does_not_come_out_is_one_line(
    fakelinux: Path, tmp_path: Path, text: str, message: str
) -> None:
    fragment = tmp_path / "extra.config"
    fragment.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        build_kernel(spec(fakelinux, kconfig=(fragment,)))
    assert "\n" not in str(caught.value)
    assert cached_kernels() == ()


def test_a_compile_error_is_told_and_its_log_kept(fakelinux: Path, write_patch: WritePatch) -> None:
    with pytest.raises(KernelBuildError) as caught:
        build_kernel(spec(fakelinux, write_patch("broken.patch", BROKEN)))
    assert str(caught.value).startswith(
        "kernel 'k' does not build: arch/arm64/kvm/debug.c:8:18: error: "
    )
    assert "flogs" in caught.value.log.read_text()
    assert "\n" not in str(caught.value)
    assert cached_kernels() == ()
    assert compiled(build_kernel(spec(fakelinux)))


def test_the_first_compile_errors_are_told(fakelinux: Path) -> None:
    (fakelinux / "kernel/fork.c").write_text("".join(f"int a{n} = b{n};\n" for n in range(5)))
    with pytest.raises(KernelBuildError) as caught:
        build_kernel(spec(fakelinux))
    assert [line.partition(": ")[0] for line in caught.value.lines] == [
        f"kernel/fork.c:{number}:10" for number in (1, 2, 3)
    ]
    assert "; ".join(caught.value.lines) in str(caught.value)


def test_what_kconfig_refuses_is_told(fakelinux: Path) -> None:
    words = 'lib/Kconfig.debug:1766: can\'t open file "samples/Kconfig"'
    script = fakelinux / "scripts/allnoconfig.sh"
    script.write_text(f"echo '{words}' >&2\nexit 1\n".replace("can't", "can'\\''t"))
    with pytest.raises(KernelBuildError) as caught:
        build_kernel(spec(fakelinux))
    assert caught.value.lines == (words,)


def test_a_link_error_is_told(fakelinux: Path) -> None:
    (fakelinux / "kernel/fork.c").write_text("int none(void);\nint fork(void){return none();}\n")
    with pytest.raises(KernelBuildError, match="undefined reference to `none'"):
        build_kernel(spec(fakelinux))


def test_a_patch_that_does_not_apply(fakelinux: Path, write_patch: WritePatch) -> None:
    path = write_patch("bad.patch", FIX.replace(" int setup_debug", " int setup_something"))
    with pytest.raises(PatchError, match=r"hunk 1 of arch/arm64/kvm/debug.c"):
        build_kernel(spec(fakelinux, path))


def test_a_header_that_an_option_needs_names_its_package(fakelinux: Path) -> None:
    (fakelinux / "kernel/fork.c").write_text("#include <openssl/evp.h>\n")
    with pytest.raises(MissingToolError, match=r"OpenSSL.* install libssl-dev"):
        build_kernel(spec(fakelinux))


def only_programs(directory: Path, *names: str) -> str:
    directory.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (directory / name).symlink_to(found)
    return str(directory)


def test_all_missing_programs_are_named_at_once(
    fakelinux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {tool for tool, _, _ in kernel_requirements()} - {"flex", "bison"}
    monkeypatch.setenv("PATH", only_programs(tmp_path / "bin", "apt-get", *names))
    with pytest.raises(MissingToolError) as caught:
        build_kernel(spec(fakelinux))
    assert caught.value.tool == "flex, bison"
    assert caught.value.install == "apt-get install flex bison"


def test_a_missing_compiler(
    fakelinux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", only_programs(tmp_path / "bin", "apt-get", "make"))
    with pytest.raises(MissingToolError, match="apt-get install gcc-aarch64-linux-gnu"):
        build_kernel(spec(fakelinux))


def test_a_directory_that_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a Linux source tree"):
        build_kernel(spec(tmp_path))


def test_what_the_user_exports_does_not_steer_the_build(
    fakelinux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_kernel(spec(fakelinux)).image.read_bytes()
    for entry in cached_kernels():
        shutil.rmtree(entry_directory(entry.key))
    for name, value in {"ARCH": "x86", "KCFLAGS": "-Wnone", "MAKEFLAGS": "-n", "O": "/"}.items():
        monkeypatch.setenv(name, value)
    assert build_kernel(spec(fakelinux)).image.read_bytes() == first


# --- builds that are cut off ---------------------------------------------------------------------

BUILD = """
import sys
from pathlib import Path
from qemu_diff.kernels import build_kernel
from qemu_diff.model import KernelSpec, TreeSource
try:
    build_kernel(KernelSpec("k", TreeSource(Path(sys.argv[1]))))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_slow_build(tree: Path) -> subprocess.Popen[bytes]:
    """A build in a process of its own, in the middle of its first compilation."""
    (tree / "slow").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(tree)], env=environment)
    wait_until(lambda: any(b"sleep" in command for command in commands_of_the_build()))
    return process


def commands_of_the_build() -> list[bytes]:
    """Command lines of all processes whose environment names this test's cache."""
    marker = os.environ["QEMU_DIFF_CACHE"].encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (entry / "environ").read_bytes() and int(entry.name) != os.getpid():
                found.append((entry / "cmdline").read_bytes())
        except OSError:
            continue
    return [command for command in found if command]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_compiler_outlives_us(fakelinux: Path, number: signal.Signals) -> None:
    process = start_slow_build(fakelinux)
    process.send_signal(number)
    assert process.wait(timeout=20) == (130 if number is signal.SIGINT else -number)
    wait_until(lambda: not commands_of_the_build())
    (fakelinux / "slow").unlink()
    build = build_kernel(spec(fakelinux))
    assert build.image.read_bytes()[0x38:0x3C] == b"ARM\x64"


def test_objects_of_a_killed_make_are_not_trusted(fakelinux: Path, cache_directory: Path) -> None:
    good = build_kernel(spec(fakelinux)).image.read_bytes()
    (objects,) = cache_directory.glob("trees/*/objects/*")
    (objects / ".qemu-diff-running").touch()
    (objects / "kernel/fork.o").write_bytes(b"half an obj")
    (objects / "vmlinux").unlink()
    left = objects / ".scratch-of-a-killed-one"
    left.mkdir()
    shutil.rmtree(cache_directory / "kernels")
    again = build_kernel(spec(fakelinux))
    assert again.image.read_bytes() == good
    assert compiled(again) == ["kernel/fork.o"]
    assert not left.exists()


def test_two_builds_of_one_tree_wait_for_each_other(fakelinux: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BUILD, str(fakelinux)]
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(cached_kernels()) == 1
