"""``rev = "A..B"``: two kernels, one for each end, and the pair of them.

Everything behind the resolved campaign sees plain kernels: ``X-base`` and ``X-head`` of a kernel X.
"""

from __future__ import annotations

from collections.abc import Iterator

from qemu_diff.config.problems import Problem, label
from qemu_diff.config.schema import (
    NAME_LENGTH,
    CampaignFile,
    KernelTable,
    PairTable,
    SourceTable,
)

BASE, HEAD = "-base", "-head"


def ends(rev: str) -> tuple[str, str] | None:
    """What a range goes from and to (gitrevisions(7), "SPECIFYING RANGES"); None for one commit.

    ``A...B`` goes from the merge base, which stays written so, as git-checkout(1) takes it.
    """
    if ":/" in rev or "{/" in rev:  # the words of a commit's message may hold dots
        return None
    base, dots, head = rev.partition("..")
    if not dots:
        return None
    if head.startswith("."):
        return rev, head[1:] or "HEAD"
    return base or "HEAD", head or "HEAD"


def expanded(file: CampaignFile) -> CampaignFile:
    """A campaign file without ranges."""
    kernels: dict[str, KernelTable] = {}
    pairs = list(file.pair)
    for name, table in file.kernels.items():
        sources = _ends_of(table)
        if sources is None:
            kernels[name] = table
            continue
        for suffix, source in zip((BASE, HEAD), sources, strict=True):
            kernels[f"{name}{suffix}"] = table.model_copy(update={"source": source})
        pair = PairTable(baseline=f"{name}{BASE}", candidate=f"{name}{HEAD}")
        if pair not in pairs:
            pairs.append(pair)
    return file.model_copy(update={"kernels": kernels, "pair": pairs})


def range_problems(file: CampaignFile) -> Iterator[Problem]:
    """Ranges whose two kernels can't be named."""
    for name, table in file.kernels.items():
        if _ends_of(table) is None:
            continue
        path = ("kernels", name, "source", "rev")
        for made in (f"{name}{BASE}", f"{name}{HEAD}"):
            if made in file.kernels:
                text = f"{label(path)}: a range makes a kernel {made!r}, and there is one already"
                yield Problem(path, text, f"rename {name!r} or {made!r}")
        if len(name) > NAME_LENGTH - len(BASE):
            text = f"{label(path)}: a range puts {BASE} and {HEAD} behind the kernel's name"
            yield Problem(path, text, f"with them it may have {NAME_LENGTH} characters")


def _ends_of(table: KernelTable) -> tuple[SourceTable, SourceTable] | None:
    source = table.source
    if not isinstance(source, SourceTable) or (both := ends(source.rev or "")) is None:
        return None
    base, head = (source.model_copy(update={"rev": rev}) for rev in both)
    return base, head
