"""Patches as mail and in series: read by the user's own git, applied in their order."""

from __future__ import annotations

import base64
import quopri
import shutil
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
from fakes.history import History

from qemu_diff.errors import PatchError, UserError
from qemu_diff.kernels import build_kernel, kernel_key, read_patches
from qemu_diff.model import GitSource, KernelSpec

SUBJECTS = ["KVM: arm64: first", "KVM: arm64: second, übrigens", "KVM: arm64: third"]


@pytest.fixture
def series(history: History, tmp_path: Path) -> Path:
    """A directory as ``git format-patch --cover-letter`` leaves it; the second builds on the first,
    the third stands alone."""
    fork = history.path / "kernel/fork.c"
    texts = [fork.read_text().replace("pid = 2", "pid = 3")]
    texts.append(texts[0].replace("pid = 3", "pid = 4"))
    history.commit(SUBJECTS[0], {"kernel/fork.c": texts[0]})
    history.commit(SUBJECTS[1], {"kernel/fork.c": texts[1]})
    history.commit(SUBJECTS[2], {"kernel/exit.c": "int ä;\n"})
    history.git("branch", "done")
    place = tmp_path / "series"
    history.git("format-patch", "--quiet", "--cover-letter", "-o", str(place), "main~3")
    history.git("reset", "--quiet", "--hard", "main~3")
    return place


@pytest.fixture
def kernel(history: History) -> Callable[..., KernelSpec]:
    def of(*patches: Path) -> KernelSpec:
        return KernelSpec("k", GitSource(str(history.path)), patches)

    return of


Kernel = Callable[..., KernelSpec]


def files_of(series: Path) -> list[Path]:
    return sorted(series.glob("*.patch"))


def test_a_directory_is_applied_in_order(
    series: Path, kernel: Kernel, history: History, cache_directory: Path
) -> None:
    build = build_kernel(kernel(series))
    assert build.source.endswith(" + 3 patches")
    (tree,) = (cache_directory / "trees").iterdir()
    for name in ("kernel/fork.c", "kernel/exit.c"):
        assert (tree / "source" / name).read_text() == history.git("show", f"done:{name}") + "\n"


def as_mailbox(series: Path) -> bytes:
    return b"".join(path.read_bytes() for path in files_of(series))


def encoded(series: Path, transfer: str) -> bytes:
    """The same mails as a mail client may send them."""
    mails = []
    for path in files_of(series):
        envelope, _, mail = path.read_bytes().partition(b"\n")
        _, _, body = mail.partition(b"\n\n")
        subject = next(line for line in mail.splitlines() if line.startswith(b"Subject: "))
        header = b"From: a@example.org\nDate: Mon, 5 Sep 2022 12:00:00 +0000\n" + subject
        header += b"\nMIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n"
        header += f"Content-Transfer-Encoding: {transfer}\n\n".encode()
        coded = quopri.encodestring(body) if transfer[0] == "q" else base64.encodebytes(body)
        mails.append(envelope + b"\n" + header + coded + b"\n")
    return b"".join(mails)


@pytest.mark.parametrize("transfer", ["8bit", "quoted-printable", "base64"])
def test_a_mailbox_is_its_patches(series: Path, transfer: str, tmp_path: Path) -> None:
    mailbox = tmp_path / "v2_20220905_series.mbx"
    mailbox.write_bytes(as_mailbox(series) if transfer == "8bit" else encoded(series, transfer))
    patches = read_patches([mailbox])
    assert [one.subject.partition("] ")[2] for one in patches][::2] == SUBJECTS[::2]
    assert [one.position for one in patches] == [(1, 3), (2, 3), (3, 3)]
    # However it came, it is the same kernel.
    assert [one.content for one in patches] == [one.content for one in read_patches([series])]


def test_the_same_key_however_it_came(series: Path, kernel: Kernel, tmp_path: Path) -> None:
    mailbox = tmp_path / "mbox"
    mailbox.write_bytes(as_mailbox(series))
    files = [path for path in files_of(series) if not path.name.startswith("0000")]
    assert kernel_key(kernel(mailbox)) == kernel_key(kernel(series)) == kernel_key(kernel(*files))


def test_answers_are_left_out(series: Path, tmp_path: Path) -> None:
    answer = EmailMessage()
    answer["Subject"] = "Re: [PATCH 2/3] KVM: arm64: second"
    answer["From"] = "b@example.org"
    answer.set_content(
        "How about\n\ndiff --git a/kernel/fork.c b/kernel/fork.c\n"
        "--- a/kernel/fork.c\n+++ b/kernel/fork.c\n@@ -1 +1 @@\n-x\n+y\n"
    )
    mailbox = tmp_path / "thread"
    mailbox.write_bytes(as_mailbox(series) + b"From b@z Thu Jan  1 00:00:00 1970\n" + bytes(answer))
    assert [one.content for one in read_patches([mailbox])] == [
        one.content for one in read_patches([series])
    ]


