"""Everything that reads bytes of a guest, of a debugger or of a disk, as a function of bytes.

A target that takes what is sealed takes what lies under the seal: whoever forges a file forges its
checksum as well.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import tempfile
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from qemu_diff.abi import (
    SHARED_HEADER,
    SHARED_HEADER_BYTES,
    SHARED_SEAL,
    STEP_RECORD,
    TRUTH_HEADER,
    TRUTH_HEADER_BYTES,
    TRUTH_RECORD,
    RecordFlag,
)
from qemu_diff.campaign.bisect_log import parse_log
from qemu_diff.campaign.cell import learnt_from
from qemu_diff.campaign.finding_directory import FORMAT_VERSION, read_finding
from qemu_diff.campaign.ledger import Ledger
from qemu_diff.campaign.parcel import unpack
from qemu_diff.campaign.prepare import Places
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.observation import observe
from qemu_diff.compare.placement_map import quiet_windows, turns
from qemu_diff.compare.sequence import sequence_of_pass
from qemu_diff.compare.verdict import judged_cell
from qemu_diff.config import load_campaign
from qemu_diff.drive import script, session
from qemu_diff.drive.mi import record_of
from qemu_diff.drive.monitor import parse_registers, strip_echo
from qemu_diff.drive.peer import parse_console
from qemu_diff.drive.recorded_job import recorded_job
from qemu_diff.errors import (
    CorruptDataError,
    DebuggerError,
    InfrastructureError,
    LedgerError,
    LostGuestError,
    QemuDiffError,
    ResultsError,
    SourceError,
    UserError,
)
from qemu_diff.guest.gdbstub import GdbStub
from qemu_diff.guest.machine import came_up_protected
from qemu_diff.guest.packet import PacketReader, encode_packet, is_console_output, parse_stop
from qemu_diff.guest.process import ConsoleLog, console_findings
from qemu_diff.guest.shared import read_header, seal_log, trim
from qemu_diff.kernels import cache as kernel_cache
from qemu_diff.kernels.apt import offers
from qemu_diff.kernels.image import ready_build
from qemu_diff.kernels.kconfig import parse_config, read_fragment
from qemu_diff.kernels.patch import _targets
from qemu_diff.kernels.series import read_patches
from qemu_diff.kernels.symbols import step_functions
from qemu_diff.kernels.tree import inside
from qemu_diff.model import Cell, ImageSource, Payload
from qemu_diff.report.results import JOURNAL, VERDICTS, read_results
from qemu_diff.trace.interrupts import read_deliveries
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.records import read_records
from qemu_diff.trace.symbols import read_symbols
from qemu_diff.trace.trace import read_trace
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.reader import mark_truth, read_truth, trim_truth

DATA = Path(__file__).parents[1] / "data"
FINDING = DATA / "finding"

Seeds = tuple[bytes, ...]

MOST_MESSAGE = 4000
"""Characters of a refusal beside what it repeats of its input."""


@dataclass(frozen=True)
class Target:
    """One reader.

    :param seeds: what it must be able to read.
    :param read: (input, an empty directory of its own) → whatever; what it raises beside
        ``refuses`` is a fault.
    :param refuses: what it may raise.
    :param binary: whether coverage-guided fuzzing gets further than tampering with valid files.
    """

    name: str
    seeds: Callable[[], Seeds]
    read: Callable[[bytes, Path], object]
    refuses: tuple[type[QemuDiffError], ...] = ()
    binary: bool = False


def stored(*names: str) -> Callable[[], Seeds]:
    """Files of a real finding."""
    return lambda: tuple((FINDING / name).read_bytes() for name in names)


def literal(*texts: str | bytes) -> Callable[[], Seeds]:
    """Inputs as they are written here."""
    encoded = tuple(one.encode() if isinstance(one, str) else one for one in texts)
    return lambda: encoded


def _file(directory: Path, content: bytes, name: str = "input") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


# --- what a guest leaves in memory and in logs ---------------------------------------------------


def _body(name: str, header: int) -> Callable[[], Seeds]:
    return lambda: ((FINDING / name).read_bytes()[header:],)


def sealed_records(body: bytes) -> bytes:
    """A record file whose checksum is right, whatever its records are."""
    whole = body[: len(body) // STEP_RECORD.itemsize * STEP_RECORD.itemsize]
    records = np.frombuffer(whole, STEP_RECORD).copy()
    records["sequence"] = np.arange(len(records))
    header = np.frombuffer((FINDING / "records.bin").read_bytes(), SHARED_HEADER, 1).copy()
    header["count"] = len(records)
    seal = np.zeros(1, SHARED_SEAL)
    for name in SHARED_SEAL.names or ():
        seal[name] = header[name]
    content = records.tobytes()
    header["crc32"] = zlib.crc32(seal.tobytes(), zlib.crc32(content))
    return header.tobytes().ljust(SHARED_HEADER_BYTES, b"\0") + content


def sealed_truth(body: bytes) -> bytes:
    """A truth file whose checksum is right."""
    content = body[: len(body) // TRUTH_RECORD.itemsize * TRUTH_RECORD.itemsize]
    header = np.frombuffer((FINDING / "truth.bin").read_bytes(), TRUTH_HEADER, 1).copy()
    header["count"] = len(content) // TRUTH_RECORD.itemsize
    header["crc32"] = zlib.crc32(content)
    return header.tobytes().ljust(TRUTH_HEADER_BYTES, b"\0") + content


def _records(data: bytes, directory: Path) -> None:
    path = _file(directory, data)
    try:
        read_header(path)
        trim(path)
    finally:
        read_records(path)


def _truth(data: bytes, directory: Path) -> None:
    path = _file(directory, data)
    trim_truth(path)
    records = read_truth(path)
    mark_truth(path, range(0, len(records) + 1, 2))
    read_truth(path)


@cache
def _payload() -> Payload:
    document = json.loads((FINDING / "finding.json").read_text())["payload"]
    payload: Payload = TypeAdapter(Payload).validate_python(document)
    return replace(payload, blob=(FINDING / "payload.bin").read_bytes())


def _trace(directory: Path, records: bytes, truth: bytes, log: bytes) -> None:
    """All that a boot is judged by."""
    paths = (
        _file(directory, records, "records"),
        _file(directory, truth, "truth"),
        _file(directory, log, "log"),
    )
    seal_log(paths[2])
    trace = read_trace(*paths, PhantomRule.INSN_SIZE)
    payload = _payload()
    program, listing = program_of(payload), Listing(payload)
    observation = observe(trace, program, listing, "run")
    judged_cell(_cell(), observation, listing)
    quiet_windows(observation.steps, observation.placements)
    turns(trace.records, observation.steps)
    sequence_of_pass(trace, program, listing, 0)


@cache
def _cell() -> Cell:
    document = json.loads((FINDING / "finding.json").read_text())["cell"]
    cell: Cell = TypeAdapter(Cell).validate_python(document)
    return cell


def _judged_records(data: bytes, directory: Path) -> None:
    truth, log = stored("truth.bin", "timer.log")()
    _trace(directory, sealed_records(data), truth, log)


def _judged_truth(data: bytes, directory: Path) -> None:
    records, log = stored("records.bin", "timer.log")()
    _trace(directory, records, sealed_truth(data), log)


def _learnt(data: bytes, directory: Path) -> None:
    """A pass in which timers were armed, which is what windows are learnt from."""
    records = np.frombuffer(sealed_records(data)[SHARED_HEADER_BYTES:], STEP_RECORD).copy()
    records["flags"] |= np.uint32(RecordFlag.TIMER_ARMED)
    paths = (
        _file(directory, sealed_records(records.tobytes()), "records"),
        _file(directory, stored("truth.bin")()[0], "truth"),
        _file(directory, stored("timer.log")()[0], "log"),
    )
    seal_log(paths[2])
    learnt_from(read_trace(*paths, PhantomRule.INSN_SIZE))


def _timer_log(data: bytes, directory: Path) -> None:
    path = _file(directory, data)
    seal_log(path)
    read_deliveries(path)


def _console(data: bytes, directory: Path) -> None:
    qemu = directory / "console"
    log = ConsoleLog(io.BytesIO())
    log.write(data)
    log.finish()
    text = data.decode(errors="replace")
    parse_console(text)
    came_up_protected(text)
    console_findings(data, 0)
    _file(directory, data, qemu.name)


# --- what debuggers say --------------------------------------------------------------------------


def _packets(data: bytes, _: Path) -> None:
    reader = PacketReader()
    for at in range(0, len(data), 7):
        for payload in reader.feed(data[at : at + 7]):
            if not is_console_output(payload):
                parse_stop(payload)


def _description(data: bytes, _: Path) -> None:
    stub: Any = SimpleNamespace(_describe=lambda _annex: data.decode(errors="replace"))
    GdbStub._described_registers(stub, "target.xml")


def _mi(data: bytes, _: Path) -> None:
    record_of(data.decode(errors="replace").partition("\n")[0])


def _monitor(data: bytes, _: Path) -> None:
    parse_registers(strip_echo("info registers", data))


# --- what people and other machines hand over ----------------------------------------------------


def _fill(directory: Path) -> None:
    """All files of a finding but its manifest."""
    for path in FINDING.iterdir():
        _file(directory, path.read_bytes(), path.name)
    kernel = json.loads((FINDING / "finding.json").read_text())["kernel"]
    for one in (*kernel["patches"], *kernel["kconfig"]):
        _file(directory, b"diff", one["file"])
    _file(directory, b"stepvmm", "stepvmm")
    seal_log(directory / "timer.log")


def _manifest(directory: Path) -> bytes:
    files = {
        path.name: {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(directory.iterdir())
        if path.name != "manifest.json"
    }
    return json.dumps({"format_version": FORMAT_VERSION, "files": files}).encode()


def _manifest_seed() -> Seeds:
    with tempfile.TemporaryDirectory() as scratch:
        _fill(Path(scratch))
        return (_manifest(Path(scratch)),)


def _finding(name: str) -> Callable[[bytes, Path], None]:
    """A finding with one file that is not what it was, and a manifest that fits."""

    def read(data: bytes, directory: Path) -> None:
        _fill(directory)
        _file(directory, data, name)
        if name != "manifest.json":
            _file(directory, _manifest(directory), "manifest.json")
        found = read_finding(directory)
        assert all((directory / one).parent == directory for one in found.files)

    return read


def _job(data: bytes, _: Path) -> None:
    recorded_job(data, "job")


def _script(data: bytes, directory: Path) -> None:
    script.read_script(_file(directory, data, "input.job"))


def _session(data: bytes, directory: Path) -> None:
    session.read_session(_file(directory, data, "input.gdb"))


def _campaign(data: bytes, directory: Path) -> None:
    load_campaign(_file(directory, data, "input.toml"))


def _verdicts(data: bytes, directory: Path) -> None:
    _file(directory, data, "verdicts.json")
    read_results(directory)


def _journal(data: bytes, directory: Path) -> None:
    verdicts = (DATA / "verdicts.json").read_bytes()
    _file(directory, verdicts, VERDICTS)
    _file(directory, b'{"after": %d}\n%b\n' % (zlib.crc32(verdicts), data), JOURNAL)
    read_results(directory)


def _journal_seed() -> Seeds:
    document = json.loads((DATA / "verdicts.json").read_text())
    lines = [{"cell": one} for one in document["cells"]]
    lines += [{"pair": one} for one in document["pairs"]]
    return tuple(json.dumps(line).encode() for line in lines[:3] + lines[-1:])


def _ledger_seed() -> Seeds:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "ledger"
        result = read_results(DATA)
        Ledger(path).record(result, result.cells, result.pairs, Path("out"))
        return (path.read_bytes(),)


def _ledger(data: bytes, directory: Path) -> None:
    ledger = Ledger(_file(directory, data), wait_s=0)
    for name in ("seed", *ledger.campaigns()):
        ledger.past_runs(name)
        ledger.durations(name)
    ledger.check()


def _bisect_log(data: bytes, _: Path) -> None:
    parse_log(data.decode(errors="surrogateescape"), "log")


def _parcel_seed() -> Seeds:
    seeds = []
    for mode in ("w:gz", "w"):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode=mode) as tar:
            for name in ("cell/run/job", "findings/one/job"):
                tar.add(FINDING / "job", name)
        seeds.append(archive.getvalue())
    return tuple(seeds)


def _parcel(data: bytes, directory: Path) -> None:
    """Whether anything is anywhere but where it belongs, too."""
    packed = data if data[:2] == b"\x1f\x8b" else gzip.compress(data, 1)
    out = directory / "out"
    out.mkdir()
    try:
        unpack(packed, "cell", Places(directory, directory, out / "cells"))
    finally:
        assert {path.name for path in directory.iterdir()} == {"out"}
        assert {path.name for path in out.iterdir()} <= {"cells", "findings"}
        assert not any(path.is_symlink() for path in out.rglob("*"))


# --- kernels -------------------------------------------------------------------------------------


def _metadata_seed() -> Seeds:
    digest = {"size": 1, "sha256": "0" * 64}
    return (
        json.dumps(
            {
                "version": kernel_cache.METADATA_VERSION, "key": "k" * 20, "names": ["one"],
                "release": "6.1", "lineage": "l", "source": "s", "patches": [["p", "d"]],
                "fragments": [], "toolchain": ["gcc"], "dropped": [], "build_s": 1.0,
                "files": {"Image": digest, "vmlinux": digest},
            }
        ).encode(),
    )  # fmt: skip


def _metadata(data: bytes, directory: Path) -> None:
    entry = directory / "entry"
    entry.mkdir()
    _file(entry, data, "metadata.json")
    metadata = kernel_cache._load(entry)
    if metadata is not None:
        kernel_cache._intact(entry, metadata)
        kernel_cache._describe(entry)


def _elf_seed() -> Seeds:
    """A small program with symbols, which a Python of any machine has none of: made by hand."""
    names = b"\0.symtab\0.strtab\0handle_hvc\0"
    symbols = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    symbols += struct.pack("<IBBHQQ", names.index(b"handle_hvc"), 0x12, 0, 1, 0xFFFF_8000, 16)
    begin = 64
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 183, 1, 0, 0, begin + len(names) + len(symbols), 0, 64, 0, 0, 64, 3, 2
    )

    sections = bytes(64)
    for name, kind, offset, size, link, entry in (
        (1, 2, begin + len(names), len(symbols), 2, 24),
        (9, 3, begin, len(names), 0, 0),
    ):
        sections += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, link, 1, 8, entry)
    return (header + names + symbols + sections,)


def _vmlinux(data: bytes, directory: Path) -> None:
    path = _file(directory, data)
    step_functions(path)
    read_symbols(path)


def _image_seed() -> Seeds:
    image = bytes(56) + b"ARM\x64" + b"Linux version 6.1.0 (x)\n"
    return image, gzip.compress(image, 1)


def _image(data: bytes, directory: Path) -> None:
    os.environ["QEMU_DIFF_CACHE"] = str(directory / "cache")
    ready_build("one", ImageSource(_file(directory, data), None))


def _fragment(data: bytes, directory: Path) -> None:
    read_fragment(_file(directory, data))
    parse_config(data.decode(errors="replace"))


def _patch(data: bytes, directory: Path) -> None:
    for one in read_patches([_file(directory, data)]):
        for target in _targets(one):
            assert inside(target)


def _series(data: bytes, directory: Path) -> None:
    _file(directory, data, "series")
    _file(directory, b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "one.patch")
    for one in read_patches([directory]):
        assert one.path.resolve().is_relative_to(directory.resolve())


def _offers(data: bytes, _: Path) -> None:
    offers(data.decode(errors="replace"))


CONSOLE = (
    "[    1.0] kvm [1]: VHE mode initialized successfully\r\npeer: begin\r\nwords\r\n"
    "WARNING: CPU: 0 PID: 1 at a.c:1\r\npeer: exit 0 12345\r\nKernel panic - not syncing: x\r\n"
)
MONITOR = (
    b"info registers\x1b[K\r\n\r\nCPU#0\r\n PC=ffff800008012345 X00=0000000000000000 \r\n"
    b"PSTATE=600003c5 -ZC- EL1h    FPU disabled\r\n"
)
PACKETS = b"+".join(encode_packet(one) for one in (b"T05thread:01;", b"S05", b"O6869", b"T05"))
TARGET = (
    '<?xml version="1.0"?><!DOCTYPE feature SYSTEM "gdb-target.dtd"><feature name="x">'
    '<reg name="VBAR_EL2" bitsize="64" regnum="200"/><reg name="x0" bitsize="64"/></feature>'
)
BILLION = (
    '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    '<l><reg name="&b;"/></l>'
)
MI = (
    '12^done,value="0x5a5a0000",frame={level="0",args=[],addr="0x1"},l=[a="1",b={c="2"}]',
    '*stopped,reason="end-stepping-range",thread-id="1"',
    '~"text\\n"',
)
CAMPAIGN = """
[campaign]
name = "one"
[kernels.a]
source = "debian:linux-source-6.1"
reverts = []
[kernels.b]
source = "debian:linux-source-6.1"
[[pair]]
baseline = "a"
candidate = "b"
[[scenario]]
payload = ["hvc"]
flood = { source = "host_timer", placement = "sweep", step_ns = 8 }
machine = { kvm_mode = ["vhe", "nvhe"] }
"""
SESSION = "#! payload hvc\nbreak first_hvc\ncontinue\nstepi 3\ninfo registers pc\n"
BISECT = (
    "git bisect start 'bad' 'good'\n# good: [" + "a" * 40 + "] words\n"
    "git bisect good " + "a" * 40 + "\n# because: x\ngit bisect bad " + "b" * 40 + "\n"
)
MAIL = (
    b"From 1 Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nDate: Mon, 1 Jan 2024 00:00:00 +0000\n"
    b"Subject: [PATCH 1/2] KVM: x\n\nwords\n---\n x | 2 +-\n\ndiff --git a/x b/x\n"
    b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n-- \n2.39\n"
)
BROKEN_FILE = (CorruptDataError, LostGuestError)

TARGETS = {
    one.name: one
    for one in (
        Target("records", stored("records.bin"), _records, BROKEN_FILE, binary=True),
        Target("truth", stored("truth.bin"), _truth, BROKEN_FILE, binary=True),
        Target(
            "judged records", _body("records.bin", SHARED_HEADER_BYTES), _judged_records,
            (InfrastructureError,), binary=True,
        ),
        Target(
            "judged truth", _body("truth.bin", TRUTH_HEADER_BYTES), _judged_truth,
            (InfrastructureError,), binary=True,
        ),
        Target(
            "learnt windows", _body("records.bin", SHARED_HEADER_BYTES), _learnt,
            (InfrastructureError,), binary=True,
        ),
        Target("timer log", stored("timer.log"), _timer_log, BROKEN_FILE),
        Target("console", literal(CONSOLE), _console),
        Target("RSP packets", literal(PACKETS), _packets, (DebuggerError,), binary=True),
        Target("gdbstub description", literal(TARGET, BILLION), _description, (DebuggerError,)),
        Target("GDB/MI", literal(*MI), _mi, (DebuggerError,)),
        Target("HMP", literal(MONITOR), _monitor, (DebuggerError,)),
        Target("job", stored("job"), _job, (ResultsError,), binary=True),
        Target("job script", stored("script.job"), _script, (UserError,)),
        Target("gdb session", literal(SESSION), _session, (UserError,)),
        Target("campaign", literal(CAMPAIGN), _campaign, (UserError,)),
        Target(
            "verdicts", lambda: ((DATA / "verdicts.json").read_bytes(),), _verdicts, (ResultsError,)
        ),
        Target("verdicts' journal", _journal_seed, _journal, (ResultsError,)),
        Target("ledger", _ledger_seed, _ledger, (LedgerError,), binary=True),
        Target("finding", stored("finding.json"), _finding("finding.json"), (ResultsError,)),
        Target(
            "finding's manifest", _manifest_seed, _finding("manifest.json"), (ResultsError,),
        ),
        Target("parcel", _parcel_seed, _parcel, (CorruptDataError,), binary=True),
        Target("bisection log", literal(BISECT), _bisect_log, (UserError,)),
        Target("cache entry", _metadata_seed, _metadata),
        Target("vmlinux", _elf_seed, _vmlinux, (SourceError,), binary=True),
        Target("kernel image", _image_seed, _image, (SourceError,)),
        Target(
            "kconfig fragment", literal("CONFIG_KVM=y\n# CONFIG_X is not set\n"), _fragment,
            (UserError,),
        ),
        Target("patch", literal(MAIL, MAIL[MAIL.index(b"diff") :]), _patch, (UserError,)),
        Target("series", literal("one.patch\n# two.patch -p1\n"), _series, (UserError,)),
        Target("apt offers", literal("'http://x/p_1_all.deb' p_1_all.deb 10 SHA256:0\n"), _offers),
    )
}  # fmt: skip
"""By name."""


def fault_of(target: Target, data: bytes, directory: Path) -> str:
    """What is wrong with how a target took an input; nothing where it was read, or refused in lines
    that a terminal can show.

    :param directory: empty.
    """
    try:
        target.read(data, directory)
    except target.refuses as error:
        return _unfit(str(error), data)
    except Exception as error:
        return "".join(traceback.format_exception(error))
    return ""


def _unfit(message: str, data: bytes) -> str:
    if not all(line.strip() for line in message.split("\n")):
        return f"an empty line in {message[:200]!r}"
    if len(message) > MOST_MESSAGE + len(data):
        return f"a message of {len(message)} characters: {message[:200]!r}"
    return ""
