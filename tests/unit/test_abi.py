"""The layouts that C and Python share, as the C compiler sees them, member by member."""

from __future__ import annotations

import re
import subprocess
import zlib
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from qemu_diff import abi
from qemu_diff.config.schema import MOST_BURST
from qemu_diff.guest.toolchain import HOST_COMPILER

GUEST_IMAGES = Path(__file__).parents[2] / "guest_images"
INCLUDE = GUEST_IMAGES / "include"
HEADERS = ("step_abi.h", "truth_abi.h", "crc32.h")

STRUCTS = {
    "job_header": abi.JOB_HEADER,
    "operation": abi.OPERATION,
    "placement": abi.PLACEMENT,
    "guest_counters": abi.GUEST_COUNTERS,
    "shared_header": abi.SHARED_HEADER,
    "shared_seal": abi.SHARED_SEAL,
    "step_record": abi.STEP_RECORD,
    "truth_header": abi.TRUTH_HEADER,
    "truth_record": abi.TRUTH_RECORD,
}

ENUMS: dict[str, tuple[type[IntEnum] | type[abi.RecordFlag], str]] = {
    "operation_code": (abi.OperationCode, "OP_"),
    "shared_state": (abi.SharedState, "STATE_"),
    "record_kind": (abi.RecordKind, "RECORD_"),
    "timer_kind": (abi.TimerKind, "TIMER_"),
    "write_kind": (abi.WriteKind, "WRITE_"),
    "read_kind": (abi.ReadKind, "READ_"),
    "occasion": (abi.Occasion, "ON_"),
    "record_flag": (abi.RecordFlag, "FLAG_"),
    "truth_kind": (abi.TruthKind, "TRUTH_"),
    "step_state": (abi.StepState, "STEP_"),
}
"""C's enum → ours, and the prefix that C has before each name."""

NUMBERS = {"timer_kind": "TIMER_KINDS"}
"""C's enum → the enumerator that says how many there are."""

CONSTANTS = (
    "STEP_ABI_VERSION",
    "TRUTH_ABI_VERSION",
    "JOB_MAGIC",
    "SHARED_MAGIC",
    "TRUTH_MAGIC",
    "SHARED_HEADER_BYTES",
    "TRUTH_HEADER_BYTES",
    "FROM_IPI",
)

Layout = list[tuple[str, int, int, str]]
"""(member, offset, size, kind), where kind is numpy's: u, i, or S for text."""


@pytest.mark.parametrize("struct", STRUCTS)
def test_structs_have_the_same_members(struct: str, tmp_path: Path) -> None:
    assert dtype_layout(STRUCTS[struct]) == c_layout(struct, tmp_path)


@pytest.mark.parametrize("struct", STRUCTS)
def test_structs_have_the_same_size(struct: str, tmp_path: Path) -> None:
    (size,) = printed([f'printf("%zu\\n", sizeof(struct {struct}));'], tmp_path)

    assert int(size) == STRUCTS[struct].itemsize


@pytest.mark.parametrize("enum", ENUMS)
def test_enums_have_the_same_values(enum: str, tmp_path: Path) -> None:
    python, prefix = ENUMS[enum]

    values = c_values(enumerators(enum), tmp_path)
    if enum in NUMBERS:
        assert values.pop(NUMBERS[enum]) == len(python)

    assert {python_name(name, prefix): value for name, value in values.items()} == {
        one.name: one.value for one in python
    }


def test_constants_are_the_same(tmp_path: Path) -> None:
    assert c_values(CONSTANTS, tmp_path) == {name: getattr(abi, name) for name in CONSTANTS}


def test_every_struct_and_enum_is_compared() -> None:
    assert set(re.findall(r"^struct (\w+) \{", sources(), re.M)) == set(STRUCTS)
    assert set(re.findall(r"^enum (\w+) \{", sources(), re.M)) == set(ENUMS)


def test_headers_fit_into_their_page() -> None:
    assert abi.SHARED_HEADER.itemsize <= abi.SHARED_HEADER_BYTES
    assert abi.TRUTH_HEADER.itemsize <= abi.TRUTH_HEADER_BYTES


def test_magics_spell_their_names() -> None:
    assert abi.JOB_MAGIC.to_bytes(8, "little") == b"QDIFFJOB"
    assert abi.SHARED_MAGIC.to_bytes(8, "little") == b"QDIFFSHM"
    assert abi.TRUTH_MAGIC.to_bytes(8, "little") == b"QDIFFTRU"


def test_marks_are_numbered_as_the_plugin_is_told() -> None:
    assert [mark.value for mark in abi.Mark] == list(range(len(abi.Mark)))


@pytest.mark.parametrize("member", ["sgis_sent", "sgis_handled", "spurious", "nested"])
def test_l2_s_handler_counts_where_the_struct_says(member: str) -> None:
    _, offset, *_ = (abi.GUEST_COUNTERS.fields or {})[member]

    assert constant("payloads/interrupts.inc", rf"\.equ\s+{member.upper()}") == offset


