"""Kernels from git: how a campaign names a revision or a range, and ``--tree``."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.config import load_campaign
from qemu_diff.config.tree_option import TreeOption, read_tree_option
from qemu_diff.errors import ConfigError, UserError
from qemu_diff.model import Campaign, GitSource, KernelSpec, PairSpec, TreeSource

HEAD = '[campaign]\nname = "c"\n'
SCENARIO = '[[scenario]]\npayload = "hvc"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "guest_images/payloads").mkdir(parents=True)
    (tmp_path / "guest_images/payloads/hvc.S").touch()
    (tmp_path / "guest_images/jobs").mkdir()
    (tmp_path / "guest_images/jobs/step.job").touch()
    (tmp_path / "linux").mkdir()
    (tmp_path / "series").mkdir()
    return tmp_path


def load(root: Path, text: str, *trees: str, dirty: bool = False) -> Campaign:
    path = root / "c.toml"
    path.write_text(HEAD + text + SCENARIO)
    options = [read_tree_option(one, dirty=dirty) for one in trees]
    return load_campaign(path, trees=options, root=root)


def mistakes(root: Path, text: str, *trees: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(root, text, *trees)
    return [line.removeprefix(f"{root}/c.toml:").strip() for line in str(caught.value).splitlines()]


# --- in the campaign -----------------------------------------------------------------------------


def test_a_revision(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    text = """\
[kernels.path]
source = { git = "linux", rev = "v6.1" }
reverts = ["0123abc", "topic~1"]
patches = ["series"]
[kernels.home]
source = { git = "~/linux" }
[kernels.url]
source = { git = "https://git.kernel.org/pub/linux.git", rev = "master" }
[kernels.ssh]
source = { git = "git@example.org:linux", rev = ":/KVM: arm64: a..b" }
"""
    assert load(root, text).kernels == (
        KernelSpec(
            "path",
            GitSource(str(root / "linux"), "v6.1"),
            (root / "series",),
            reverts=("0123abc", "topic~1"),
        ),
        KernelSpec("home", GitSource(str(root / "linux"), "HEAD")),
        KernelSpec("url", GitSource("https://git.kernel.org/pub/linux.git", "master")),
        KernelSpec("ssh", GitSource("git@example.org:linux", ":/KVM: arm64: a..b")),
    )


@pytest.mark.parametrize(
    ("rev", "base", "head"),
    [
        ("v6.0..v6.1", "v6.0", "v6.1"),
        ("v6.0..", "v6.0", "HEAD"),
        ("..topic", "HEAD", "topic"),
        ("v6.0...topic", "v6.0...topic", "topic"),
        ("@{u}...", "@{u}...", "HEAD"),
    ],
)
def test_a_range_is_two_kernels_and_a_pair(root: Path, rev: str, base: str, head: str) -> None:
    text = f"""\
