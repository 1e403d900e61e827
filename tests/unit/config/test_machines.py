"""Campaign files: machines of ``async_first``, peers, and scenarios for some kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.config import load_campaign
from qemu_diff.errors import ConfigError
from qemu_diff.model import (
    SELFTEST_PAYLOAD,
    Driver,
    ExceptionOrder,
    Expectation,
    FloodSource,
    FloodSpec,
    KvmMode,
    MachineSpec,
    Pending,
    Placement,
    ScenarioSpec,
)

HEAD = """\
[campaign]
name = "c"
[kernels.unpatched]
source = "debian:linux-source-6.1"
[kernels.patched]
source = "debian:linux-source-6.1"
[[scenario]]
"""
OURS = HEAD + 'payload = "hvc"\n'
FLOODED = OURS + 'flood = { source = "host_timer", placement = "sweep" }\n'
PEER = HEAD + f'payload = "{SELFTEST_PAYLOAD}"\ndriver = "selftest"\n'
ASYNC_FIRST = 'exception_order = "async_first"'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with two payloads and two jobs; its campaign is ``c.toml``."""
    for name in ("payloads/hvc.S", "payloads/mixed.S", "jobs/step.job", "jobs/kick.job"):
        path = tmp_path / "guest_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def scenario(root: Path, text: str) -> ScenarioSpec:
    path = root / "c.toml"
    path.write_text(text)
    (only,) = load_campaign(path, root=root).scenarios
    return only


def mistakes(root: Path, text: str, *overrides: str) -> list[str]:
    """Each line of the error, without the file's name."""
    path = root / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_campaign(path, overrides, root=root)
    lines = str(caught.value).splitlines()
    return [line.removeprefix(f"{path}:").replace(str(path), "FILE") for line in lines]


# --- right ones ----------------------------------------------------------------------------------


def test_the_order_is_qemu_s_unless_a_campaign_says_otherwise(root: Path) -> None:
    assert scenario(root, OURS).machines == (MachineSpec(exception_order=ExceptionOrder.TCG),)


def test_async_first_has_an_sgi_at_every_step_and_one_redirect(root: Path) -> None:
    (machine,) = scenario(root, OURS + f"machine = {{ {ASYNC_FIRST} }}\n").machines
    assert machine == MachineSpec(
        exception_order=ExceptionOrder.ASYNC_FIRST,
        pending=Pending.SGI,
        redirects=1,
        redirect_at=(),
    )


def test_what_is_pending_multiplies_async_first_alone(root: Path) -> None:
    text = (
        'machine = { exception_order = ["tcg", "async_first"], pending = ["sgi", "spurious"],'
        ' redirects = 2, kvm_mode = ["vhe", "nvhe"] }\n'
    )
    first = MachineSpec(exception_order=ExceptionOrder.ASYNC_FIRST, redirects=2)
    spurious = MachineSpec(
        exception_order=ExceptionOrder.ASYNC_FIRST, pending=Pending.SPURIOUS, redirects=2
    )
    vhe, nvhe = (
        (
            MachineSpec(mode),
            *(
                MachineSpec(mode, exception_order=one.exception_order, pending=one.pending,
                            redirects=2)
                for one in (first, spurious)
            ),
        )
        for mode in (KvmMode.VHE, KvmMode.NVHE)
    )  # fmt: skip
    assert scenario(root, OURS + text).machines == (*vhe, *nvhe)


def test_chosen_instructions_are_one_list_and_a_name_alone_is_one(root: Path) -> None:
    both = f'machine = {{ {ASYNC_FIRST}, pending = ["spi", "ppi"], redirect_at = ["a", "b"] }}\n'
    assert [
        (machine.pending, machine.redirect_at) for machine in scenario(root, OURS + both).machines
    ] == [(Pending.SPI, ("a", "b")), (Pending.PPI, ("a", "b"))]
    alone = f'machine = {{ {ASYNC_FIRST}, pending = "spurious", redirect_at = "a" }}\n'
    (machine,) = scenario(root, OURS + alone).machines
    assert machine.redirect_at == ("a",)


