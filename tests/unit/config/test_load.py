"""Campaign files: what a right one means, and what is said about each wrong one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.config import load_campaign
from qemu_diff.errors import ConfigError
from qemu_diff.model import (
    DebianSource,
    Driver,
    Expectation,
    FloodSource,
    FloodSpec,
    ImageSource,
    KernelSpec,
    KvmMode,
    MachineSpec,
    PairOf,
    PairSpec,
    Placement,
    ScenarioSpec,
    TreeSource,
)

HEAD = """\
[campaign]
name = "c"
"""
KERNELS = """\
[kernels.unpatched]
source = "debian:linux-source-6.1"
patches = ["fix.patch"]
[kernels.patched]
source = "debian:linux-source-6.1"
"""
SCENARIO = """\
[[scenario]]
payload = "hvc"
"""
GOOD = HEAD + KERNELS + SCENARIO


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project: three payloads, a patch and a fragment; campaigns lie in its ``configs/``."""
    project = tmp_path / "project"
    files = (
        "guest_images/payloads/straightline.S",
        "guest_images/payloads/hvc.S",
        "guest_images/payloads/trapped_sysreg.S",
        "guest_images/payloads/payload.inc",
        "guest_images/jobs/step.job",
        "guest_images/jobs/kick.job",
        "guest_images/sessions/walk.gdb",
        "configs/fix.patch",
        "fragment.config",
        "Image",
        "vmlinux",
        "linux/Makefile",
    )
    for name in files:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    return project


def write(root: Path, text: str) -> Path:
    path = root / "configs" / "c.toml"
    path.write_text(text)
    return path


def mistakes(root: Path, text: str, *overrides: str) -> list[str]:
    """Each line of the error, without the file's name and the project's directory."""
    path = write(root, text)
    with pytest.raises(ConfigError) as caught:
        load_campaign(path, overrides, root=root)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + len(caught.value.others)
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:").replace(str(root), "ROOT") for line in lines]


# --- right ones ----------------------------------------------------------------------------------


def test_the_least_campaign_has_all_defaults(root: Path) -> None:
    campaign = load_campaign(write(root, GOOD), root=root)
    assert (campaign.name, campaign.seed, campaign.budget_s) == ("c", 1, 120.0)
    assert campaign.path == root / "configs" / "c.toml"
    assert campaign.pairs == ()
    assert campaign.scenarios == (
        ScenarioSpec(("hvc",), (MachineSpec(),), FloodSpec(), Driver.IN_GUEST),
    )


def test_kernels_have_one_way_to_write_each_source(root: Path) -> None:
    text = (
        HEAD
        + SCENARIO
        + """
[kernels.packaged]
source = "debian:linux-source-6.1"
patches = ["fix.patch"]
kconfig = ["fragment.config"]
[kernels.local]
source = { tree = "linux" }
[kernels.ready]
source = { image = "Image", vmlinux = "vmlinux" }
[kernels.stripped]
source.image = "Image"
[kernels.witness]
source = { debian = "linux-image-cloud-arm64", suite = "bullseye" }
optional = true
[kernels.table]
source = { debian = "linux-source-6.1" }
"""
    )
    assert load_campaign(write(root, text), root=root).kernels == (
        KernelSpec(
            "packaged",
            DebianSource("linux-source-6.1"),
            (root / "configs" / "fix.patch",),
            (root / "fragment.config",),
        ),
        KernelSpec("local", TreeSource(root / "linux")),
        KernelSpec("ready", ImageSource(root / "Image", root / "vmlinux")),
        KernelSpec("stripped", ImageSource(root / "Image")),
        KernelSpec("witness", DebianSource("linux-image-cloud-arm64", "bullseye"), optional=True),
        KernelSpec("table", DebianSource("linux-source-6.1")),
    )


def test_a_file_beside_the_campaign_wins_over_the_project_s(root: Path) -> None:
    (root / "fix.patch").touch()
    campaign = load_campaign(write(root, GOOD), root=root)
    assert campaign.kernels[0].patches == (root / "configs" / "fix.patch",)


def test_a_tilde_is_the_home_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    path = write(root, GOOD.replace('"debian:linux-source-6.1"', '{ tree = "~/linux" }'))
    assert load_campaign(path, root=root).kernels[1].source == TreeSource(root / "linux")


def test_lists_of_machines_multiply(root: Path) -> None:
    text = GOOD + 'machine = { kvm_mode = ["vhe", "nvhe"], cpu = ["max", "cortex-a57"] }\n'
    assert load_campaign(write(root, text), root=root).scenarios[0].machines == (
        MachineSpec(KvmMode.VHE, "max"),
        MachineSpec(KvmMode.VHE, "cortex-a57"),
        MachineSpec(KvmMode.NVHE, "max"),
        MachineSpec(KvmMode.NVHE, "cortex-a57"),
    )


def test_jobs_and_several_expectations(root: Path) -> None:
    text = (
        GOOD
        + 'job = ["step", "kick"]\n'
        + 'expect = { patched = { hvc = ["wrong-pc", "lost-step"], "hvc/kick" = "ss-leak" } }\n'
    )
    (scenario,) = load_campaign(write(root, text), root=root).scenarios
    assert scenario.jobs == ("step", "kick")
    assert scenario.expect == (
        ("patched", "hvc", (Expectation.LOST_STEP, Expectation.WRONG_PC)),
        ("patched", "hvc/kick", (Expectation.SS_LEAK,)),
    )


def test_a_whole_scenario(root: Path) -> None:
    text = (
        HEAD
        + KERNELS
        + """
[[pair]]
baseline = "unpatched"
candidate = "patched"
[[scenario]]
payload = ["hvc", "trapped_sysreg"]
flood = { source = "host_timer", placement = "sweep", first_ns = 8, last_ns = 640, step_ns = 32 }
machine = { memory_mib = 512 }
driver = "in_guest"
expect = { unpatched = { hvc = "lost-step" } }
"""
    )
    campaign = load_campaign(write(root, text), root=root)
    assert campaign.pairs == (PairSpec("unpatched", "patched"),)
    assert campaign.scenarios == (
        ScenarioSpec(
            ("hvc", "trapped_sysreg"),
            (MachineSpec(memory_mib=512),),
            FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP, 8, 640, 32),
            Driver.IN_GUEST,
            (("unpatched", "hvc", (Expectation.LOST_STEP,)),),
        ),
    )


