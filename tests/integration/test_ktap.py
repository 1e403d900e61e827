"""KTAP as the kernel's own parser reads it: tools/testing/kunit, out of Linux 6.1's source."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from unit.report.judged import EVERYTHING, told

from qemu_diff.kernels.cache import cache_directory
from qemu_diff.kernels.debian import locate
from qemu_diff.model import CampaignResult, DebianSource
from qemu_diff.report.cases import Outcome, grouped
from qemu_diff.report.ktap import ktap

pytestmark = pytest.mark.integration

KUNIT = Path("tools", "testing", "kunit")
PARSE = """
import contextlib, io, json, sys

def tree(test):
    return [test.name, test.status.name, [tree(one) for one in test.subtests]]

with contextlib.redirect_stdout(io.StringIO()):
    import kunit_parser
    test = kunit_parser.parse_run_tests(sys.stdin.read().splitlines())
print(json.dumps({"counts": vars(test.counts), "tree": tree(test)}))
"""


@pytest.fixture(scope="module")
def kunit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parser's directory: from the tree that kernels were built from, else from the tarball."""
    tarball = locate(DebianSource("linux-source-6.1"))
    built = cache_directory("trees") / tarball.lineage / "source" / KUNIT
    if built.is_dir():
        return built
    unpacked = tmp_path_factory.mktemp("kunit")
    members = f"*/{KUNIT}/kunit_p*.py"
    command = ["tar", "-x", "-J", "-f", str(tarball.path), "--strip-components=1"]
    subprocess.run([*command, "--wildcards", members], cwd=unpacked, check=True)
    return unpacked / KUNIT


def parsed(document: str, kunit: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        cwd=kunit,
        input=document.encode(),
        capture_output=True,
        check=True,
        env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": "."},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def expected(result: CampaignResult) -> dict[str, int]:
    """What is not passed or skipped is failed: 6.1's parser knows no ERROR."""
    outcomes = Counter(case.outcome for group in grouped(result) for case in group.cases)
    return {
        "passed": outcomes[Outcome.PASS],
        "failed": outcomes[Outcome.FAILURE] + outcomes[Outcome.ERROR],
        "crashed": 0,
        "skipped": outcomes[Outcome.SKIPPED],
        "errors": 0,
    }


def test_every_verdict_is_counted_as_we_do(kunit: Path) -> None:
    found = parsed(ktap(EVERYTHING), kunit)
    assert found["counts"] == expected(EVERYTHING)
    groups = grouped(EVERYTHING)
    _, _, subtests = found["tree"]
    assert [name for name, _, _ in subtests] == [group.name for group in groups]
    for (_, _, cells), group in zip(subtests, groups, strict=True):
        assert [name for name, _, _ in cells] == [case.name for case in group.cases]
    statuses = {name: status for name, status, _ in subtests}
    assert statuses["patched"] == statuses["unpatched"] == "SUCCESS"
    assert statuses["witness"] == "SKIPPED"
    assert statuses["k"] == statuses["broken"] == statuses["pairs"] == "FAILURE"


@pytest.mark.parametrize(
    "text",
    [
        "died # SKIP not here",
        "Subtest: mine",
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "#reboot: #System halted",
        "List of all partitions:",
        "\n\nok 7 mine\nKTAP version 1\n1..9\nnot ok 1 x",
        "\r    ok 1 patched\u2028ok 2 patched",
    ],
)
def test_no_console_writes_results(kunit: Path, text: str) -> None:
    result = told(text)
    assert parsed(ktap(result), kunit)["counts"] == expected(result)