def test_a_flood_can_be_what_is_pending(root: Path) -> None:
    text = FLOODED + f'machine = {{ {ASYNC_FIRST}, pending = "flood" }}\n'
    assert scenario(root, text).machines[0].pending is Pending.FLOOD


def test_a_peer_with_its_flood(root: Path) -> None:
    text = PEER + (
        'flood = { source = "host_timer", placement = "random", last_ns = 100, count = 7 }\n'
        f"expect = {{ unpatched = {{ {SELFTEST_PAYLOAD} = 'fail' }} }}\n"
    )
    one = scenario(root, text)
    assert (one.payloads, one.driver) == ((SELFTEST_PAYLOAD,), Driver.SELFTEST)
    assert one.flood == FloodSpec((FloodSource.HOST_TIMER,), Placement.RANDOM, 0, 100, 1, 7)
    assert one.expect == (("unpatched", SELFTEST_PAYLOAD, (Expectation.FAIL,)),)


def test_a_peer_without_a_flood(root: Path) -> None:
    assert scenario(root, PEER + "flood.count = 10_000\n").flood == FloodSpec(count=10_000)


def test_a_scenario_is_for_all_kernels_or_for_those_it_names(root: Path) -> None:
    assert scenario(root, OURS).kernels == ()
    assert scenario(root, OURS + 'kernels = "patched"\n').kernels == ("patched",)
    both = scenario(root, OURS + 'kernels = ["patched", "unpatched"]\n')
    assert both.kernels == ("patched", "unpatched")


def test_the_same_cell_may_be_there_for_another_kernel(root: Path) -> None:
    text = OURS + 'kernels = ["patched"]\n[[scenario]]\npayload = "hvc"\nkernels = ["unpatched"]\n'
    path = root / "c.toml"
    path.write_text(text)
    first, second = load_campaign(path, root=root).scenarios
    assert (first.kernels, second.kernels) == (("patched",), ("unpatched",))


# --- wrong ones ----------------------------------------------------------------------------------