def test_an_adaptive_flood_has_a_grid_and_probes_of_its_own(root: Path) -> None:
    flood = 'flood = { source = "host_timer", placement = "adaptive" }\n'
    (scenario,) = load_campaign(write(root, GOOD + flood), root=root).scenarios
    sources = (FloodSource.HOST_TIMER,)
    assert scenario.flood == FloodSpec(sources, Placement.ADAPTIVE, step_ns=32, count=64)
    flood = 'flood = { source = "host_timer", placement = "adaptive", step_ns = 2, count = 1 }\n'
    (scenario,) = load_campaign(write(root, GOOD + flood), root=root).scenarios
    assert scenario.flood == FloodSpec(sources, Placement.ADAPTIVE, step_ns=2, count=1)


SOURCES = [source for source in FloodSource if source is not FloodSource.NONE]


def flood_of(root: Path, text: str) -> FloodSpec:
    (scenario,) = load_campaign(write(root, GOOD + f"flood = {{ {text} }}\n"), root=root).scenarios
    return scenario.flood


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_a_name_or_a_list_of_them(root: Path, source: FloodSource) -> None:
    expected = FloodSpec((source,), Placement.RANDOM, count=3)
    assert flood_of(root, f'source = "{source}", placement = "random", count = 3') == expected
    assert flood_of(root, f'source = ["{source}"], placement = "random", count = 3') == expected


def test_sources_are_mixed_at_random_and_in_bursts(root: Path) -> None:
    three = FloodSource.PPI, FloodSource.SIGNAL, FloodSource.LPI
    sources = 'source = ["ppi", "signal", "lpi"]'
    assert flood_of(root, f'{sources}, placement = "random", count = 3') == FloodSpec(
        three, Placement.RANDOM, count=3
    )
    burst = 'placement = "burst", count = 3, burst = 8, period_ns = 700, last_ns = 900'
    assert flood_of(root, f"{sources}, {burst}") == FloodSpec(
        three, Placement.BURST, last_ns=900, count=3, period_ns=700, burst=8
    )


def test_a_periodic_flood_has_a_period_and_passes(root: Path) -> None:
    periodic = 'source = "lpi", placement = "periodic", period_ns = 20_000, count = 9'
    assert flood_of(root, periodic) == FloodSpec(
        (FloodSource.LPI,), Placement.PERIODIC, count=9, period_ns=20_000
    )


def test_pairs_are_a_grid(root: Path) -> None:
    pairs = 'source = "ppi", placement = "pairs", first_ns = 9, last_ns = 99, step_ns = 10'
    assert flood_of(root, pairs) == FloodSpec((FloodSource.PPI,), Placement.PAIRS, 9, 99, 10)


def test_l1_has_one_cpu_or_more(root: Path) -> None:
    for cpus in (1, 2, 8):
        path = write(root, GOOD + f"machine.cpus = {cpus}\n")
        (machine,) = load_campaign(path, root=root).scenarios[0].machines
        assert machine == MachineSpec(cpus=cpus)


def test_several_drivers_multiply_and_may_be_a_pair(root: Path) -> None:
    text = (
        GOOD
        + 'driver = ["in_guest", "gdb"]\n'
        + '[[pair]]\nof = "driver"\nbaseline = "in_guest"\ncandidate = "gdb"\n'
    )
    campaign = load_campaign(write(root, text), root=root)
    assert campaign.pairs == (PairSpec("in_guest", "gdb", PairOf.DRIVER),)
    assert [one.driver for one in campaign.scenarios] == [Driver.IN_GUEST, Driver.GDB]


def test_each_flood_meets_each_driver(root: Path) -> None:
    text = (
        GOOD
        + 'driver = ["rsp", "monitor"]\nflood = { each_of = ["host_timer", "device"], '
        + 'placement = "random", count = 2, last_ns = 9 }\n'
    )
    scenarios = load_campaign(write(root, text), root=root).scenarios
    assert [(one.flood.source, one.driver) for one in scenarios] == [
        ("host_timer", Driver.RSP),
        ("host_timer", Driver.MONITOR),
        ("device", Driver.RSP),
        ("device", Driver.MONITOR),
    ]


def test_a_session_is_gdb_s(root: Path) -> None:
    text = GOOD + 'driver = "gdb"\nsession = "walk"\nexpect.patched."hvc/walk" = "lost-step"\n'
    (scenario,) = load_campaign(write(root, text), root=root).scenarios
    assert (scenario.sessions, scenario.driver) == (("walk",), Driver.GDB)
    assert scenario.expect == (("patched", "hvc/walk", (Expectation.LOST_STEP,)),)


# --- wrong ones ----------------------------------------------------------------------------------

