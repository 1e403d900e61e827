"""What this machine lacks, and the command that mends it.

Features are tried, not inferred from versions: QEMU is asked for its plugins, compilers compile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.text import Text

from qemu_diff.config.paths import mode
from qemu_diff.confinement import offered
from qemu_diff.errors import QemuDiffError
from qemu_diff.guest.gdb import GDB, find_gdb
from qemu_diff.guest.qemu import QEMU_PROGRAM, find_qemu
from qemu_diff.guest.qemu_bundle import cached_bundle
from qemu_diff.guest.toolchain import CROSS_COMPILER, HOST_COMPILER
from qemu_diff.kernels.apt import own_suite
from qemu_diff.kernels.cache import cache_root, cached_kernels
from qemu_diff.kernels.toolchain import kernel_requirements
from qemu_diff.scratch import scratch_directory

DEBIAN_SOURCE = "linux-source-6.1"
"""The package that the quickstart's kernels are built from."""

CACHE_BYTES = 4 * 10**9
"""A kernel source (1.5 GB unpacked), its patched copy's objects, and two finished kernels."""

_PROBE_SECONDS = 60

_PYTHON_MODULES = (
    "capstone",
    "cyclopts",
    "filelock",
    "jinja2",
    "junitparser",
    "numpy",
    "pexpect",
    "pydantic",
    "elftools",
    "pygdbmi",
    "qemu.qmp",
    "resvg_py",
    "rich",
    "tomli",
    "tuxmake",
)
"""What ``dependencies`` in pyproject.toml installs, by the names they are imported by."""


@dataclass(frozen=True)
class Check:
    """One thing that the machine has or lacks.

    :param detail: what was found, or what is wrong; one line.
    :param apt: the command that mends it on Debian; may be empty.
    :param dnf: the command that mends it on Fedora; may be empty.
    :param needed_for: what does not work without it.
    :param required: False for what only some campaigns, or only speed, need.
    """

    name: str
    ok: bool
    detail: str
    apt: str
    dnf: str
    needed_for: str
    required: bool = True

    def remedy(self) -> str:
        """The command for this machine's package manager; "" where none helps."""
        on_fedora = shutil.which("apt-get") is None and shutil.which("dnf") is not None
        return self.dnf if on_fedora else self.apt


def checks() -> tuple[Check, ...]:
    """Look at everything. Takes a second or two: small programs are compiled."""
    return (
        _python_packages(),
        _qemu(),
        _confinement(),
        _host_compiler(),
        _cross_compiler(),
        *_kernel_tools(),
        *_optional_headers(),
        *_optional_tools(),
        _apt(),
        _debian_source(),
        _qemu_for_l1(),
        _cache_place(),
        _disk_space(),
    )


def all_needed(done: Sequence[Check]) -> bool:
    """Whether everything is there that no campaign can do without."""
    return all(check.ok or not check.required for check in done)


def print_checks(done: Sequence[Check], console: Console) -> None:
    """One line for each check; lines are not wrapped, so that commands can be copied."""
    width = max((len(check.name) for check in done), default=0)
    for check in done:
        console.print(_line(check, width), soft_wrap=True)


def _line(check: Check, width: int) -> Text:
    word, style = _verdict(check)
    line = Text.assemble((f"{word:<8}", style), "  ", (f"{check.name:<{width}}", "bold"), "  ")
    line.append(check.detail)
    if not check.ok:
        line.append(f"; needed for {check.needed_for}", "dim")
        if remedy := check.remedy():
            line.append(": ").append(remedy, "cyan")
    return line


def _verdict(check: Check) -> tuple[str, str]:
    if check.ok:
        return "ok", "green"
    return ("missing", "bold red") if check.required else ("optional", "yellow")


# --- programs that must be there -----------------------------------------------------------------


def _python_packages() -> Check:
    missing = [name for name in _PYTHON_MODULES if not _importable(name)]
    command = "python3 -m pip install -e ."
    return Check(
        "Python packages",
        ok=not missing,
        detail=f"not installed: {', '.join(missing)}" if missing else "all are installed",
        apt=command,
        dnf=command,
        needed_for="everything",
    )


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is a part of is not there
        return False