[kernels.x]
source = {{ git = "linux", rev = "{rev}" }}
patches = ["series"]
[kernels.other]
source = {{ git = "linux" }}
"""
    campaign = load(root, text)
    place, series = str(root / "linux"), (root / "series",)
    assert campaign.kernels == (
        KernelSpec("x-base", GitSource(place, base), series),
        KernelSpec("x-head", GitSource(place, head), series),
        KernelSpec("other", GitSource(place, "HEAD")),
    )
    assert campaign.pairs == (PairSpec("x-base", "x-head"),)


RANGE = '[kernels.x]\nsource = { git = "linux", rev = "a..b" }\n'


def test_the_ends_of_a_range_can_be_named(root: Path) -> None:
    more = 'kernels = ["x-head"]\nexpect = { x-head = { hvc = "lost-step" } }\n'
    text = f'{RANGE}[[pair]]\nbaseline = "x-base"\ncandidate = "x-head"\n{SCENARIO}{more}'
    path = root / "c.toml"
    path.write_text(HEAD + text)
    campaign = load_campaign(path, root=root)
    assert campaign.pairs == (PairSpec("x-base", "x-head"),)
    assert campaign.scenarios[0].kernels == ("x-head",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            RANGE + '[[pair]]\nbaseline = "x"\ncandidate = "x-head"\n',
            "6:1: pair.0.baseline: the kernel 'x' is a range, and so it is two; name x-base or"
            " x-head",
        ),
        (
            RANGE + '[kernels.x-head]\nsource = { git = "linux" }\n',
            "4:27: kernels.x.source.rev: a range makes a kernel 'x-head', and there is one already;"
            " rename 'x' or 'x-head'",
        ),
        (
            RANGE.replace("x]", "x" * 60 + "]"),
            "4:27: kernels.XXX.source.rev: a range puts -base and -head behind the kernel's name;"
            " with them it may have 64 characters",
        ),
        (
            '[kernels.x]\nsource = { git = "none", rev = "v6.1" }\n',
            "4:12: kernels.x.source.git: 'none' does not exist in ROOT",
        ),
        (
            '[kernels.x]\nsource = { rev = "v6.1" }\n',
            "4:1: kernels.x.source: rev is of a git repository; add git, or remove rev",
        ),
        (
            '[kernels.x]\nsource = { git = "linux", tree = "linux" }\n',
            "4:1: kernels.x.source: a commit is built: git stands with rev alone; keep either git"
            " with its rev, or the other source",
        ),
        (
            '[kernels.x]\nsource = { tree = "linux" }\nreverts = ["v6.1"]\n',
            "5:1: kernels.x.reverts: commits are taken out of a git repository only; name one as"
            " the source, or undo them with a patch",
        ),
        (
            '[kernels.x]\nsource = { image = "c.toml" }\nreverts = ["v6.1"]\n',
            "5:1: kernels.x.reverts: a kernel that is an image is not built; remove reverts, or"
            " name a tree as the source",
        ),
        (
            '[kernels.x]\nsource = "git:linux"\n',
            '4:1: kernels.x.source: expected "debian:PACKAGE", { debian = PACKAGE, suite = SUITE },'
            " { git = PATH_OR_URL, rev = REV }, { tree = PATH } or { image = PATH }; got the string"
            ' "git:linux"; write { git = "linux" }',
        ),
    ],
)
def test_mistakes(root: Path, text: str, expected: str) -> None:
    found = [
        line.replace(str(root), "ROOT").replace("x" * 60, "XXX") for line in mistakes(root, text)
    ]
    assert found == [expected]


# --- --tree --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux", ("", "CWD/linux", "")),
        ("linux@v6.1", ("", "CWD/linux", "v6.1")),
        ("mine=linux@HEAD@{1}", ("mine", "CWD/linux", "HEAD@{1}")),
        ("linux@@{u}", ("", "CWD/linux", "@{u}")),
        ("at@home", ("", "CWD/at@home", "")),
        ("at@home@topic", ("", "CWD/at@home", "topic")),
        ("k=at@home", ("k", "CWD/at@home", "")),
        ("a=b", ("", "CWD/a=b", "")),
        ("none@v6.1", ("", "CWD/none", "v6.1")),
        ("/srv/none", ("", "/srv/none", "")),
        ("https://example.org/linux", ("", "https://example.org/linux", "")),
        ("https://me@example.org/linux@v6.1", ("", "https://me@example.org/linux", "v6.1")),
        ("k=git@example.org:linux@next/a@b", ("k", "git@example.org:linux", "next/a@b")),
        ("git@example.org:linux", ("", "git@example.org:linux", "")),
    ],
)
def test_the_option_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, str, str]
) -> None:
    monkeypatch.chdir(root)
    for name in ("at@home", "a=b"):
        (root / name).mkdir()
    kernel, repository, rev = expected
    repository = repository.replace("CWD", str(root))
    assert read_tree_option(text) == TreeOption(text, kernel, repository, rev, False)


@pytest.mark.parametrize(
    ("text", "dirty", "expected"),
    [
        ("", False, "--tree : expected [NAME=]PATH_OR_URL[@REV]"),
        ("x=", False, "--tree x=: expected [NAME=]PATH_OR_URL[@REV]"),
        ("l@a..b", False, "--tree l@a..b: a..b is a range; a kernel is built from one commit"),
        ("l@v1", True, "--tree l@v1: --dirty takes a directory as it is, not a revision"),
        (
            "https://x/y",
            True,
            "--tree https://x/y: --dirty takes a directory as it is, not a revision",
        ),
    ],
)
def test_an_option_that_is_none(text: str, dirty: bool, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        read_tree_option(text, dirty=dirty)
    assert str(caught.value) == expected


def kernels(*names: str) -> str:
    return "".join(f'[kernels.{name}]\nsource = "debian:linux-source-6.1"\n' for name in names)


PAIR = '[[pair]]\nbaseline = "a"\ncandidate = "b"\n'


@pytest.mark.parametrize(
    ("text", "option", "replaced"),
    [
        (kernels("a", "b", "candidate") + PAIR, "linux", "candidate"),
        (kernels("a", "b") + PAIR, "linux", "b"),
        (kernels("a", "b") + PAIR, "a=linux", "a"),
        (kernels("only"), "linux", "only"),
        (
            kernels("a", "b")
            + '[[pair]]\nof = "driver"\nbaseline = "gdb"\ncandidate = "rsp"\n'
            + PAIR,
            "linux",
            "b",
        ),
    ],
)
def test_whose_source_is_replaced(root: Path, text: str, option: str, replaced: str) -> None:
    option = option.replace("linux", f"{root}/linux@topic")
    sources = {kernel.name: kernel.source for kernel in load(root, text, option).kernels}
    assert [name for name, one in sources.items() if isinstance(one, GitSource)] == [replaced]
    assert sources[replaced] == GitSource(f"{root}/linux", "topic")


def test_patches_stay(root: Path) -> None:
    text = kernels("k") + 'patches = ["series"]\n'
    (kernel,) = load(root, text, f"{root}/linux").kernels
    assert kernel == KernelSpec("k", GitSource(f"{root}/linux", "HEAD"), (root / "series",))


def test_the_dirty_state(root: Path) -> None:
    (kernel,) = load(root, kernels("k"), f"{root}/linux", dirty=True).kernels
    assert kernel.source == TreeSource(root / "linux")


@pytest.mark.parametrize(
    ("text", "option", "expected"),
    [
        (kernels("a", "b"), "linux", "say which kernel it is for: NAME=PATH; there are a, b"),
        (kernels("aaa", "b"), "aab=linux", "no kernel is named 'aab'; did you mean 'aaa'?"),
        (kernels("a"), "x=linux", "no kernel is named 'x'; the kernels here are a"),
        (kernels("a"), "none", "kernels.a.source.git: 'ROOT/none' does not exist"),
    ],
)
def test_a_tree_for_no_kernel(root: Path, text: str, option: str, expected: str) -> None:
    option = option.replace("linux", f"{root}/linux").replace("none", f"{root}/none")
    (found,) = mistakes(root, text, option)
    shown = found.replace(str(root), "ROOT")
    assert shown.endswith(f"--tree {option.replace(str(root), 'ROOT')}: {expected}")