def test_l2_s_handler_knows_each_source_s_counter() -> None:
    """By INTID; ``irq_slots`` holds the counters' byte offsets, in the order of INTIDs."""
    code = (GUEST_IMAGES / "payloads/interrupts.inc").read_text()
    slots = re.findall(r"(\d) \* 8\b", code[code.index("irq_slots:\n") :])
    lpi = re.findall(r"#\((\d) \* 8\)", code)

    into_guest = {kind for kind in abi.TimerKind if kind.into_guest}
    assert {abi.TimerKind(int(one)) for one in (*slots, *lpi)} == into_guest


def test_a_burst_has_as_many_interrupts_as_the_step_vmm_has_timers() -> None:
    assert constant("stepvmm/timer.h", r"#define\s+MOST_SHOTS") == MOST_BURST


@pytest.mark.parametrize("size", [0, 1, 3, 255, 256, 1000])
def test_checksums_are_zlib_s(size: int, tmp_path: Path) -> None:
    data = bytes(index * 7 % 251 for index in range(size))
    literal = ", ".join(map(str, data)) or "0"
    statements = [
        f"static const uint8_t data[] = {{ {literal} }};",
        f'printf("%u\\n", crc32_of(0, data, {size}));',
    ]

    assert int(printed(statements, tmp_path)[0]) == zlib.crc32(data)


# --- C -------------------------------------------------------------------------------------------


def constant(path: str, name: str) -> int:
    """The number after a name (a regular expression) in a file of ours."""
    found = re.search(name + r"[,\s]\s*(\d+)\b", (GUEST_IMAGES / path).read_text())
    assert found, f"{name} is not in {path}"
    return int(found[1])


def sources() -> str:
    """Both headers, without comments."""
    text = "".join((INCLUDE / header).read_text() for header in HEADERS)
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def body(kind: str, name: str) -> str:
    """What stands between the braces of a struct or an enum."""
    found = re.search(rf"^{kind} {name} \{{(.*?)^\}};", sources(), re.M | re.S)
    assert found, f"{kind} {name} is in no header"
    return found[1]


def members(struct: str) -> list[str]:
    """Names of a struct's members, in order."""
    return re.findall(r"(\w+)(?:\[\w+\])?;", body("struct", struct))


def enumerators(enum: str) -> list[str]:
    """Names of an enum's values, in order."""
    return re.findall(r"^[ \t]*(\w+)[ \t]*(?:=[^,\n]*)?,?[ \t]*$", body("enum", enum), re.M)


def c_layout(struct: str, scratch: Path) -> Layout:
    """A struct as the compiler lays it out. A member is unsigned if it wraps below zero."""
    statements = [f"struct {struct} one; memset(&one, 0xff, sizeof(one));"]
    for member in members(struct):
        statements.append(
            f'printf("{member} %zu %zu %s\\n", offsetof(struct {struct}, {member}), '
            f"sizeof(one.{member}), KIND(one.{member}));"
        )
    rows = [line.split() for line in printed(statements, scratch)]
    return [(name, int(offset), int(size), kind) for name, offset, size, kind in rows]


def c_values(names: Sequence[str], scratch: Path) -> dict[str, int]:
    """Values of constants."""
    lines = printed([f'printf("%llu\\n", (unsigned long long){name});' for name in names], scratch)
    return dict(zip(names, map(int, lines), strict=True))


def printed(statements: Sequence[str], scratch: Path) -> list[str]:
    """Lines that a C program with these statements prints."""
    text = [
        *("#include <stddef.h>", "#include <stdio.h>", "#include <string.h>"),
        *(f"#include <{header}>" for header in HEADERS),
        '#define KIND(member) _Generic((member), char *: "S", int32_t: "i", default: "u")',
        "int main(void)\n{",
        *statements,
        "return 0;\n}",
    ]
    source, program = scratch / "layout.c", scratch / "layout"
    source.write_text("\n".join(text))
    subprocess.run(
        [HOST_COMPILER, "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function", "-Werror",
         f"-I{INCLUDE}", "-o", str(program), str(source)],
        check=True,
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


# --- Python --------------------------------------------------------------------------------------


def dtype_layout(dtype: np.dtype[np.void]) -> Layout:
    """The same of a dtype."""
    assert dtype.names is not None
    assert dtype.fields is not None
    fields = {name: dtype.fields[name] for name in dtype.names}
    return [
        (name, offset, member.itemsize, member.base.kind)
        for name, (member, offset, *_) in fields.items()
    ]


def python_name(name: str, prefix: str) -> str:
    """Our name of an enum's value; ``STEP_STATE_UNKNOWN`` sets itself apart from the others."""
    return name.removeprefix(prefix).removeprefix("STATE_")
