"""KCIDB: what its own schema takes, whose fault what is, and ids that hold together."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from judged import EVERYTHING, console_text, lost, passes, told
from kcidb_io.schema import LATEST, V5_0

from qemu_diff.model import CampaignResult
from qemu_diff.report.kcidb import kcidb


def report(result: CampaignResult = EVERYTHING, origin: str = "qemu_diff") -> dict[str, Any]:
    """:raises jsonschema.ValidationError: it is no KCIDB report."""
    made: dict[str, Any] = json.loads(kcidb(result, origin))
    V5_0.validate(made)
    LATEST.validate(LATEST.upgrade(made))
    return made


def cells_of(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["misc"]["cell"]: one for one in made["tests"] if "cell" in one["misc"]}


def test_statuses() -> None:
    found = cells_of(report())
    assert {name: one["status"] for name, one in found.items()} == {
        "patched.hvc.vhe.quiet": "PASS",
        "patched.late.vhe.quiet": "PASS",
        "unpatched.hvc.vhe.quiet": "PASS",
        "regressing.hvc.vhe.quiet": "FAIL",
        "k.hvc.vhe.quiet": "FAIL",
        "k.hvc.nvhe.quiet": "FAIL",
        "broken.hvc.vhe.quiet": "ERROR",
        "unbuilt.hvc.vhe.quiet": "MISS",
        "witness.hvc.vhe.quiet": "SKIP",
    }


def test_a_kernel_is_a_checkout_and_a_build() -> None:
    made = report()
    builds = {one["comment"]: one for one in made["builds"]}
    assert builds["patched"]["status"] == "PASS"
    assert builds["patched"]["misc"]["key"] == "cafe" * 8
    assert builds["witness"]["status"] == "SKIP"
    assert builds["unbuilt"]["status"] == "ERROR"
    assert builds["unbuilt"]["log_excerpt"] == "patch does not apply"
    checkouts = {one["id"]: one for one in made["checkouts"]}
    source = checkouts[builds["unpatched"]["checkout_id"]]
    assert source["git_commit_hash"] == "0f1a6c5c9784" * 3 + "0f1a"
    assert checkouts[builds["patched"]["checkout_id"]]["comment"] == (
        "debian linux-source-6.1 6.1.192-2"
    )


def test_everything_hangs_together() -> None:
    made = report()
    ids = {kind: [one["id"] for one in made[kind]] for kind in made if kind != "version"}
    assert all(len(set(found)) == len(found) for found in ids.values())
    assert {one["checkout_id"] for one in made["builds"]} == set(ids["checkouts"])
    assert {one["build_id"] for one in made["tests"]} == set(ids["builds"])
    assert {one["issue_id"] for one in made["incidents"]} == set(ids["issues"])
    assert {one["test_id"] for one in made["incidents"]} <= set(ids["tests"])


def test_a_bug_is_an_issue_wherever_it_is_seen_and_expected() -> None:
    made = report()
    (issue,) = made["issues"]
    assert issue["report_subject"] == "lost-step of hvc in step/tcg, served by handle_hvc"
    cells = {one["id"]: one["misc"].get("cell") for one in made["tests"]}
    assert [cells[one["test_id"]] for one in made["incidents"]] == [
        "unpatched.hvc.vhe.quiet",
        "regressing.hvc.vhe.quiet",
    ]


def test_a_test_says_where_it_stands_and_what_it_measured() -> None:
    one = cells_of(report())["regressing.hvc.vhe.quiet"]
    assert one["path"] == "qemu-diff.hvc.vhe.quiet"
    assert one["start_time"] == "2026-11-22T02:00:00+00:00"
    assert one["misc"]["violations"] == {"lost-step": 50}
    assert one["misc"]["costs"][0]["median"] == 4470
    assert one["environment"]["misc"]["kvm_mode"] == "vhe"
    assert "first_hvc" in one["log_excerpt"]


def test_the_origin_is_the_submitters() -> None:
    made = report(origin="my_ci")
    objects = [one for kind in made if kind != "version" for one in made[kind]]
    assert {one["origin"] for one in objects} == {"my_ci"}
    assert all(one["id"].startswith("my_ci:") for one in objects)


def test_two_runs_are_two_sets_of_tests_of_the_same_builds() -> None:
    first, second = report(), report(replace(EVERYTHING, run="other"))
    assert not {one["id"] for one in first["tests"]} & {one["id"] for one in second["tests"]}
    built = [
        {one["id"] for one in made["builds"] if one["status"] == "PASS"} for made in (first, second)
    ]
    assert built[0] == built[1]


@pytest.mark.parametrize("started", ["", "2026-11-22T02:00:00", "2026-11-22T02:00:00Z"])
def test_times(started: str) -> None:
    starts = {
        one.get("start_time") for one in report(replace(EVERYTHING, started=started))["tests"]
    }
    assert starts == ({"2026-11-22T02:00:00+00:00"} if started else {None})


def test_the_schema_is_a_schema() -> None:
    made = report(CampaignResult("c", (passes(), lost()), (), complete=False))
    made["tests"][0]["status"] = "GOOD"
    with pytest.raises(Exception, match="GOOD"):
        V5_0.validate(made)


@settings(deadline=None, max_examples=50)
@given(console_text)
def test_any_text_is_a_report(text: str) -> None:
    report(told(text))
    report(told(text * 5000))