WRONG = {
    "broken TOML": (HEAD + "x = = 1\n", "3:5: not TOML: invalid value"),
    "cut off": (HEAD + "x = [1\n", "4:1: not TOML: unclosed array"),
    "key twice": (GOOD + 'payload = "hvc"\n', "10:16: not TOML: cannot overwrite a value"),
    "empty file": ("", " campaign is missing"),
    "no name": (
        GOOD.replace('name = "c"', ""),
        "1:2: campaign.name is missing",
    ),
    "unknown key": (
        GOOD.replace("payload", "paylod"),
        "9:1: unknown key 'paylod'; did you mean 'payload'?",
    ),
    "unknown table": (
        GOOD.replace("kernels", "kernel"),
        "3:2: unknown key 'kernel'; did you mean 'kernels'?",
    ),
    "unknown key like no other": (
        GOOD + "zzz = 1\n",
        "10:1: unknown key 'zzz'; the keys here are payload, job, flood, machine, session, driver, "
        "kernels, expect, seeds",
    ),
    "unknown key in an inline table": (
        GOOD + 'flood = { source = "none", step = 1 }\n',
        "10:28: unknown key 'step'; did you mean 'step_ns'?",
    ),
    "unknown key in a source": (
        GOOD + '[kernels.x]\nsource = { svn = "/linux" }\n',
        "11:12: unknown key 'svn'; the keys here are tree, git, rev, image, vmlinux, debian, suite",
    ),
    "unknown key in a kernel named like a key": (
        GOOD + '[kernels.source]\nsource = { tree = "/" }\npatch = []\n',
        "12:1: unknown key 'patch'; did you mean 'patches'?",
    ),
    "string for integer": (
        HEAD + 'seed = "x"\n' + KERNELS + SCENARIO,
        '3:1: campaign.seed: expected an integer, got the string "x"',
    ),
    "float for integer": (
        HEAD + "seed = 1.0\n" + KERNELS + SCENARIO,
        "3:1: campaign.seed: expected an integer, got the float 1.0",
    ),
    "boolean for integer": (
        HEAD + "seed = true\n" + KERNELS + SCENARIO,
        "3:1: campaign.seed: expected an integer, got the boolean true",
    ),
    "date for number": (
        HEAD + "budget_s = 2020-01-02\n" + KERNELS + SCENARIO,
        "3:1: campaign.budget_s: expected a number, got the date or time 2020-01-02",
    ),
    "array for string": (
        GOOD.replace('"c"', '["c"]'),
        "2:1: campaign.name: expected a string, got an array",
    ),
    "string for array": (
        GOOD.replace('["fix.patch"]', '"fix.patch"'),
        '5:1: kernels.unpatched.patches: expected an array, got the string "fix.patch"',
    ),
    "integer in an array": (
        GOOD.replace('["fix.patch"]', '["fix.patch", 2]'),
        "5:25: kernels.unpatched.patches.1: expected a string, got the integer 2",
    ),
    "table for array of tables": (
        GOOD.replace("[[scenario]]", "[scenario]"),
        "8:2: scenario: expected an array, got a table; write [[scenario]]",
    ),
    "string for table": (
        GOOD + 'machine = "vhe"\n',
        '10:1: scenario.0.machine: expected a table, got the string "vhe"',
    ),
    "string for table of tables": (
        HEAD + SCENARIO + "[kernels]\npatched = 1\n",
        "6:1: kernels.patched: expected a table, got the integer 1",
    ),
    "negative seed": (
        HEAD + "seed = -1\n" + KERNELS + SCENARIO,
        "3:1: campaign.seed: must be at least 0, got -1",
    ),
    "no budget": (
        HEAD + "budget_s = 0\n" + KERNELS + SCENARIO,
        "3:1: campaign.budget_s: must be more than 0, got 0",
    ),
    "endless budget": (
        HEAD + "budget_s = inf\n" + KERNELS + SCENARIO,
        "3:1: campaign.budget_s: must be a finite number, got inf",
    ),
    "no memory": (
        GOOD + "machine.memory_mib = 0\n",
        "10:9: scenario.0.machine.memory_mib: must be at least 64, got 0",
    ),
    "a sweep without an end": (
        GOOD + 'flood = { source = "host_timer", placement = "sweep", last_ns = 1_000_000 }\n',
        "10:55: scenario.0.flood: 1,000,001 passes over the payload; there may be 1,000,000;"
        " lower last_ns, or raise step_ns",
    ),
    "adaptive at 1 ns": (
        GOOD + 'flood = { source = "host_timer", placement = "adaptive", step_ns = 1 }\n',
        "10:58: scenario.0.flood.step_ns: a grid of 1 ns leaves nothing to be refined;"
        " set placement to sweep, or step_ns to 2 or more",
    ),
    "step of nothing": (
        GOOD + "flood.step_ns = 0\n",
        "10:7: scenario.0.flood.step_ns: must be at least 1, got 0",
    ),
    "a step for which a job has no room": (
        GOOD + "flood.step_ns = 1_000_000_001\n",
        "10:7: scenario.0.flood.step_ns: must be at most 1000000000, got 1000000001",
    ),
    "campaign name with a slash": (
        GOOD.replace('"c"', '"a/c"'),
        '2:1: campaign.name: the string "a/c" is not a name;'
        " a name is 1 to 64 of the characters A-Z a-z 0-9 _ -",
    ),
    "kernel name with a dot": (
        GOOD.replace("kernels.patched", 'kernels."v6.1"'),
        "6:10: kernels: the key 'v6.1' is not a name;"
        " a name is 1 to 64 of the characters A-Z a-z 0-9 _ -",
    ),
    "CPU name with properties": (
        GOOD + 'machine.cpu = "max,sve=off"\n',
        '10:9: scenario.0.machine.cpu: the string "max,sve=off" is not a name;'
        " a name is 1 to 64 of the characters A-Z a-z 0-9 _ -",
    ),
    "unknown mode": (
        GOOD + 'machine.kvm_mode = "vh"\n',
        "10:9: scenario.0.machine.kvm_mode: expected one of vhe, nvhe, protected;"
        " got the string \"vh\"; did you mean 'vhe'?",
    ),
    "unknown mode in a list": (
        GOOD + 'machine.kvm_mode = ["vhe", "pkvm"]\n',
        "10:28: scenario.0.machine.kvm_mode.1: expected one of vhe, nvhe, protected;"
        ' got the string "pkvm"',
    ),
    "integer for a choice": (
        GOOD + "driver = 1\n",
        "10:1: scenario.0.driver: expected one of in_guest, gdb, rsp, monitor, selftest; "
        "got the integer 1",
    ),
    "unknown expectation": (
        GOOD + 'expect.patched.hvc = "lost_step"\n',
        "10:16: scenario.0.expect.patched.hvc: expected one of"
        " pass, lost-step, spurious-step, wrong-pc, hang, kernel-oops, ss-leak, state-mismatch,"
        " lost-interrupt, spurious-interrupt, fail;"
        " got the string \"lost_step\"; did you mean 'lost-step'?",
    ),
    "no payloads": (
        GOOD.replace('"hvc"', "[]"),
        "9:1: scenario.0.payload: the array is empty; name at least one",
    ),
    "no source": (
        GOOD + "[kernels.x]\n",
        "10:10: kernels.x.source is missing",
    ),
    "source without a form": (
        GOOD.replace("debian:linux-source-6.1", "linux-source-6.1"),
        '4:1: kernels.unpatched.source: expected "debian:PACKAGE", { debian = PACKAGE,'
        " suite = SUITE }, { git = PATH_OR_URL, rev = REV }, { tree = PATH } or { image = PATH };"
        " got the string"
        ' "linux-source-6.1"',
        '7:1: kernels.patched.source: expected "debian:PACKAGE", { debian = PACKAGE,'
        " suite = SUITE }, { git = PATH_OR_URL, rev = REV }, { tree = PATH } or { image = PATH };"
        " got the string"
        ' "linux-source-6.1"',
    ),
    "tree as a string": (
        GOOD + '[kernels.x]\nsource = "tree:../linux"\n',
        '11:1: kernels.x.source: expected "debian:PACKAGE", { debian = PACKAGE,'
        " suite = SUITE }, { git = PATH_OR_URL, rev = REV }, { tree = PATH } or { image = PATH };"
        ' got the string "tree:../linux";'
        ' write { tree = "../linux" }',
    ),
    "misspelt Debian": (
        GOOD + '[kernels.x]\nsource = "debain:linux-source-6.1"\n',
        '11:1: kernels.x.source: expected "debian:PACKAGE", { debian = PACKAGE,'
        " suite = SUITE }, { git = PATH_OR_URL, rev = REV }, { tree = PATH } or { image = PATH };"
        " got the string"
        " \"debain:linux-source-6.1\"; did you mean 'debian'?",
    ),
    "tree and image": (
        GOOD + '[kernels.x]\nsource = { tree = "linux", image = "Image" }\n',
        "11:1: kernels.x.source: a tree is built, an image is ready: only one can be the source;"
        " keep either tree, or image with its vmlinux",
    ),
    "vmlinux alone": (
        GOOD + '[kernels.x]\nsource = { vmlinux = "vmlinux" }\n',
        "11:1: kernels.x.source: the table names no git, tree, image or debian package",
    ),
    "suite alone": (
        GOOD + '[kernels.x]\nsource = { suite = "bullseye" }\n',
        "11:1: kernels.x.source: the table names no git, tree, image or debian package",
    ),
    "package and tree": (
        GOOD + '[kernels.x]\nsource = { debian = "linux-source-6.1", tree = "linux" }\n',
        "11:1: kernels.x.source: a package is got by its name, a path is here already; keep either"
        " debian with its suite, or the paths",
    ),
    "image and suite": (
        GOOD + '[kernels.x]\nsource = { image = "Image", suite = "bullseye" }\n',
        "11:1: kernels.x.source: a package is got by its name, a path is here already; keep either"
        " debian with its suite, or the paths",
    ),
    "suite that would be another line of sources.list": (
        GOOD + '[kernels.x]\nsource = { debian = "linux-source-6.1", suite = "a main\\ndeb b" }\n',
        '11:41: kernels.x.source.suite: the string "a main\\ndeb b" is no name of a Debian suite',
    ),
    "option for a package": (
        GOOD + '[kernels.x]\nsource = { debian = "-q", suite = "bullseye" }\n',
        '11:12: kernels.x.source.debian: the string "-q" is no name of a Debian package',
    ),
    "image package without a suite": (
        GOOD + '[kernels.x]\nsource = "debian:linux-image-arm64"\n',
        "11:1: kernels.x.source: linux-image-arm64 is got from a suite that must be named; write"
        ' { debian = "linux-image-arm64", suite = SUITE }',
    ),
    "patched image package": (
        GOOD
        + '[kernels.x]\nsource = { debian = "linux-image-arm64", suite = "bullseye" }\n'
        + 'patches = ["fix.patch"]\n',
        "12:1: kernels.x.patches: a kernel that is an image is not built; remove patches, or name"
        " a tree as the source",
    ),
    "optional that is no boolean": (
        GOOD + '[kernels.x]\nsource = "debian:linux-source-6.1"\noptional = "yes"\n',
        '12:1: kernels.x.optional: expected a boolean, got the string "yes"',
    ),
    "no kernels": (
        HEAD + SCENARIO,
        " no kernels; add a table [kernels.NAME] with a source",
    ),
    "no scenarios": (
        HEAD + KERNELS,
        " no scenarios; add a table [[scenario]] with a payload",
    ),
    "patch that is not there": (
        GOOD.replace("fix.patch", "fxi.patch"),
        "5:12: kernels.unpatched.patches.0: 'fxi.patch' does not exist in ROOT/configs or ROOT",
    ),
    "absolute path that is not there": (
        GOOD.replace("fix.patch", "/no/such.patch"),
        "5:12: kernels.unpatched.patches.0: '/no/such.patch' does not exist",
    ),
    "path with a null byte": (
        GOOD.replace("fix.patch", "\\u0000"),
        "5:12: kernels.unpatched.patches.0: '\\x00' does not exist in ROOT/configs or ROOT",
    ),
    "fragment that is a directory": (
        GOOD.replace("patches", "kconfig").replace("fix.patch", "linux"),
        "5:12: kernels.unpatched.kconfig.0: 'linux' is a directory, not a file",
    ),
    "fragment that is not there": (
        GOOD.replace("patches", "kconfig").replace("fix.patch", "kvm.config"),
        "5:12: kernels.unpatched.kconfig.0: 'kvm.config' does not exist in ROOT/configs or ROOT",
    ),
    "tree that is a file": (
        GOOD + '[kernels.x]\nsource.tree = "Image"\n',
        "11:8: kernels.x.source.tree: 'Image' is not a directory",
    ),
    "image that is not there": (
        GOOD + '[kernels.x]\nsource = { image = "bzImage", vmlinux = "vmlinux" }\n',
        "11:12: kernels.x.source.image: 'bzImage' does not exist in ROOT/configs or ROOT",
    ),
    "patched image": (
        GOOD + '[kernels.x]\nsource = { image = "Image" }\npatches = ["fix.patch"]\n',
        "12:1: kernels.x.patches: a kernel that is an image is not built;"
        " remove patches, or name a tree as the source",
    ),
    "pair of an unknown kernel": (
        GOOD + '[[pair]]\nbaseline = "unpatchd"\ncandidate = "patched"\n',
        "11:1: pair.0.baseline: no kernel is named 'unpatchd'; did you mean 'unpatched'?",
    ),
    "pair of a kernel like no other": (
        GOOD + '[[pair]]\nbaseline = "unpatched"\ncandidate = "v7"\n',
        "12:1: pair.0.candidate: no kernel is named 'v7'; the kernels here are unpatched, patched",
    ),
    "pair of one": (
        GOOD + '[[pair]]\nbaseline = "patched"\ncandidate = "patched"\n',
        "10:3: pair.0: baseline and candidate are both 'patched';"
        " a pair holds two kernels against each other",
    ),
    "pair twice": (
        GOOD + '[[pair]]\nbaseline = "unpatched"\ncandidate = "patched"\n' * 2,
        "13:3: pair.1: the same pair as pair.0; remove one",
    ),
    "unknown payload": (
        GOOD.replace('"hvc"', '["hvc", "straight_line"]'),
        "9:19: scenario.0.payload: no payload is named 'straight_line';"
        " did you mean 'straightline'? there are hvc, straightline, trapped_sysreg",
    ),
    "payload like no other": (
        GOOD.replace('"hvc"', '"payload"'),
        "9:1: scenario.0.payload: no payload is named 'payload';"
        " there are hvc, straightline, trapped_sysreg",
    ),
    "expectation of an unknown kernel": (
        GOOD + 'expect = { patchd = { hvc = "pass" } }\n',
        "10:12: scenario.0.expect.patchd: no kernel is named 'patchd'; did you mean 'patched'?",
    ),
    "expectation of another scenario's payload": (
        GOOD + 'expect = { patched = { straightline = "pass" } }\n',
        "10:24: scenario.0.expect.patched: 'straightline' is not in this scenario;"
        " the payloads here are hvc",
    ),
    "expectation of an unknown payload": (
        GOOD + 'expect = { patched = { hcv = "pass" } }\n',
        "10:24: scenario.0.expect.patched: 'hcv' is not a payload; did you mean 'hvc'?",
    ),
    "unknown job": (
        GOOD + 'job = ["step", "kik"]\n',
        "10:16: scenario.0.job: no job is named 'kik'; did you mean 'kick'? there are kick, step",
    ),
    "no jobs": (
        GOOD + "job = []\n",
        "10:1: scenario.0.job: the array is empty; name at least one",
    ),
    "job twice": (
        GOOD + 'job = ["kick", "kick"]\n',
        "8:3: scenario.0: 'hvc' is here twice for unpatched, patched with the same job, machine,"
        " flood, driver and seed; remove one, or make them differ",
    ),
    "expectation of another scenario's job": (
        GOOD + 'expect = { patched = { "hvc/kick" = "pass" } }\n',
        "10:24: scenario.0.expect.patched: the job 'kick' is not in this scenario;"
        " the jobs are step",
    ),
    "expectation of an unknown payload's job": (
        GOOD + 'expect = { patched = { "hcv/step" = "pass" } }\n',
        "10:24: scenario.0.expect.patched: 'hcv' is not a payload; did you mean 'hvc'?",
    ),
    "expectation of nothing": (
        GOOD + "expect = { patched = { hvc = [] } }\n",
        "10:24: scenario.0.expect.patched.hvc: the array is empty; name at least one",
    ),
    "expectation that contradicts itself": (
        GOOD + 'expect = { patched = { hvc = ["lost-step", "hang"] } }\n',
        "10:24: scenario.0.expect.patched.hvc: hang can't be expected with others;"
        " expect it alone, or only the others",
    ),
    "sweep of nothing": (
        GOOD + 'flood = { placement = "sweep" }\n',
        "10:11: scenario.0.flood: placement sweep needs a source of interrupts;"
        " set source to host_timer or signal or spi_edge or spi_level or irqfd or ppi or lpi or"
        " vtimer or memslot or dirty_log or device",
    ),
    "interrupts from nowhere to nowhere": (
        GOOD + 'flood = { source = "host_timer" }\n',
        "10:11: scenario.0.flood: source host_timer needs a placement;"
        " set placement to sweep or adaptive or pairs or random or periodic or burst",
    ),
    "random without count": (
        GOOD + 'flood = { source = "host_timer", placement = "random" }\n',
        "10:1: scenario.0.flood: placement random needs count;"
        " count is the number of passes over the payload",
    ),
    "sweep with count": (
        GOOD + 'flood = { source = "host_timer", placement = "sweep", count = 3 }\n',
        "10:55: scenario.0.flood.count: means nothing when placement is sweep; remove count",
    ),
    "no CPU": (
        GOOD + "machine.cpus = 0\n",
        "10:9: scenario.0.machine.cpus: must be at least 1, got 0",
    ),
    "more CPUs than the kernels have": (
        GOOD + "machine.cpus = 9\n",
        "10:9: scenario.0.machine.cpus: must be at most 8, got 9",
    ),
    "no sources": (
        GOOD + 'flood = { source = [], placement = "random", count = 1 }\n',
        "10:11: scenario.0.flood.source: the array is empty; name at least one",
    ),
    "unknown source among others": (
        GOOD + 'flood = { source = ["ppi", "spi-edge"], placement = "random", count = 1 }\n',
        "10:28: scenario.0.flood.source.1: expected one of none, host_timer, signal, spi_edge,"
        " spi_level, irqfd, ppi, lpi, vtimer, memslot, dirty_log, device; got the string"
        " \"spi-edge\"; did you mean 'spi_edge'?",
    ),
    "none among others": (
        GOOD + 'flood = { source = ["ppi", "none"], placement = "random", count = 1 }\n',
        "10:11: scenario.0.flood.source: none stands beside others; remove none",
    ),
    "sources mixed in a sweep": (
        GOOD + 'flood = { source = ["ppi", "lpi"], placement = "sweep" }\n',
        "10:11: scenario.0.flood.source: placement sweep takes one source;"
        " mix with random or burst",
    ),
    "sources mixed in a period": (
        GOOD
        + 'flood = { source = ["ppi", "lpi"], placement = "periodic", count = 1,'
        + " period_ns = 90_000 }\n",
        "10:11: scenario.0.flood.source: placement periodic takes one source;"
        " mix with random or burst",
    ),
    "sources mixed in pairs": (
        GOOD + 'flood = { source = ["ppi", "lpi"], placement = "pairs" }\n',
        "10:11: scenario.0.flood.source: placement pairs takes one source;"
        " mix with random or burst",
    ),
    "periodic without a period or passes": (
        GOOD + 'flood = { source = "ppi", placement = "periodic" }\n',
        "10:1: scenario.0.flood: placement periodic needs count;"
        " count is the number of passes over the payload",
        "10:1: scenario.0.flood: placement periodic needs period_ns;"
        " period_ns is from one interrupt to the next",
    ),
    "a period that leaves no time": (
        GOOD
        + 'flood = { source = "ppi", placement = "periodic", count = 1, period_ns = 19_999 }\n',
        "10:62: scenario.0.flood.period_ns: 19999 leaves L1 no time to enter L2; at least 20000",
    ),
    "no period": (
        GOOD + 'flood = { source = "ppi", placement = "periodic", count = 1, period_ns = 0 }\n',
        "10:62: scenario.0.flood.period_ns: must be at least 1, got 0",
    ),
    "L2's own timer with a period": (
        GOOD
        + 'flood = { source = "vtimer", placement = "periodic", count = 1, period_ns = 90_000 }\n',
        "10:11: scenario.0.flood.source: L2 has one virtual timer, which is set at each step;"
        " leave vtimer out where placement is periodic",
    ),
    "L2's own timer twice in a step": (
        GOOD + 'flood = { source = "vtimer", placement = "pairs", step_ns = 80 }\n',
        "10:11: scenario.0.flood.source: L2 has one virtual timer, which is set at each step;"
        " leave vtimer out where placement is pairs",
    ),
    "L2's own timer in a mixed burst": (
        GOOD + 'flood = { source = ["ppi", "vtimer"], placement = "burst", count = 1, burst = 2, '
        "period_ns = 900 }\n",
        "10:11: scenario.0.flood.source: L2 has one virtual timer, which is set at each step;"
        " leave vtimer out where placement is burst",
    ),
    "burst without its numbers": (
        GOOD + 'flood = { source = "ppi", placement = "burst" }\n',
        "10:1: scenario.0.flood: placement burst needs count;"
        " count is the number of passes over the payload",
        "10:1: scenario.0.flood: placement burst needs burst;"
        " burst is the number of interrupts of one burst",
        "10:1: scenario.0.flood: placement burst needs period_ns;"
        " period_ns is from one interrupt of a burst to the next",
    ),
    "burst of one": (
        GOOD
        + 'flood = { source = "ppi", placement = "burst", count = 1, period_ns = 9, burst = 1 }\n',
        "10:74: scenario.0.flood.burst: must be at least 2, got 1",
    ),
    "burst of more than there are timers": (
        GOOD
        + 'flood = { source = "ppi", placement = "burst", count = 1, period_ns = 9, burst = 9 }\n',
        "10:74: scenario.0.flood.burst: must be at most 8, got 9",
    ),
    "burst with a step": (
        GOOD
        + 'flood = { source = "ppi", placement = "burst", count = 1, period_ns = 9, burst = 2,'
        + " step_ns = 2 }\n",
        "10:85: scenario.0.flood.step_ns: means nothing when placement is burst; remove step_ns",
    ),
    "random with a period": (
        GOOD + 'flood = { source = "ppi", placement = "random", count = 1, period_ns = 9 }\n',
        "10:60: scenario.0.flood.period_ns: means nothing when placement is random;"
        " remove period_ns",
    ),
    "pairs with passes": (
        GOOD + 'flood = { source = "ppi", placement = "pairs", count = 1 }\n',
        "10:48: scenario.0.flood.count: means nothing when placement is pairs; remove count",
    ),
    "a period of a flood that is none": (
        GOOD + "flood.period_ns = 9\n",
        "10:7: scenario.0.flood.period_ns: means nothing when placement is none; remove period_ns",
    ),
    "the host's device in a sweep": (
        GOOD + 'flood = { source = "device", placement = "sweep" }\n',
        "10:11: scenario.0.flood.source: device comes when the host says, alone and at random;"
        " set placement to random, and no other source",
    ),
    "the host's device among others": (
        GOOD + 'flood = { source = ["device", "ppi"], placement = "random", count = 1 }\n',
        "10:11: scenario.0.flood.source: device comes when the host says, alone and at random;"
        " set placement to random, and no other source",
    ),
    "a source and each of others": (
        GOOD + 'flood = { source = "ppi", each_of = ["lpi"], placement = "random", count = 1 }\n',
        "10:11: scenario.0.flood: source and each_of exclude each other; remove one",
    ),
    "each of none": (
        GOOD + 'flood = { each_of = ["lpi", "none"], placement = "random", count = 1 }\n',
        "10:11: scenario.0.flood.each_of: none is no flood; remove none",
    ),
    "each of several without a number": (
        GOOD + 'flood = { each_of = ["lpi", "ppi"], placement = "random" }\n',
        "10:1: scenario.0.flood: placement random needs count;"
        " count is the number of passes over the payload",
    ),
    "burst beyond 32 bits": (
        GOOD + 'flood = { source = "ppi", placement = "burst", count = 1, burst = 8,'
        " period_ns = 142_857_143 }\n",
        "10:70: scenario.0.flood.period_ns: a burst of 8 takes 1,000,000,001 ns;"
        " there may be 1,000,000,000: period_ns at most 142,857,142",
    ),
    "device on several CPUs": (
        GOOD + 'flood = { each_of = ["ppi", "device"], placement = "random", count = 1 }\n'
        "machine = { cpus = 2 }\n",
        "11:13: scenario.0.machine.cpus: a device interrupts the first CPU, and L2 has the last;"
        " remove cpus, or the source device",
    ),
    "period on several CPUs": (
        GOOD + 'flood = { source = "ppi", placement = "periodic", count = 1, period_ns = 50000 }\n'
        "machine = { cpus = 2 }\n",
        "11:13: scenario.0.machine.cpus: placement periodic is of one CPU;"
        " remove cpus, or set placement to random or burst",
    ),
    "backward interval": (
        GOOD
        + 'flood = { source = "host_timer", placement = "sweep", first_ns = 9, last_ns = 3 }\n',
        "10:69: scenario.0.flood: last_ns 3 is less than first_ns 9; both belong to the interval",
    ),
    "no drivers": (
        GOOD + "driver = []\n",
        "10:1: scenario.0.driver: the array is empty; name at least one",
    ),
    "driver twice": (
        GOOD + 'driver = ["gdb", "gdb"]\n',
        "8:3: scenario.0: 'hvc' is here twice for unpatched, patched with the same job,"
        " machine, flood, driver and seed; remove one, or make them differ",
    ),
    "unknown driver among others": (
        GOOD + 'driver = ["gdb", "rps"]\n',
        "10:18: scenario.0.driver.1: expected one of in_guest, gdb, rsp, monitor, selftest; got"
        " the string \"rps\"; did you mean 'rsp'?",
    ),
    "selftest beside another": (
        GOOD.replace("hvc", "debug-exceptions") + 'driver = ["selftest", "gdb"]\n',
        "10:1: scenario.0.driver: selftest stands beside no other driver; make it a scenario of"
        " its own",
    ),
    "unknown session": (
        GOOD + 'driver = "gdb"\nsession = ["walk", "wakl"]\n',
        "11:20: scenario.0.session: no session is named 'wakl'; did you mean 'walk'? there are"
        " walk",
    ),
    "session of another driver": (
        GOOD + 'session = "walk"\n',
        '10:1: scenario.0.session: sessions are gdb\'s; set driver to "gdb"',
    ),
    "session of several drivers": (
        GOOD + 'driver = ["gdb", "rsp"]\nsession = "walk"\n',
        '11:1: scenario.0.session: sessions are gdb\'s; set driver to "gdb"',
    ),
    "session and job": (
        GOOD + 'driver = "gdb"\nsession = "walk"\njob = "step"\n',
        "11:1: scenario.0.session: a session takes the place of a job; remove one of them",
    ),
    "session and interrupts into L2": (
        GOOD + 'driver = "gdb"\nsession = "walk"\n'
        'flood = { source = "ppi", placement = "random", count = 1, last_ns = 9 }\n',
        "12:11: scenario.0.flood.source: nobody raises ppi between the commands of a session; there"
        " are none, host_timer, device",
    ),
    "session and each of several floods": (
        GOOD + 'driver = "gdb"\nsession = "walk"\n'
        'flood = { each_of = ["device", "spi_edge"], placement = "random", count = 1 }\n',
        "12:1: scenario.0.flood.source: nobody raises spi_edge between the commands of a session;"
        " there are none, host_timer, device",
    ),
    "session and placement": (
        GOOD + 'driver = "gdb"\nsession = "walk"\n'
        'flood = { source = "host_timer", placement = "sweep", last_ns = 9 }\n',
        "12:34: scenario.0.flood.placement: nothing is placed into a debugger's steps; set"
        " placement to random, with last_ns",
    ),
    "session without a driver that is gdb, and a job": (
        GOOD + 'driver = "monitor"\nsession = "walk"\njob = "step"\n',
        '11:1: scenario.0.session: sessions are gdb\'s; set driver to "gdb"',
        "11:1: scenario.0.session: a session takes the place of a job; remove one of them",
    ),
    "session of a selftest": (
        GOOD.replace("hvc", "debug-exceptions") + 'driver = "selftest"\nsession = "walk"\n',
        '11:1: scenario.0.session: sessions are gdb\'s; set driver to "gdb"',
    ),
    "no session at all": (
        GOOD + 'driver = "gdb"\nsession = []\n',
        "11:1: scenario.0.session: the array is empty; name at least one",
    ),
    "the same session twice": (
        GOOD + 'driver = "gdb"\nsession = ["walk", "walk"]\n',
        "8:3: scenario.0: 'hvc' is here twice for unpatched, patched with the same job, machine,"
        " flood, driver and seed; remove one, or make them differ",
    ),
    "expectation of a job beside a session": (
        GOOD + 'driver = "gdb"\nsession = "walk"\nexpect.patched."hvc/step" = "pass"\n',
        "12:16: scenario.0.expect.patched: the job 'step' is not in this scenario; the jobs are"
        " walk",
    ),
    "a debugger's flood of signals": (
        GOOD + 'driver = "rsp"\n'
        'flood = { source = "signal", placement = "random", count = 1, last_ns = 9 }\n',
        "11:11: scenario.0.flood.source: a debugger's L2 is not flooded by signal; there are"
        " none, host_timer, device, spi_edge, spi_level, ppi",
    ),
    "a debugger's sweep": (
        GOOD + 'driver = ["in_guest", "monitor"]\n'
        'flood = { source = "host_timer", placement = "sweep", last_ns = 9 }\n',
        "11:34: scenario.0.flood.placement: nothing is placed into a debugger's steps; set"
        " placement to random, with last_ns",
    ),
    "a debugger's flood without an end": (
        GOOD
        + 'driver = "gdb"\nflood = { source = "host_timer", placement = "random", count = 1 }\n',
        "11:1: scenario.0.flood: the flood of a debugger's L2 needs last_ns; an interrupt comes"
        " first_ns to last_ns after another",
    ),
    "each of a debugger's floods without an end": (
        GOOD + 'driver = "gdb"\n'
        'flood = { each_of = ["device", "host_timer"], placement = "random", count = 1 }\n',
        "11:1: scenario.0.flood: the flood of a debugger's L2 needs last_ns; an interrupt comes"
        " first_ns to last_ns after another",
    ),
    "a debugger and CPUs": (
        GOOD + 'driver = "gdb"\nmachine = { cpus = 2 }\n',
        "11:13: scenario.0.machine.cpus: the drivers from outside have one L1 CPU; remove cpus",
    ),
    "pair of what": (
        GOOD + '[[pair]]\nof = "drivers"\nbaseline = "gdb"\ncandidate = "rsp"\n',
        '11:1: pair.0.of: expected one of kernel, driver, qemu; got the string "drivers"; did you'
        " mean 'driver'?",
    ),
    "pair of a driver that is none": (
        GOOD + '[[pair]]\nof = "driver"\nbaseline = "unpatched"\ncandidate = "rps"\n',
        "12:1: pair.0.baseline: no driver is named 'unpatched'; the drivers here are"
        " in_guest, gdb, rsp, monitor, selftest",
        "13:1: pair.0.candidate: no driver is named 'rps'; did you mean 'rsp'?",
    ),
    "pair of a driver with itself": (
        GOOD + '[[pair]]\nof = "driver"\nbaseline = "gdb"\ncandidate = "gdb"\n',
        "10:3: pair.0: baseline and candidate are both 'gdb'; a pair holds two drivers against"
        " each other",
    ),
    "pair of drivers, taken for kernels": (
        GOOD + '[[pair]]\nbaseline = "gdb"\ncandidate = "rsp"\n',
        "11:1: pair.0.baseline: no kernel is named 'gdb'; the kernels here are unpatched, patched",
        "12:1: pair.0.candidate: no kernel is named 'rsp'; the kernels here are unpatched, patched",
    ),
    "pair of drivers twice": (
        GOOD + '[[pair]]\nof = "driver"\nbaseline = "gdb"\ncandidate = "rsp"\n' * 2,
        "14:3: pair.1: the same pair as pair.0; remove one",
    ),
    "payload twice": (
        GOOD.replace('"hvc"', '["hvc", "hvc"]'),
        "8:3: scenario.0: 'hvc' is here twice for unpatched, patched with the same job, machine,"
        " flood, driver and seed; remove one, or make them differ",
    ),
    "scenario twice": (
        GOOD + SCENARIO,
        "10:3: scenario.1: 'hvc' is here twice for unpatched, patched with the same job, machine,"
        " flood, driver and seed; the other is at ROOT/configs/c.toml:8:3; remove one, or make them"
        " differ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_campaign_is_told_in_one_line(root: Path, case: str) -> None:
    text, *expected = WRONG[case]
    assert mistakes(root, text) == expected


def test_mistakes_come_all_at_once_in_the_order_of_the_file(root: Path) -> None:
    text = GOOD.replace('"c"', "1").replace("payload", "paylod") + "driver = 2\n"
    assert mistakes(root, text) == [
        "2:1: campaign.name: expected a string, got the integer 1",
        "9:1: unknown key 'paylod'; did you mean 'payload'?",
        "10:1: scenario.0.driver: expected one of in_guest, gdb, rsp, monitor, selftest; "
        "got the integer 2",
    ]


def test_a_long_value_is_clipped_to_one_short_line(root: Path) -> None:
    (line,) = mistakes(root, HEAD + f'seed = """\n{"y" * 500}"""\n' + KERNELS + SCENARIO)
    assert line.endswith('yyy..."')
    assert len(line) < 150


WHOLE = (
    HEAD
    + """seed = 1
budget_s = 60
[kernels.a]
source = { tree = "linux" }
kconfig = ["fragment.config"]
[kernels.b]
source.image = "Image"
[[pair]]
baseline = "a"
candidate = "b"
[[scenario]]
payload = ["hvc", "straightline"]
flood = { source = "host_timer", placement = "random", first_ns = 1, last_ns = 9, count = 2 }
machine = { kvm_mode = ["vhe", "nvhe"], cpu = "max", memory_mib = 256 }
expect = { a = { hvc = "lost-step" } }
"""
)
TOKENS = re.findall(r"\w+|\s|.", WHOLE)


@settings(
    deadline=None,  # kernels may be building beside the tests
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(st.integers(0, len(TOKENS) - 1), max_size=4),
    st.lists(
        st.tuples(st.integers(0, len(TOKENS)), st.sampled_from([*TOKENS, "\x00"])), max_size=4
    ),
    st.lists(st.sampled_from(["scenario.0=1", "kernels={}", "campaign.x.y=1", "pair.0.a=[]"])),
)
def test_whatever_is_wrong_it_is_a_config_error(
    root: Path, deleted: list[int], inserted: list[tuple[int, str]], overrides: list[str]
) -> None:
    tokens = [token for index, token in enumerate(TOKENS) if index not in deleted]
    for index, token in inserted:
        tokens.insert(index, token)
    path = write(root, "".join(tokens))
    try:
        load_campaign(path, overrides, root=root)
    except ConfigError as error:
        lines = str(error).splitlines()
        assert all(line.startswith(str(path)) for line in lines)


# --- files that can't be read --------------------------------------------------------------------


def test_a_missing_file(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"^/no/c\.toml: there is no such campaign file$"):
        load_campaign(Path("/no/c.toml"), root=root)


def test_a_directory(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"project: is a directory, not a campaign file$"):
        load_campaign(root, root=root)


def test_a_file_below_a_file(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be read: Not a directory$"):
        load_campaign(root / "Image" / "c.toml", root=root)


def test_a_file_that_is_not_utf8(root: Path) -> None:
    path = root / "latin1.toml"
    path.write_bytes('# one\nname = "é'.encode() + b"\xe9")
    with pytest.raises(ConfigError, match=r"latin1\.toml:2:10: byte 0xe9 is not UTF-8$"):
        load_campaign(path, root=root)


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "9" * 5000])
def test_a_file_beyond_the_parser_s_limits(root: Path, text: str) -> None:
    (line,) = mistakes(root, text)
    assert line.startswith(" not read as TOML: ")


# --- overrides -----------------------------------------------------------------------------------


def test_overrides_change_keys_and_the_last_wins(root: Path) -> None:
    campaign = load_campaign(
        write(root, GOOD),
        [
            "campaign.seed=2",
            "campaign.seed=3",
            "scenario.0.payload=straightline",
            'scenario.0.flood={ source = "host_timer", placement = "sweep" }',
            "scenario.0.flood.step_ns = 32",
            "kernels.patched.patches=['fix.patch']",
        ],
        root=root,
    )
    assert campaign.seed == 3
    assert campaign.scenarios[0].payloads == ("straightline",)
    assert campaign.scenarios[0].flood.step_ns == 32
    assert campaign.kernels[1].patches == (root / "configs" / "fix.patch",)


def test_an_override_can_make_the_tables_above_it(root: Path) -> None:
    campaign = load_campaign(write(root, GOOD), ["kernels.new.source.tree=linux"], root=root)
    assert campaign.kernels[2] == KernelSpec("new", TreeSource(root / "linux"))


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("campaign.seed", "expected KEY=VALUE"),
        ("=1", "'' is not a dotted key"),
        ("a b=1", "'a b' is not a dotted key"),
        pytest.param(
            "a." * 5000 + "b=1", "a key of more parts than TOML's reader takes", id="many parts"
        ),
        ("campaign.sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("campaign.seed=x", 'campaign.seed: expected an integer, got the string "x"'),
        ("campaign.seed.x=1", "campaign.seed is the integer 7, and holds no key 'x'"),
        (
            "scenario.payload=hvc",
            "scenario is an array, and 'payload' is not the number of an element (0 to 0)",
        ),
        (
            "scenario.1.payload=hvc",
            "scenario is an array, and '1' is not the number of an element (0 to 0)",
        ),
        (
            "scenario.0.payload=hcv",
            "scenario.0.payload: no payload is named 'hcv';"
            " did you mean 'hvc'? there are hvc, straightline, trapped_sysreg",
        ),
    ],
)
def test_a_wrong_override_is_named(root: Path, override: str, problem: str) -> None:
    text = HEAD + "seed = 7\n" + KERNELS + SCENARIO
    assert mistakes(root, text, override) == [f" --set {override}: {problem}"]
