"""Campaign files that include others, and defaults: what they come to, and where mistakes lie."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.config import load_campaign
from qemu_diff.config.defaults import with_defaults
from qemu_diff.errors import ConfigError
from qemu_diff.model import (
    Campaign,
    DebianSource,
    Driver,
    FloodSource,
    FloodSpec,
    KvmMode,
    Placement,
)

COMMON = """\
[campaign]
name = "common"
seed = 7

[kernels.old]
source = "debian:linux-source-5.10"
[kernels.both]
source = "debian:linux-source-5.10"
optional = true

[qemu.new]
suite = "bookworm-backports"

[[pair]]
baseline = "old"
candidate = "both"

[[scenario]]
payload = "hvc"
"""
NIGHTLY = """\
include = ["shared/common.toml"]
[campaign]
name = "nightly"
[kernels.both]
source = "debian:linux-source-6.1"
[kernels.mine]
source = "debian:linux-source-6.12"
[[pair]]
baseline = "both"
candidate = "mine"
[[scenario]]
payload = "mixed"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with two payloads and a job; its campaigns are ``c.toml`` and ``shared/*.toml``."""
    for name in ("payloads/hvc.S", "payloads/mixed.S", "jobs/step.job"):
        path = tmp_path / "guest_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write(tmp_path, "shared/common.toml", COMMON)
    return tmp_path


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def loaded(root: Path, text: str, *overrides: str) -> Campaign:
    return load_campaign(write(root, "c.toml", text), overrides, root=root)


def mistakes(root: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(root, text, *overrides)
    return [line.replace(f"{root}/", "") for line in str(caught.value).splitlines()]


# --- includes ------------------------------------------------------------------------------------


def test_what_is_included_comes_first_and_later_names_win(root: Path) -> None:
    campaign = loaded(root, NIGHTLY)
    assert (campaign.name, campaign.seed) == ("nightly", 7)
    assert [(one.name, one.source, one.optional) for one in campaign.kernels] == [
        ("old", DebianSource("linux-source-5.10"), False),
        ("both", DebianSource("linux-source-6.1"), False),
        ("mine", DebianSource("linux-source-6.12"), False),
    ]
    assert [one.name for one in campaign.qemus] == ["new"]
    assert [(one.baseline, one.candidate) for one in campaign.pairs] == [
        ("old", "both"),
        ("both", "mine"),
    ]
    assert [one.payloads for one in campaign.scenarios] == [("hvc",), ("mixed",)]
    assert campaign.path == root / "c.toml"


def test_set_works_on_the_whole(root: Path) -> None:
    campaign = loaded(root, NIGHTLY, "scenario.1.payload=hvc", "scenario.0.payload=mixed")
    assert [one.payloads for one in campaign.scenarios] == [("mixed",), ("hvc",)]
    assert mistakes(root, NIGHTLY, "scenario.1.payload=nothing") == [
        "c.toml: --set scenario.1.payload=nothing: scenario.1.payload: no payload is named"
        " 'nothing'; there are hvc, mixed"
    ]
    assert mistakes(root, NIGHTLY, "include=[]") == [
        "c.toml: --set include=[]: what is included is read before"
    ]


def test_a_mistake_is_told_where_it_was_written(root: Path) -> None:
    write(root, "shared/common.toml", COMMON.replace('"hvc"', '"hcv"'))
    assert mistakes(root, NIGHTLY.replace('"mixed"', '"mixd"')) == [
        "shared/common.toml:19:1: scenario.0.payload: no payload is named 'hcv'; did you mean"
        " 'hvc'? there are hvc, mixed",
        "c.toml:12:1: scenario.1.payload: no payload is named 'mixd'; did you mean 'mixed'? there"
        " are hvc, mixed",
    ]


def test_the_same_cell_in_both_files_names_both_lines(root: Path) -> None:
    assert mistakes(root, NIGHTLY.replace('"mixed"', '"hvc"')) == [
        "c.toml:11:3: scenario.1: 'hvc' is here twice for old, both, mine with the same job,"
        " machine, flood, driver and seed; the other is at shared/common.toml:18:3; remove one, or"
        " make them differ"
    ]


def test_a_file_that_two_others_include_counts_once(root: Path) -> None:
    write(root, "shared/a.toml", 'include = ["common.toml"]\n')
    write(root, "shared/b.toml", 'include = ["common.toml"]\n')
    campaign = loaded(root, NIGHTLY.replace('"shared/common', '"shared/a.toml", "shared/b'))
    assert len(campaign.scenarios) == 2


def test_paths_are_looked_up_beside_the_file_that_is_included_too(root: Path) -> None:
    write(root, "shared/fix.patch", "")
    text = COMMON.replace('5.10"\n[', '5.10"\npatches = ["fix.patch"]\n[', 1)
    write(root, "shared/common.toml", text)
    assert loaded(root, NIGHTLY).kernels[0].patches == (root / "shared/fix.patch",)


WRONG = {
    "a file that is not there": (
        'include = ["shared/comon.toml"]\n',
        "c.toml:1:12: include: 'shared/comon.toml' does not exist in shared",
    ),
    "a directory": (
        'include = ["shared"]\n',
        "c.toml:1:12: include: 'shared' is a directory, not a campaign file",
    ),
    "itself": (
        'include = [\n  "c.toml",\n]\n',
        "c.toml:2:3: include: 'c.toml' includes itself: c.toml → c.toml",
    ),
    "no array": (
        'include = "shared/common.toml"\n',
        'c.toml:1:1: include: expected an array of paths, got the string "shared/common.toml"',
    ),
    "no path": (
        'include = ["shared/common.toml", 1]\n',
        "c.toml:1:34: include: expected an array of paths, got the integer 1",
    ),
    "through another": (
        'include = ["shared/back.toml"]\n',
        "shared/back.toml:1:12: include: '../c.toml' includes itself: c.toml → back.toml → c.toml",
    ),
    "what is no TOML": (
        'include = ["shared/broken.toml"]\n',
        "shared/broken.toml:1:4: not TOML: expected '=' after a key in a key/value pair",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_include_is_told_in_one_line(root: Path, case: str) -> None:
    write(root, "shared/back.toml", 'include = ["../c.toml"]\n')
    write(root, "shared/broken.toml", "no toml\n")
    text, expected = WRONG[case]
    (said,) = mistakes(root, text)
    assert said.replace(str(root), "").replace("in /shared", "in shared") == expected


# --- defaults ------------------------------------------------------------------------------------

DEFAULTS = """\
[campaign]
name = "c"
[kernels.a]
source = "debian:linux-source-6.1"
[kernels.b]
source = "debian:linux-source-6.1"
[defaults]
machine = { kvm_mode = ["vhe", "nvhe"], memory_mib = 512 }
flood = { source = "host_timer", placement = "sweep", step_ns = 8 }
kernels = ["a"]
"""
SCENARIO = '[[scenario]]\npayload = "hvc"\n'
LINES = DEFAULTS.count("\n")


def test_a_scenario_has_the_defaults(root: Path) -> None:
    (scenario,) = loaded(root, DEFAULTS + SCENARIO).scenarios
    assert [one.kvm_mode for one in scenario.machines] == [KvmMode.VHE, KvmMode.NVHE]
    assert {one.memory_mib for one in scenario.machines} == {512}
    assert scenario.flood == FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP, step_ns=8)
    assert (scenario.kernels, scenario.driver) == (("a",), Driver.IN_GUEST)


def test_its_own_keys_win_those_of_machine_and_flood_one_by_one(root: Path) -> None:
    own = 'machine = { kvm_mode = "nvhe", cpus = 2 }\nflood = { step_ns = 4 }\nkernels = ["b"]\n'
    (scenario,) = loaded(root, DEFAULTS + SCENARIO + own).scenarios
    (machine,) = scenario.machines
    assert (machine.kvm_mode, machine.cpus, machine.memory_mib) == (KvmMode.NVHE, 2, 512)
    assert scenario.flood == FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP, step_ns=4)
    assert scenario.kernels == ("b",)


def test_a_scenario_may_have_no_flood_and_another_source(root: Path) -> None:
    none = SCENARIO + 'flood = { source = "none", count = 9 }\n'
    other = SCENARIO + 'flood = { each_of = ["signal", "memslot"] }\n'
    quiet, signal, memslot = loaded(root, DEFAULTS + none + other).scenarios
    assert quiet.flood == FloodSpec(count=9)
    assert [one.flood.source for one in (signal, memslot)] == ["signal", "memslot"]
    assert memslot.flood.step_ns == 8


def test_a_wrong_default_is_told_once_where_it_was_written(root: Path) -> None:
    text = DEFAULTS.replace("512", "512, redirects = 2")
    assert mistakes(root, text + SCENARIO + SCENARIO.replace("hvc", "mixed")) == [
        "c.toml:8:59: defaults.machine.redirects: means nothing without exception_order"
        " async_first; remove redirects"
    ]
    text = DEFAULTS.replace('kernels = ["a"]', 'kernels = ["z"]')
    assert mistakes(root, text + SCENARIO + SCENARIO.replace("hvc", "mixed")) == [
        "c.toml:10:12: defaults.kernels.0: no kernel is named 'z'; the kernels here are a, b"
    ]


def test_a_default_of_a_wrong_shape_is_told_once(root: Path) -> None:
    text = DEFAULTS.replace("512", '"much"').replace("step_ns", "step_n")
    assert mistakes(root, text + SCENARIO + SCENARIO) == [
        'c.toml:8:41: defaults.machine.memory_mib: expected an integer, got the string "much"',
        "c.toml:9:55: unknown key 'step_n'; did you mean 'step_ns'?",
    ]


def test_a_mistake_of_the_scenario_s_own_is_told_there(root: Path) -> None:
    own = "machine = { redirects = 2 }\n"
    assert mistakes(root, DEFAULTS + SCENARIO + own) == [
        f"c.toml:{LINES + 3}:13: scenario.0.machine.redirects: means nothing without"
        " exception_order async_first; remove redirects"
    ]


def test_defaults_are_merged_key_by_key_across_files(root: Path) -> None:
    write(root, "shared/defaults.toml", DEFAULTS)
    text = 'include = ["shared/defaults.toml"]\n[defaults.machine]\nmemory_mib = 128\n' + SCENARIO
    (scenario,) = loaded(root, text).scenarios
    assert {(one.kvm_mode, one.memory_mib) for one in scenario.machines} == {
        (KvmMode.VHE, 128),
        (KvmMode.NVHE, 128),
    }
    assert scenario.kernels == ("a",)


keys = st.sampled_from(["machine", "flood", "driver", "kernels", "payload"])
tables = st.dictionaries(st.sampled_from(string.ascii_lowercase[:4]), st.integers(), max_size=4)
anything = st.dictionaries(keys, tables | st.integers() | st.lists(st.integers()))


@given(anything | st.integers(), st.lists(anything | st.integers()) | st.integers())
def test_whatever_is_written_a_scenario_keeps_its_own(defaults: object, scenarios: object) -> None:
    document = {"defaults": defaults, "scenario": scenarios}
    filled, inherited = with_defaults(document)
    assert document == {"defaults": defaults, "scenario": scenarios}
    assert set(filled) == set(document)
    if not isinstance(scenarios, list):
        return
    for number, one in enumerate(scenarios):
        if not isinstance(one, dict):
            assert filled["scenario"][number] == one
            continue
        for key, value in one.items():
            now = filled["scenario"][number][key]
            own = isinstance(value, dict) and value.items() <= now.items()
            assert own or now == value
    assert all(
        path[0] == "scenario" and origin[0] == "defaults" for path, origin in inherited.items()
    )
