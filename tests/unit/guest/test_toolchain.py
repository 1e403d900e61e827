"""Our own C and assembly: compiled once, and again only when something has changed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from qemu_diff.errors import CompileError, MissingToolError
from qemu_diff.guest.toolchain import (
    CROSS_COMPILER,
    HOST_COMPILER,
    compile_cached,
    require,
)

# Writes down that it ran, and "compiles" by gluing its options and sources together.
COMPILER = """#!/bin/sh
echo run >> "{log}"
while [ "$1" != -o ]; do options="$options $1"; shift; done
output=$2; shift 2
{{ echo "$options"; cat "$@"; }} > "$output"
"""


@dataclass(frozen=True)
class Workshop:
    """A compiler that is a script, one source, one header, and a cache."""

    directory: Path
    compiler: str = "fake-gcc"
    options: tuple[str, ...] = ("-O2",)

    @property
    def source(self) -> Path:
        return self.directory / "stepvmm.c"

    @property
    def header(self) -> Path:
        return self.directory / "step_abi.h"

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def runs(self) -> int:
        log = self.directory / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def install(self, name: str, script: str = COMPILER) -> None:
        program = self.directory / "bin" / name
        program.write_text(script.format(log=self.directory / "log"))
        program.chmod(0o755)

    def compile(self) -> Path:
        command = [self.compiler, *self.options]
        return compile_cached(command, [self.source], [self.header], self.cache, "stepvmm")

    def refusal(self) -> str:
        with pytest.raises(CompileError) as caught:
            self.compile()
        return str(caught.value)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    made = Workshop(tmp_path)
    made.install("fake-gcc")
    made.source.write_text("int main;")
    made.header.write_text("#define VERSION 1")
    return made


# --- compiled once ---


def test_what_is_compiled_lies_in_the_cache(workshop: Workshop) -> None:
    compiled = workshop.compile()
    assert compiled.name == "stepvmm"
    assert compiled.is_relative_to(workshop.cache)
    assert compiled.read_text() == " -O2\nint main;"


def test_the_same_content_is_compiled_once(workshop: Workshop) -> None:
    assert workshop.compile() == workshop.compile()
    workshop.source.write_text("int main;")
    workshop.compile()
    assert workshop.runs == 1


def test_nothing_but_the_result_is_left(workshop: Workshop) -> None:
    compiled = workshop.compile()
    assert list(compiled.parent.iterdir()) == [compiled]


def test_other_content_is_compiled_again_and_the_old_is_kept(workshop: Workshop) -> None:
    first = workshop.compile()
    workshop.source.write_text("int main = 1;")
    second = workshop.compile()
    assert (first.read_text(), second.read_text()) == (" -O2\nint main;", " -O2\nint main = 1;")
    workshop.source.write_text("int main;")
    assert workshop.compile() == first
    assert workshop.runs == 2


def test_a_changed_header_is_compiled_in(workshop: Workshop) -> None:
    first = workshop.compile()
    workshop.header.write_text("#define VERSION 2")
    assert workshop.compile() != first
    assert workshop.runs == 2


def test_other_options_give_another_result(workshop: Workshop) -> None:
    first = workshop.compile()
    other = replace(workshop, options=("-O2", "-g")).compile()
    assert other != first
    assert other.read_text().startswith(" -O2 -g\n")


def test_another_compiler_compiles_again(workshop: Workshop) -> None:
    first = workshop.compile()
    workshop.install("fake-gcc", COMPILER + "echo '// by another' >> \"$output\"\n")
    assert workshop.compile() != first
    assert workshop.compile().read_text().endswith("// by another\n")
    assert workshop.runs == 2


# --- refused ---


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            "In file included from a.c:1:\\na.c:3:5: error: unknown type name\\na.c:4: note: x",
            "fake-gcc: a.c:3:5: error: unknown type name",
        ),
        ("stepvmm.S:2: Error: unknown mnemonic", "fake-gcc: stepvmm.S:2: Error: unknown mnemonic"),
        ("ld: cannot find -lc\\ncollect2: status 1", "fake-gcc: ld: cannot find -lc"),
        ("", "fake-gcc: exit status 3"),
    ],
)
def test_a_refusal_is_told_in_the_compiler_s_first_error(
    workshop: Workshop, printed: str, said: str
) -> None:
    workshop.install("fake-gcc", f"#!/bin/sh\nprintf '{printed}' >&2; exit 3\n")
    assert workshop.refusal() == said


def test_what_was_refused_is_not_cached(workshop: Workshop) -> None:
    workshop.install(
        "fake-gcc", '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; : > "$2"; exit 1\n'
    )
    workshop.refusal()
    assert [path for path in workshop.cache.rglob("*") if path.is_file()] == []
    workshop.install("fake-gcc")
    assert workshop.compile().read_text() == " -O2\nint main;"


def test_compilers_speak_english_to_us(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    workshop.install("fake-gcc", '#!/bin/sh\necho "error: $LC_ALL" >&2; exit 1\n')
    assert workshop.refusal() == "fake-gcc: error: C"


def test_a_real_compiler_compiles_and_refuses(workshop: Workshop) -> None:
    real = replace(workshop, compiler=HOST_COMPILER)
    workshop.source.write_text("int main(void) { return 42; }")
    assert subprocess.run([real.compile()], check=False).returncode == 42
    workshop.source.write_text("int main(void) { return x; }")
    assert "'x' undeclared" in real.refusal()


# --- missing ---


@pytest.mark.parametrize(
    ("program", "remedy"),
    [
        (CROSS_COMPILER, "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        (HOST_COMPILER, "apt-get install gcc libc6-dev"),
    ],
)
def test_a_missing_compiler_is_told_with_its_remedy(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, program: str, remedy: str
) -> None:
    monkeypatch.setenv("PATH", str(workshop.directory / "bin"))
    with pytest.raises(MissingToolError) as caught:
        replace(workshop, compiler=program).compile()
    assert str(caught.value) == f"{program} is missing; install it with: {remedy}"
    assert caught.value.exit_code == 2
    assert not workshop.cache.exists()


def test_a_program_without_a_known_package_is_missing_all_the_same() -> None:
    with pytest.raises(MissingToolError) as caught:
        require("no-such-tool")
    assert str(caught.value) == "no-such-tool is missing"


def test_a_program_is_found_on_the_path(workshop: Workshop) -> None:
    assert require("fake-gcc") == str(workshop.directory / "bin" / "fake-gcc")


def test_a_source_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "payload.S")
    with pytest.raises(CompileError, match=f"^{tmp_path / 'payload.S'}: not a file$"):
        compile_cached([HOST_COMPILER], [tmp_path / "payload.S"], [], tmp_path, "program")


def test_a_source_of_whatever_bytes_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "payload.S").write_bytes(bytes(range(128, 256)) * 4)
    with pytest.raises(CompileError, match=r"^gcc: "):
        compile_cached([HOST_COMPILER, "-c"], [tmp_path / "payload.S"], [], tmp_path, "object")