def _qemu() -> Check:
    try:
        detail, ok = f"{find_qemu().program}, with TCG plugins", True
    except QemuDiffError as error:
        detail, ok = str(error).partition("; install it with")[0], False
    return Check(
        QEMU_PROGRAM,
        ok,
        detail,
        apt="apt-get install qemu-system-arm",
        dnf="dnf install qemu-system-aarch64-core",
        needed_for="every run",
    )


def _confinement() -> Check:
    here = offered()
    lacking = [
        *([] if here.no_network else ["network namespaces"]),
        *([] if here.landlock else ["Landlock"]),
    ]
    return Check(
        "confinement",
        not lacking,
        f"no {' and no '.join(lacking)}" if lacking else "no network, no writing elsewhere",
        apt="",
        dnf="",
        needed_for="keeping a hostile kernel's QEMU away from the network and from other files",
        required=False,
    )


def _host_compiler() -> Check:
    source = "int plugin(void) { return 0; }\n"
    problem = _compile(HOST_COMPILER, source, "-shared", "-fPIC")
    return Check(
        "host C compiler",
        ok=not problem,
        detail=problem or f"{shutil.which(HOST_COMPILER)} links shared objects",
        apt="apt-get install gcc libc6-dev",
        dnf="dnf install gcc glibc-devel",
        needed_for="the truth plugin, and the kernel's own host programs",
    )


def _cross_compiler() -> Check:
    source = '#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n'
    problem = _compile(CROSS_COMPILER, source, "-static")
    no_libc = shutil.which("dnf") is not None and shutil.which("apt-get") is None
    note = "; Fedora packages no static aarch64 libc: use Debian, or a container of it"
    return Check(
        "static arm64 programs",
        ok=not problem,
        detail=problem + (note if no_libc else "")
        if problem
        else f"{shutil.which(CROSS_COMPILER)} links them",
        apt="apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        dnf="" if shutil.which(CROSS_COMPILER) else "dnf install gcc-aarch64-linux-gnu",
        needed_for="the guest's step VMM and the payloads",
    )


def _kernel_tools() -> tuple[Check, ...]:
    return tuple(
        _program(tool, apt, dnf, "building kernels")
        for tool, apt, dnf in kernel_requirements()
        if tool not in (HOST_COMPILER, CROSS_COMPILER)
    )


def _program(tool: str, apt: str, dnf: str, needed_for: str, *, required: bool = True) -> Check:
    found = shutil.which(tool)
    return Check(
        tool,
        ok=found is not None,
        detail=found or "not on PATH",
        apt=f"apt-get install {apt}",
        dnf=f"dnf install {dnf}",
        needed_for=needed_for,
        required=required,
    )


# --- what some campaigns need --------------------------------------------------------------------


def _optional_headers() -> tuple[Check, ...]:
    # The host programs that include these are built for few options: certs/extract-cert for
    # SYSTEM_TRUSTED_KEYRING, scripts/sign-file for MODULE_SIG, tools/objtool where it is used.
    headers = (
        ("openssl/evp.h", "libssl-dev", "openssl-devel", "kernels with trusted keys"),
        ("libelf.h", "libelf-dev", "elfutils-libelf-devel", "kernels that objtool or BTF go over"),
    )
    return tuple(
        Check(
            f"<{header}>",
            ok=not (problem := _compile(HOST_COMPILER, f"#include <{header}>\n", "-c")),
            detail=problem or "compiles",
            apt=f"apt-get install {apt}",
            dnf=f"dnf install {dnf}",
            needed_for=needed_for,
            required=False,
        )
        for header, apt, dnf, needed_for in headers
    )


def _optional_tools() -> tuple[Check, ...]:
    return (
        _program("ccache", "ccache", "ccache", "fast rebuilds of kernels", required=False),
        _program("git", "git", "git", "kernel trees under git", required=False),
        _debugger(),
    )


