"""``RESULTS/findings/<id>/``: one broken step with all that is needed to see it again.

docs/findings-format.md describes the files. What is read here may come from anybody: names can't
leave the directory, every file has a size and a checksum, and what does not fit is one clear line.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qemu_diff.compare.columns import Columns
from qemu_diff.drive.in_guest import RECORDS, TIMER_LOG, TRUTH
from qemu_diff.drive.recorded_job import RecordedJob, recorded_job
from qemu_diff.errors import ResultsError
from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES
from qemu_diff.guest.shared import seal_of
from qemu_diff.model import (
    Cell,
    Confirmation,
    DebianSource,
    Finding,
    KernelSource,
    Payload,
    QemuSpec,
    Signature,
)
from qemu_diff.scratch import scratch_directory

FORMAT_VERSION = 1
"""Of the directory; counted up whenever an older qemu-diff could misread a newer one's files."""

MANIFEST, FINDING = "manifest.json", "finding.json"
JOB, SCRIPT, PAYLOAD_SOURCE, PAYLOAD_BLOB = "job", "script.job", "payload.S", "payload.bin"
STEPVMM = "stepvmm"
COLUMNS_TEXT, COLUMNS_JSON = "columns.txt", "columns.json"
TRACE = (RECORDS, TRUTH, TIMER_LOG, seal_of(Path(TIMER_LOG)).name)

NEEDED = (FINDING, JOB, SCRIPT, PAYLOAD_SOURCE, PAYLOAD_BLOB, STEPVMM, *TRACE)

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")
_KEY = re.compile(r"[0-9a-f]{20}")
MOST_FILE_BYTES = 256 << 20
MOST_MANIFEST_BYTES = 1 << 20
MOST_FILES = 1000

LONGEST_ID = 200
"""Bytes: a file name has 255, and some more are put before and after it."""

MEMORY_MIB = range(64, 65_537)
MOST_BUDGET_S = 86_400.0


@dataclass(frozen=True)
class StoredFile:
    """What a file must be."""

    size: int
    sha256: str


@dataclass(frozen=True)
class StoredPatch:
    """A patch or a kconfig fragment.

    :param file: its name in the finding's directory.
    :param name: its name where it came from.
    """

    file: str
    name: str
    sha256: str


@dataclass(frozen=True)
class StoredKernel:
    """Which kernel, and what it can be made of again.

    :param key: its key in the cache.
    """

    name: str
    release: str
    key: str
    source: KernelSource
    patches: tuple[StoredPatch, ...] = ()
    kconfig: tuple[StoredPatch, ...] = ()
    reverts: tuple[str, ...] = ()


@dataclass(frozen=True)
class FindingRecord:
    """``finding.json``.

    :param id: the directory's name where it was made.
    :param count: broken steps with this signature in the cell.
    :param finding: as the confirming boot shows it.
    :param cell: where it was found.
    :param first_ns: see :class:`qemu_diff.model.SignatureGroup`; the whole cell's.
    :param payload: without its bytes, which are in ``payload.bin``.
    :param fingerprint: of the confirming boot: of its records, truth and timer log.
    :param qemu_spec: what the campaign meant by its QEMU; None: the one on ``PATH``.
    """

    format_version: int
    tool_version: str
    id: str
    signature: Signature
    count: int
    first_ns: int | None
    last_ns: int | None
    confirmation: Confirmation
    finding: Finding
    cell: Cell
    budget_s: float
    payload: Payload
    kernel: StoredKernel
    qemu: str
    qemu_identity: str
    phantom_rule: str
    fingerprint: str
    qemu_spec: QemuSpec | None = None


@dataclass(frozen=True)
class StoredFinding:
    """A finding's directory, read and checked."""

    directory: Path
    record: FindingRecord
    job: RecordedJob
    files: tuple[str, ...]

    @property
    def stepvmm(self) -> Path:
        """The step VMM that ran the job."""
        return self.directory / STEPVMM