def test_quilt_s_order_counts(series: Path) -> None:
    first, third = files_of(series)[1], files_of(series)[3]
    (series / "series").write_text(f"# mine\n{third.name} -p1\n\n{first.name}  # last\n")
    assert [one.path for one in read_patches([series])] == [third, first]
    (series / "series").write_text(f"{first.name} -p0\n")
    with pytest.raises(UserError, match=r"series:1: -p0: only -p1 is known$"):
        read_patches([series])
    (series / "series").write_text("none.patch\n")
    with pytest.raises(UserError, match=r"none\.patch: can't read the patch"):
        read_patches([series])


def test_plain_diffs_stay_what_they_are(tmp_path: Path) -> None:
    """With words before them, even such as a header begins with."""
    for text in (
        "--- a/x\n+++ b/x\n",
        "Why: because.\n\n--- a/x\n",
        "Index: x\n=======\n--- a/x\n",
        "",
    ):
        path = tmp_path / "plain.patch"
        path.write_text(text)
        assert [one.content for one in read_patches([path])] == [text.encode()]


# --- wrong ones ----------------------------------------------------------------------------------


def test_a_mailbox_without_patches(series: Path, tmp_path: Path) -> None:
    mailbox = tmp_path / "cover"
    shutil.copyfile(files_of(series)[0], mailbox)
    with pytest.raises(UserError, match=r"cover: there is no patch in this mail$"):
        read_patches([mailbox])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty: there is no patch in this directory$"):
        read_patches([empty])


def test_the_wrong_order(series: Path, kernel: Kernel) -> None:
    _, first, second, third = files_of(series)
    with pytest.raises(PatchError) as caught:
        build_kernel(kernel(second, third, first))
    assert str(caught.value) == (
        f"{second}: [PATCH 2/3] {SUBJECTS[1]}: does not apply: hunk 1 of kernel/fork.c (at line 2);"
        f" it applies after '[PATCH 1/3] {SUBJECTS[0]}', which has to come first"
    )


def test_the_wrong_order_in_a_mailbox(series: Path, kernel: Kernel, tmp_path: Path) -> None:
    mailbox = tmp_path / "mbox"
    mailbox.write_bytes(b"".join(path.read_bytes() for path in reversed(files_of(series))))
    with pytest.raises(PatchError) as caught:
        build_kernel(kernel(mailbox))
    assert str(caught.value).startswith(f"{mailbox}: [PATCH 2/3] ")
    assert str(caught.value).endswith("which has to come first")


def test_numbers_tell_where_no_single_patch_does(
    history: History, kernel: Kernel, tmp_path: Path
) -> None:
    """3/3 applies neither after 2/3 alone nor after 1/3 alone."""
    fork = (history.path / "kernel/fork.c").read_text()
    for value in (3, 4, 5):
        history.commit(f"to {value}", {"kernel/fork.c": fork.replace("pid = 2", f"pid = {value}")})
    history.git("format-patch", "--quiet", "-o", str(tmp_path / "s"), "main~3")
    history.git("reset", "--quiet", "--hard", "main~3")
    with pytest.raises(
        PatchError, match=r"; it is 3/3, and '\[PATCH 1/3\] to 3' has to come first$"
    ):
        build_kernel(kernel(*reversed(files_of(tmp_path / "s"))))


def test_numbers_tell_what_came_too_early(history: History, kernel: Kernel, tmp_path: Path) -> None:
    """2/2 applies by itself, and then 1/2 does not."""
    fork = (history.path / "kernel/fork.c").read_text()
    texts = [fork.replace("pid = 2", "pid = 3"), fork.replace("pid = 2", "pid = 2 + 2")]
    history.commit("to 3", {"kernel/fork.c": texts[0]})
    history.git("format-patch", "--quiet", "-o", str(tmp_path), "--start-number=1", "main~1")
    history.git("reset", "--quiet", "--hard", "main~1")
    history.commit("to 4", {"kernel/fork.c": texts[1]})
    history.git("format-patch", "--quiet", "-o", str(tmp_path), "--start-number=2", "main~1")
    history.git("reset", "--quiet", "--hard", "main~1")
    first, second = files_of(tmp_path)
    for number, path in enumerate((first, second), 1):
        path.write_text(path.read_text().replace("[PATCH", f"[PATCH v3 {number}/2", 1))
    why = r"; it is 1/2, and has to come before '\[PATCH v3 2/2\] to 4'$"
    with pytest.raises(PatchError, match=why):
        build_kernel(kernel(second, first))


def test_no_advice_where_none_is_known(series: Path, kernel: Kernel) -> None:
    _, first, second, _ = files_of(series)
    with pytest.raises(PatchError, match=r"\(at line 2\)$"):
        build_kernel(kernel(second))
    with pytest.raises(PatchError, match=r"\(at line 2\)$"):
        build_kernel(kernel(first, first, second))


def test_a_plain_series_is_told_by_trying(
    series: Path, kernel: Kernel, write_patch: Callable[[str, str], Path]
) -> None:
    first, second, _ = read_patches([series])
    one = write_patch("one.diff", first.content.decode())
    two = write_patch("two.diff", second.content.decode())
    with pytest.raises(
        PatchError, match=r"two\.diff: does not .*; it applies after 'one\.diff', wh"
    ):
        build_kernel(kernel(two, one))