WRONG = {
    # machines
    "pending under tcg": (
        OURS + 'machine = { pending = "sgi" }\n',
        "9:13: scenario.0.machine.pending: means nothing without exception_order async_first;"
        " remove pending",
    ),
    "redirects under tcg": (
        OURS + 'machine = { exception_order = ["tcg"], redirects = 2 }\n',
        "9:40: scenario.0.machine.redirects: means nothing without exception_order async_first;"
        " remove redirects",
    ),
    "labels under tcg": (
        OURS + 'machine.redirect_at = ["a"]\n',
        "9:9: scenario.0.machine.redirect_at: means nothing without exception_order async_first;"
        " remove redirect_at",
    ),
    "a device's interrupt at every step": (
        OURS + f'machine = {{ {ASYNC_FIRST}, pending = "spi" }}\n',
        "9:46: scenario.0.machine.pending: spi is for chosen instructions: name their labels in"
        " redirect_at",
    ),
    "an SGI at a chosen instruction": (
        OURS + f'machine = {{ {ASYNC_FIRST}, redirect_at = ["a"], pending = "sgi" }}\n',
        "9:67: scenario.0.machine.pending: sgi is sent at every step; with redirect_at pending is"
        " spi, ppi or spurious",
    ),
    "the default at a chosen instruction": (
        OURS + f'machine = {{ {ASYNC_FIRST}, redirect_at = "a" }}\n',
        "9:1: scenario.0.machine.pending: sgi is sent at every step; with redirect_at pending is"
        " spi, ppi or spurious",
    ),
    "a flood at a chosen instruction": (
        FLOODED + f'machine = {{ {ASYNC_FIRST}, pending = "flood", redirect_at = "a" }}\n',
        "10:46: scenario.0.machine.pending: flood can't go with redirect_at: the flood says which"
        " steps are redirected",
    ),
    "a flood that is none": (
        OURS + f'machine = {{ {ASYNC_FIRST}, pending = "flood" }}\n',
        "9:46: scenario.0.machine.pending: flood takes the flood's interrupts,"
        " and there is no flood",
    ),
    "a flood that would miss it": (
        OURS
        + 'flood = { source = "host_timer", placement = "adaptive" }\n'
        + f'machine = {{ {ASYNC_FIRST}, pending = "flood" }}\n',
        "10:46: scenario.0.machine.pending: flood is hit in a few ns of a step only:"
        " placement must be sweep",
    ),
    "a flood that misses it": (
        OURS
        + 'flood = { source = "host_timer", placement = "sweep", step_ns = 16 }\n'
        + f'machine = {{ {ASYNC_FIRST}, pending = "flood" }}\n',
        "10:46: scenario.0.machine.pending: flood is hit in a few ns of a step only: the sweep's"
        " step_ns must be 1",
    ),
    "a peer's labels": (
        PEER + f'machine = {{ {ASYNC_FIRST}, pending = "spurious", redirect_at = "a" }}\n',
        "10:68: scenario.0.machine.redirect_at: a peer has no labels; remove redirect_at",
    ),
    "two that are wrong beside one that is right": (
        OURS + f'machine = {{ {ASYNC_FIRST}, pending = ["spi", "sgi", "ppi"] }}\n',
        "9:46: scenario.0.machine.pending: spi is for chosen instructions: name their labels in"
        " redirect_at",
        "9:46: scenario.0.machine.pending: ppi is for chosen instructions: name their labels in"
        " redirect_at",
    ),
    "an order that is none": (
        OURS + 'machine = { exception_order = "async-first" }\n',
        "9:13: scenario.0.machine.exception_order: expected one of tcg, async_first; got the"
        " string \"async-first\"; did you mean 'async_first'?",
    ),
    "something else that is pending": (
        OURS + f'machine = {{ {ASYNC_FIRST}, pending = "lpi" }}\n',
        "9:46: scenario.0.machine.pending: expected one of sgi, spurious, flood, spi, ppi; got"
        " the string \"lpi\"; did you mean 'spi'?",
    ),
    "no redirects": (
        OURS + f"machine = {{ {ASYNC_FIRST}, redirects = 0 }}\n",
        "9:46: scenario.0.machine.redirects: must be at least 1, got 0",
    ),
    # peers
    "a payload of ours for a peer": (
        HEAD + 'payload = "hvc"\ndriver = "selftest"\n',
        "8:1: scenario.0.payload: driver selftest runs 'debug-exceptions' only;"
        " write 'debug-exceptions'",
    ),
    "one of two payloads": (
        HEAD + f'payload = ["{SELFTEST_PAYLOAD}", "hvc"]\ndriver = "selftest"\n',
        "8:32: scenario.0.payload: driver selftest runs 'debug-exceptions' only;"
        " write 'debug-exceptions'",
    ),
    "the peer's payload for us": (
        HEAD + f'payload = "{SELFTEST_PAYLOAD}"\n',
        "8:1: scenario.0.payload: no payload is named 'debug-exceptions'; there are hvc, mixed",
    ),
    "a job for a peer": (
        PEER + 'job = "kick"\n',
        "10:1: scenario.0.job: a peer takes no job; remove job",
    ),
    "the default job for a peer": (
        PEER + 'job = "step"\n',
        "10:1: scenario.0.job: a peer takes no job; remove job",
    ),
    "signals for a peer": (
        PEER
        + 'flood = { source = "signal", placement = "random", last_ns = 9, count = 1 }\n',
        "10:1: scenario.0.flood: a peer can be flooded by host_timer at random only",
    ),
    "a sweep of a peer": (
        PEER + 'flood = { source = "host_timer", placement = "sweep", last_ns = 9 }\n',
        "10:1: scenario.0.flood: a peer can be flooded by host_timer at random only",
    ),
    "a peer's flood without an end": (
        PEER + 'flood = { source = "host_timer", placement = "random", count = 9 }\n',
        "10:1: scenario.0.flood: a peer's flood needs last_ns; an interrupt comes first_ns to"
        " last_ns after another",
    ),
    "a failure and a violation": (
        PEER + f'expect = {{ unpatched = {{ {SELFTEST_PAYLOAD} = ["fail", "lost-step"] }} }}\n',
        "10:26: scenario.0.expect.unpatched.debug-exceptions: fail can't be expected with others;"
        " expect it alone, or only the others",
    ),
    # kernels of a scenario
    "a kernel that is not there": (
        OURS + 'kernels = ["patched", "unpatchd"]\n',
        "9:23: scenario.0.kernels.1: no kernel is named 'unpatchd'; did you mean 'unpatched'?",
    ),
    "a kernel alone that is not there": (
        OURS + 'kernels = "v9"\n',
        "9:1: scenario.0.kernels.0: no kernel is named 'v9'; the kernels here are unpatched,"
        " patched",
    ),
    "an expectation of a kernel that it is not for": (
        OURS + 'kernels = ["patched"]\nexpect = { unpatched = { hvc = "lost-step" } }\n',
        "10:12: scenario.0.expect.unpatched: this scenario is not for the kernel 'unpatched';"
        " it is for patched",
    ),
    "the same cell for a kernel and for all": (
        OURS + '[[scenario]]\npayload = "hvc"\nkernels = ["patched"]\n',
        "9:3: scenario.1: 'hvc' is here twice for patched with the same job, machine,"
        " flood, driver and seed; the other is at FILE:7:3; remove one, or make them differ",
    ),
    "a kernel twice": (
        OURS + 'kernels = ["patched", "patched"]\n',
        "7:3: scenario.0: 'hvc' is here twice for patched with the same job, machine,"
        " flood, driver and seed; remove one, or make them differ",
    ),
    "the same machine twice": (
        OURS + f'machine = {{ {ASYNC_FIRST}, pending = ["sgi", "sgi"] }}\n',
        "7:3: scenario.0: 'hvc' is here twice for unpatched, patched with the same job, machine,"
        " flood, driver and seed; remove one, or make them differ",
    ),
    "kernels that are no names": (
        OURS + "kernels = [1]\n",
        "9:12: scenario.0.kernels.0: expected a string, got the integer 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_scenario_is_told_once(root: Path, case: str) -> None:
    text, *expected = WRONG[case]
    assert mistakes(root, text) == expected


def test_too_much_is_told_like_too_little(root: Path) -> None:
    assert mistakes(root, OURS + f"machine = {{ {ASYNC_FIRST}, redirects = 1001 }}\n") == [
        "9:46: scenario.0.machine.redirects: must be at most 1000, got 1001"
    ]


def test_a_scenario_for_no_kernel_is_a_mistake(root: Path) -> None:
    assert mistakes(root, OURS + "kernels = []\n") == [
        "9:1: scenario.0.kernels: the array is empty; name at least one"
    ]


def test_a_machine_of_the_command_line_is_blamed_on_it(root: Path) -> None:
    override = "scenario.0.machine.pending=spi"
    (line,) = mistakes(root, OURS, override)
    assert line == (
        f" --set {override}: scenario.0.machine.pending: means nothing without exception_order"
        " async_first; remove pending"
    )


def test_all_that_is_wrong_with_a_peer_is_told_at_once(root: Path) -> None:
    text = HEAD + (
        'payload = "hvc"\ndriver = "selftest"\njob = "kick"\nkernels = ["v9"]\n'
        'flood = { source = "host_timer", placement = "random", count = 1 }\n'
        "machine = { redirects = 2 }\n"
    )
    assert [line.split(";")[0] for line in mistakes(root, text)] == [
        "8:1: scenario.0.payload: driver selftest runs 'debug-exceptions' only",
        "10:1: scenario.0.job: a peer takes no job",
        "11:12: scenario.0.kernels.0: no kernel is named 'v9'",
        "12:1: scenario.0.flood: a peer's flood needs last_ns",
        "13:13: scenario.0.machine.redirects: means nothing without exception_order async_first",
    ]
