"""A finding's directory is what was written, or it is refused in one line."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.abi import JOB_HEADER, JOB_MAGIC, STEP_ABI_VERSION
from qemu_diff.campaign.finding_directory import (
    FINDING,
    FORMAT_VERSION,
    LONGEST_ID,
    MANIFEST,
    NEEDED,
    FindingRecord,
    StoredKernel,
    StoredPatch,
    finding_id,
    read_finding,
    write_finding,
)
from qemu_diff.compare.columns import Columns
from qemu_diff.errors import ResultsError
from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES
from qemu_diff.model import (
    Cell,
    Confirmation,
    DebianSource,
    Driver,
    Finding,
    FloodSource,
    FloodSpec,
    Instruction,
    MachineSpec,
    Payload,
    Placement,
    Signature,
    ViolationKind,
)

BLOB = bytes.fromhex("1f2003d5") * 4
AT = Instruction(LOAD_ADDRESS, "here", "nop")
FLOOD = FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP, first_ns=7)
RECORD = FindingRecord(
    format_version=FORMAT_VERSION,
    tool_version="1",
    id="k.p.vhe.quiet.lost-step.here",
    signature=Signature("step/tcg", "nop", ViolationKind.LOST_STEP),
    count=4000,
    first_ns=10,
    last_ns=20,
    confirmation=Confirmation(5, 2),
    finding=Finding(
        ViolationKind.LOST_STEP, "fresh", 1, 0, AT, AT, (AT,), (AT, AT), (AT,), 5, 6, "placement",
        "two instructions ran",
    ),
    cell=Cell("k.p.vhe.quiet", "k", "p", MachineSpec(), FLOOD, Driver.IN_GUEST, 1),
    budget_s=60.0,
    payload=Payload(
        "p", BLOB, LOAD_ADDRESS, LOAD_ADDRESS, LOAD_ADDRESS, LOAD_ADDRESS + 8, (), ("nop",)
    ),
    kernel=StoredKernel(
        "k", "6.1", "0123456789abcdef0123", DebianSource("linux-source-6.1"),
        patches=(StoredPatch("patch-0", "unpatched.patch", "ab"),),
    ),
    qemu="QEMU",
    qemu_identity="cd",
    phantom_rule="insn-size",
    fingerprint="ef",
)  # fmt: skip


def job(version: int = STEP_ABI_VERSION) -> bytes:
    body = b"operations"
    header = np.zeros(1, JOB_HEADER)
    header["magic"], header["version"], header["crc32"] = JOB_MAGIC, version, zlib.crc32(body)
    return header.tobytes() + body


def files(**changed: bytes) -> dict[str, bytes | Path]:
    content = {name: name.encode() for name in NEEDED if name != FINDING}
    return {**content, "payload.bin": BLOB, "job": job(), "patch-0": b"diff", **changed}


def written(directory: Path, record: FindingRecord = RECORD, **changed: bytes) -> Path:
    write_finding(directory, record, files(**changed), Columns((), ()))
    return directory


def refusal(directory: Path) -> str:
    with pytest.raises(ResultsError) as caught:
        read_finding(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(directory: Path, name: str, change: Callable[[Any], None]) -> Path:
    """A file of JSON changed, and the manifest made to fit."""
    document = json.loads((directory / name).read_text())
    change(document)
    text = json.dumps(document)
    (directory / name).write_text(text)
    if name != MANIFEST:
        digest = {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        edited(directory, MANIFEST, lambda manifest: manifest["files"].update({name: digest}))
    return directory


def test_what_is_written_is_read(tmp_path: Path) -> None:
    stored = read_finding(written(tmp_path / "findings" / "a"))
    assert stored.record == RECORD
    assert stored.job.content == job()
    assert {*NEEDED, "patch-0", "columns.json"} == {*stored.files}
    assert [path.name for path in (tmp_path / "findings").iterdir()] == ["a"]


def test_it_is_replaced_as_a_whole(tmp_path: Path) -> None:
    written(tmp_path / "a", extra=b"old")
    written(tmp_path / "a", replace(RECORD, count=1))
    assert read_finding(tmp_path / "a").record.count == 1
    assert not (tmp_path / "a" / "extra").exists()


def set_in(*path: str, value: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format_version",), 2, "format version 2, this qemu-diff reads 1"),
        (("kernel", "key"), "../../../../home/me1", "is no key"),
        (("id",), "../../outside", "id '../../outside' is no name"),
        (("id",), "/tmp/outside", "is no name"),
        (("cell", "job"), "../../outside", "cell.job '../../outside' is no name"),
        (("payload", "name"), "a/b", "payload.name 'a/b' is no name"),
        (("kernel", "name"), "a]\nx", "kernel.name 'a]\\nx' is no name"),
        (("kernel", "source"), {"package": "p", "suite": "s\ndeb http://x"}, "kernel.source.suite"),
        (("qemu_spec",), {"name": "q", "suite": "../x"}, "qemu_spec.suite '../x' is no name"),
        (("payload", "load_address"), 0, "payload.load_address is 0x0"),
        (("payload", "end"), 1 << 40, "its range is not in L2's memory"),
        (("budget_s",), -1.0, "budget_s -1.0 is none"),
        (("budget_s",), float("inf"), "budget_s inf is none"),
        (("cell", "machine", "memory_mib"), 1 << 30, "memory_mib"),
        (("cell", "seed"), -1, "cell.seed -1"),
        (("cell", "machine", "kvm_mode"), "other", "cell.machine.kvm_mode: Input should be"),
        (("kernel", "patches"), [["/etc/passwd", "p", "s"]], "kernel"),
        (("kernel", "patches", ), [{"file": "/etc/passwd", "name": "p", "sha256": "s"}],
         "'/etc/passwd' is not in the manifest"),
        (("finding",), None, "finding: Input should be"),
    ],
)  # fmt: skip
def test_a_record_that_means_nothing_is_refused(
    tmp_path: Path, path: tuple[str, ...], value: object, said: str
) -> None:
    assert said in refusal(edited(written(tmp_path / "a"), FINDING, set_in(*path, value=value)))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "", ".hidden", "a\0b"])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    there = written(tmp_path / "a")
    edited(
        there,
        MANIFEST,
        lambda document: document["files"].update({name: {"size": 0, "sha256": ""}}),
    )
    assert "is no name of a file in a finding" in refusal(there)


def test_files_are_what_they_were(tmp_path: Path) -> None:
    there = written(tmp_path / "a")
    (there / "truth.bin").write_bytes(b"TRUTH.bin")
    assert "truth.bin: was changed" in refusal(there)
    (there / "truth.bin").write_bytes(b"longer than it was")
    assert "truth.bin: 18 bytes, not the 9 of the finding" in refusal(there)
    (there / "truth.bin").unlink()
    assert "truth.bin: No such file" in refusal(there)
    (there / "truth.bin").mkdir()
    assert "truth.bin: not a file" in refusal(there)


def test_a_needed_file_must_be_listed(tmp_path: Path) -> None:
    there = written(tmp_path / "a")
    edited(there, MANIFEST, lambda document: document["files"].pop("job"))
    assert "job is not listed" in refusal(there)


def test_a_job_of_another_version(tmp_path: Path) -> None:
    assert f"this qemu-diff runs {STEP_ABI_VERSION}" in refusal(
        written(tmp_path / "a", job=job(STEP_ABI_VERSION + 1))
    )
    assert "not a job" in refusal(written(tmp_path / "b", job=bytes(100)))
    assert "3 bytes are no job" in refusal(written(tmp_path / "c", job=b"job"))


def test_a_payload_that_does_not_fit(tmp_path: Path) -> None:
    assert "do not fit into L2" in refusal(
        written(tmp_path / "a", **{"payload.bin": bytes(MEMORY_BYTES + 1)})
    )


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"files": 3}'])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    there = written(tmp_path / "a")
    (there / MANIFEST).write_text(text)
    refusal(there)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    assert "no such directory" in refusal(tmp_path / "nothing")
    assert "no finding's directory" in refusal(tmp_path)


labels = st.text(max_size=300)


@given(labels, labels)
def test_an_id_is_safe_as_a_directory(label: str, function: str) -> None:
    finding = replace(RECORD.finding, executed=(replace(AT, label=label),))
    name = finding_id(RECORD.cell, replace(RECORD.signature, function=function), finding)
    assert 0 < len(name.encode()) <= LONGEST_ID
    assert Path(name).name == name
    assert not name.startswith(".")
    assert name == finding_id(RECORD.cell, replace(RECORD.signature, function=function), finding)


def test_an_id_can_be_read() -> None:
    assert finding_id(RECORD.cell, RECORD.signature, RECORD.finding) == (
        "k.p.vhe.quiet.lost-step.here"
    )