_RECORD = TypeAdapter(FindingRecord)
_COLUMNS = TypeAdapter(Columns)
_MANIFEST = TypeAdapter(dict[str, StoredFile])


def tool_version() -> str:
    """Our own version, as the package states it."""
    try:
        return version("qemu-diff")
    except PackageNotFoundError:
        return "unknown"


def finding_id(cell: Cell, signature: Signature, finding: Finding) -> str:
    """Readable, stable, and safe as a directory's name."""
    parts = [cell.id, signature.kind, finding.instruction.label, signature.function]
    name = _UNSAFE.sub("_", ".".join(filter(None, parts))).lstrip(".-+")
    if len(name) <= LONGEST_ID:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: LONGEST_ID - 13]}-{digest}"


# --- writing -------------------------------------------------------------------------------------


def write_finding(
    directory: Path, record: FindingRecord, files: Mapping[str, bytes | Path], shown: Columns
) -> None:
    """Write a finding's directory, whole or not at all; one that is there is replaced.

    :param files: name → content, or the file to be copied.
    :raises OSError: the disk refuses.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with scratch_directory(directory.parent) as scratch:
        made = scratch / directory.name
        made.mkdir()
        _fill(made, record, files, shown)
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)


def _fill(
    scratch: Path, record: FindingRecord, files: Mapping[str, bytes | Path], shown: Columns
) -> None:
    for name, content in files.items():
        assert _FILE_NAME.fullmatch(name), name
        (scratch / name).write_bytes(content.read_bytes() if isinstance(content, Path) else content)
    # The bytes are in a file of their own, and where they were assembled says nothing elsewhere.
    described = replace(record, payload=replace(record.payload, blob=b"", program=None))
    (scratch / FINDING).write_text(_json(_RECORD.dump_python(described, mode="json")))
    (scratch / COLUMNS_JSON).write_text(_json(_COLUMNS.dump_python(shown, mode="json")))
    manifest = {path.name: _stored(path) for path in sorted(scratch.iterdir())}
    (scratch / MANIFEST).write_text(
        _json(
            {
                "format_version": FORMAT_VERSION,
                "files": _MANIFEST.dump_python(manifest, mode="json"),
            }
        )
    )


def _stored(path: Path) -> StoredFile:
    with path.open("rb") as file:
        return StoredFile(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _json(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


# --- reading -------------------------------------------------------------------------------------


def read_finding(directory: Path) -> StoredFinding:
    """Read a finding's directory.

    :raises ResultsError: it is none, is of another version, or is not what was written.
    """
    if not directory.is_dir():
        raise ResultsError(f"{directory}: no such directory; findings are in RESULTS/findings")
    files = _checked_files(directory)
    record = _read_record(directory / FINDING)
    _check_record(directory, record, files)
    blob = (directory / PAYLOAD_BLOB).read_bytes()
    if len(blob) > MEMORY_BYTES:
        raise ResultsError(f"{directory / PAYLOAD_BLOB}: {len(blob)} bytes do not fit into L2")
    job = recorded_job((directory / JOB).read_bytes(), str(directory / JOB))
    whole = replace(record, payload=replace(record.payload, blob=blob))
    return StoredFinding(directory, whole, job, files)


def _checked_files(directory: Path) -> tuple[str, ...]:
    """The names of all files, each of which is what the manifest says."""
    path = directory / MANIFEST
    document = _load(path, MOST_MANIFEST_BYTES)
    _check_version(path, document)
    try:
        manifest = _MANIFEST.validate_python(document["files"])
    except (KeyError, ValidationError) as error:
        raise ResultsError(f"{path}: not a finding's manifest") from error
    if len(manifest) > MOST_FILES:
        raise ResultsError(f"{path}: {len(manifest)} files are no finding")
    for name in (*manifest, *NEEDED):
        if not _FILE_NAME.fullmatch(name):
            raise ResultsError(f"{path}: {name!r} is no name of a file in a finding")
        if name not in manifest:
            raise ResultsError(f"{path}: {name} is not listed")
        _check_file(directory / name, manifest[name])
    return tuple(manifest)


def _check_file(path: Path, expected: StoredFile) -> None:
    try:
        found = path.lstat()
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ResultsError(f"{path}: not a file")
    if found.st_size != expected.size or found.st_size > MOST_FILE_BYTES:
        raise ResultsError(f"{path}: {found.st_size} bytes, not the {expected.size} of the finding")
    try:
        actual = _stored(path)
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    if actual != expected:
        raise ResultsError(f"{path}: was changed: its checksum is not the finding's")


def _load(path: Path, most: int) -> dict[str, Any]:
    try:
        if not path.is_file() or path.is_symlink():
            raise ResultsError(f"{path}: is not there: no finding's directory")
        if path.stat().st_size > most:
            raise ResultsError(f"{path}: {path.stat().st_size} bytes are too many")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: not JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise ResultsError(f"{path}: not a JSON object")
    return document


def _check_version(path: Path, document: dict[str, Any]) -> None:
    found = document.get("format_version")
    if found != FORMAT_VERSION:
        raise ResultsError(
            f"{path}: a finding of format version {found}, this qemu-diff reads {FORMAT_VERSION}"
        )


def _read_record(path: Path) -> FindingRecord:
    document = _load(path, MOST_MANIFEST_BYTES)
    _check_version(path, document)
    try:
        return _RECORD.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ResultsError(f"{path}: {where}: {first['msg']}") from error


def _misnamed(record: FindingRecord) -> str:
    """What is no name though a file, a directory or a package is named after it; or nothing."""
    cell, kernel, spec = record.cell, record.kernel, record.qemu_spec
    names = {
        "id": record.id,
        "kernel.name": kernel.name,
        "payload.name": record.payload.name,
        "cell.kernel": cell.kernel,
        "cell.payload": cell.payload,
        "cell.job": cell.job,
        "cell.session": cell.session,
        "cell.machine.nested_qemu": cell.machine.nested_qemu,
        "qemu_spec.suite": spec.suite if spec else "",
    }
    if isinstance(kernel.source, DebianSource):
        names["kernel.source.package"] = kernel.source.package
        names["kernel.source.suite"] = kernel.source.suite or ""
    wrong = [what for what, name in names.items() if name and not _FILE_NAME.fullmatch(name)]
    return f"{wrong[0]} {names[wrong[0]]!r} is no name" if wrong else ""


def _check_record(directory: Path, record: FindingRecord, files: tuple[str, ...]) -> None:
    """What a type can't say."""
    payload, kernel, cell = record.payload, record.kernel, record.cell
    wrong = None
    if misnamed := _misnamed(record):
        wrong = misnamed
    elif not _KEY.fullmatch(kernel.key):
        wrong = f"kernel.key {kernel.key!r} is no key"
    elif payload.load_address != LOAD_ADDRESS:
        wrong = f"payload.load_address is {payload.load_address:#x}, not {LOAD_ADDRESS:#x}"
    elif not payload.load_address <= payload.begin <= payload.end <= LOAD_ADDRESS + MEMORY_BYTES:
        wrong = "payload: its range is not in L2's memory"
    elif not 0 < record.budget_s <= MOST_BUDGET_S:
        wrong = f"budget_s {record.budget_s} is none"
    elif cell.machine.memory_mib not in MEMORY_MIB:
        wrong = f"cell.machine.memory_mib {cell.machine.memory_mib} is none"
    elif not 0 <= cell.seed < 1 << 31:
        wrong = f"cell.seed {cell.seed} is none"
    for one in (*kernel.patches, *kernel.kconfig):
        if one.file not in files:
            wrong = f"kernel: {one.file!r} is not in the manifest"
    if wrong:
        raise ResultsError(f"{directory / FINDING}: {wrong}")