def _debugger() -> Check:
    found = find_gdb()
    return Check(
        "gdb for aarch64",
        ok=found is not None,
        detail=found or "neither gdb-multiarch nor a gdb that knows it",
        apt=f"apt-get install {GDB}",
        dnf="dnf install gdb",
        needed_for="driver gdb, and qemu-diff debug",
        required=False,
    )


def _apt() -> Check:
    found = shutil.which("apt-get")
    return Check(
        "apt-get",
        ok=found is not None,
        detail=found or "not on PATH: give kernels as { tree = PATH } or { image = PATH }",
        apt="",
        dnf="",
        needed_for='kernels from "debian:PACKAGE"',
        required=False,
    )


def _debian_source() -> Check:
    where = _debian_source_place()
    return Check(
        DEBIAN_SOURCE,
        ok=bool(where),
        detail=where or "neither installed nor offered by apt",
        apt=f"apt-get update && apt-get install {DEBIAN_SOURCE}",
        dnf="",
        needed_for="configs/quickstart.toml",
        required=shutil.which("apt-get") is not None and not cached_kernels(),
    )


def _debian_source_place() -> str:
    installed = Path("/usr/src") / f"{DEBIAN_SOURCE}.tar.xz"
    downloaded = list((cache_root() / "downloads").glob(f"{DEBIAN_SOURCE}_*.tar.xz"))
    for tarball in (installed, *downloaded):
        if tarball.is_file():
            return str(tarball)
    if shutil.which("apt-cache") and not _run(["apt-cache", "show", DEBIAN_SOURCE]).returncode:
        return "apt offers it"
    return ""


def _qemu_for_l1() -> Check:
    ok, detail = _qemu_for_l1_place()
    return Check(
        "QEMU for L1",
        ok,
        detail,
        apt="",
        dnf="",
        needed_for="drivers rsp, gdb and monitor",
        required=False,
    )


def _qemu_for_l1_place() -> tuple[bool, str]:
    """(whether it is there or can be had, where)."""
    try:
        suite = own_suite()
    except QemuDiffError as error:
        return False, str(error)
    if (bundle := cached_bundle(suite)) is not None:
        return True, f"{bundle.archive}"
    if shutil.which("apt-get") is None:
        return False, "not in the cache, and no apt-get to fetch it with"
    return True, f"apt-get can fetch that of Debian {suite}"


def _disk_space() -> Check:
    cache = cache_root()
    free = shutil.disk_usage(_existing_ancestor(cache)).free
    another = "export QEMU_DIFF_CACHE=DIRECTORY on a larger disk"
    return Check(
        "disk space",
        ok=free >= CACHE_BYTES,
        detail=f"{free / 1e9:.1f} GB free for {cache}"
        + ("" if free >= CACHE_BYTES else f", {CACHE_BYTES / 1e9:.0f} GB are needed"),
        apt=another,
        dnf=another,
        needed_for="kernel sources and objects",
        required=not cached_kernels(),
    )


def _cache_place() -> Check:
    cache = cache_root()
    place = _existing_ancestor(cache)
    ok = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    remedy = "export QEMU_DIFF_CACHE=DIRECTORY that can be written"
    return Check(
        "cache",
        ok=ok,
        detail=str(cache) if ok else f"{place} is no directory that can be written",
        apt=remedy,
        dnf=remedy,
        needed_for="kernels, and our own compiled programs",
    )


def _existing_ancestor(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if mode(parent) is not None)


# --- probes --------------------------------------------------------------------------------------


def _compile(compiler: str, source: str, *options: str) -> str:
    """Compile a small program. "" if it works, else the reason in one line."""
    if shutil.which(compiler) is None:
        return f"{compiler} is not on PATH"
    with scratch_directory() as scratch:
        program = scratch / "probe.c"
        program.write_text(source)
        output = str(program.with_suffix(".out"))
        done = _run([compiler, *options, "-o", output, str(program)])
    if not done.returncode:
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    reason = next((line for line in lines if "error" in line or "cannot" in line), lines[0])
    return f"{compiler}: {reason.removeprefix(f'{program}:')}"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
