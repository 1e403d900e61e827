"""Fragments: read, merged, and held against what came out."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.errors import UserError
from qemu_diff.kernels import kconfig
from qemu_diff.kernels.kconfig import Fragment

COMPLETE = dict.fromkeys(kconfig.REQUIRED, "y")


@pytest.fixture
def own() -> Fragment:
    return kconfig.read_fragment(kconfig.own_fragment())


def fragment(tmp_path: Path, text: str, name: str = "user.config") -> Fragment:
    path = tmp_path / name
    path.write_text(text)
    return kconfig.read_fragment(path)


def test_options_carry_their_line(tmp_path: Path) -> None:
    read = fragment(tmp_path, '# why\nCONFIG_A=y\n\n# CONFIG_B is not set\nCONFIG_C="x y"\n')
    assert read.options == {
        "CONFIG_A": ("y", 2),
        "CONFIG_B": ("n", 4),
        "CONFIG_C": ('"x y"', 5),
    }


def test_the_last_word_counts_and_comes_last(tmp_path: Path) -> None:
    first = fragment(tmp_path, "CONFIG_HZ_100=y\nCONFIG_A=y\n", "first")
    second = fragment(tmp_path, "CONFIG_HZ_1000=y\nCONFIG_HZ_100=n\n", "second")
    assert kconfig.merge([first, second]) == "CONFIG_A=y\nCONFIG_HZ_1000=y\nCONFIG_HZ_100=n\n"


def test_a_line_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"user.config:2: not a kconfig line: 'KVM=y'"):
        fragment(tmp_path, "CONFIG_A=y\nKVM=y\n")


def test_a_missing_fragment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't read the kconfig fragment: No such file"):
        kconfig.read_fragment(tmp_path / "none.config")


def test_our_fragment_has_a_why_for_each_option(own: Fragment) -> None:
    lines = own.path.read_text().splitlines()
    for option, (_, line) in own.options.items():
        above = lines[line - 2]
        assert above.startswith(("#", "CONFIG_")), option


def test_our_fragment_asks_for_all_that_is_required(own: Fragment) -> None:
    assert {option: own.options[option][0] for option in kconfig.REQUIRED} == COMPLETE


def test_what_ours_lost_is_told_and_good(own: Fragment) -> None:
    assert "CONFIG_ARM64_VHE" in kconfig.check("k", own, (), COMPLETE)


def test_a_kernel_without_kvm_says_who_said_so(own: Fragment, tmp_path: Path) -> None:
    user = fragment(tmp_path, "# lean\nCONFIG_KVM=n\n")
    config = {option: "y" for option in kconfig.REQUIRED if option != "CONFIG_KVM"}
    with pytest.raises(UserError) as caught:
        kconfig.check("lean", own, (user,), config)
    assert str(caught.value) == (
        "kernel 'lean' comes out without CONFIG_KVM=y and so has no KVM to test: "
        f"{user.path}:2 sets it to n"
    )


def test_a_source_without_kvm(own: Fragment) -> None:
    with pytest.raises(UserError, match="this source's Kconfig does not take it"):
        kconfig.check("old", own, (), {})


@pytest.mark.parametrize(
    ("asked", "got", "why"),
    [
        ("CONFIG_X=y", "n", "does not know the option"),
        ("CONFIG_X=n", "y", "another option selects it"),
        ("CONFIG_X=7", "5", "Kconfig takes another value"),
    ],
)
def test_what_the_user_asked_for_must_come_out(
    own: Fragment, tmp_path: Path, asked: str, got: str, why: str
) -> None:
    user = fragment(tmp_path, f"{asked}\n")
    config = {**COMPLETE, "CONFIG_X": got} if got != "n" else COMPLETE
    with pytest.raises(UserError, match=rf"user.config:1: {asked} came out as {got}: .*{why}"):
        kconfig.check("k", own, (user,), config)


def test_a_module_becomes_built_in(own: Fragment, tmp_path: Path) -> None:
    user = fragment(tmp_path, "CONFIG_X=m\n")
    kconfig.check("k", own, (user,), {**COMPLETE, "CONFIG_X": "y"})


def test_a_configuration_is_read_without_what_is_not_set() -> None:
    assert kconfig.parse_config("#\n# Linux\n#\nCONFIG_A=y\n# CONFIG_B is not set\n") == {
        "CONFIG_A": "y"
    }
