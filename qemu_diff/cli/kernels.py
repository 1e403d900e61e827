"""Commands about the kernels in the cache."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.table import Table

from qemu_diff.campaign.outcome import ExitCode
from qemu_diff.cli.app import kernels
from qemu_diff.cli.selection import AS_CAMPAIGN, TreeChoice, TreeOptions, loaded_with_trees
from qemu_diff.cli.terminal import at_once_of, console_here
from qemu_diff.errors import UnavailableSourceError, UserError
from qemu_diff.kernels import build_kernel, cached_kernels, fetch_source, prune
from qemu_diff.model import KernelSpec
from qemu_diff.report.progress import show_progress


@kernels.command(name="build")
def build(
    campaign: Path,
    /,
    *names: str,
    jobs: int | None = None,
    trees: TreeOptions = AS_CAMPAIGN,
) -> int:
    """Build the kernels of a campaign, or those that are named.

    Parameters
    ----------
    campaign
        A campaign file (TOML).
    names
        Kernels of that campaign; default: all.
    jobs
        Compilers side by side; default: the CPUs.
    """
    known = _named(campaign, names, trees)
    console = console_here()
    at_once = at_once_of(jobs)
    builds = []
    with show_progress(console):
        for name in known:
            try:
                builds.append(build_kernel(known[name], jobs=at_once))
            except UnavailableSourceError as error:
                if name in names or not known[name].optional:
                    raise
                console.print(f"{name}: skipped: {error}", markup=False, soft_wrap=True)
    table = Table("kernel", "release", "source", "key", "image")
    for one in builds:
        table.add_row(one.kernel, one.release, one.source, one.key, str(one.image))
    console.print(table)
    return ExitCode.AS_EXPECTED


@kernels.command(name="fetch")
def fetch(campaign: Path, /, *names: str, trees: TreeOptions = AS_CAMPAIGN) -> int:
    """Have the sources of a campaign's kernels on this machine, so that building needs no network.

    Of a Debian package apt is asked for its newest version, which is built from then on; an URL's
    repository is brought up to date. Nothing is installed, and nothing is built.

    Parameters
    ----------
    campaign
        A campaign file (TOML).
    names
        Kernels of that campaign; default: all.
    """
    known = _named(campaign, names, trees)
    console = console_here()
    table = Table("kernel", "MiB", "source")
    with show_progress(console):
        for name, spec in known.items():
            try:
                found = fetch_source(spec)
            except UnavailableSourceError as error:
                if not spec.optional:
                    raise
                table.add_row(name, "", f"skipped: {error}")
                continue
            size = f"{found.size / 2**20:,.0f}" if found.size else "yours"
            table.add_row(name, size, str(found.path))
    console.print(table)
    return ExitCode.AS_EXPECTED


def _named(campaign: Path, names: tuple[str, ...], trees: TreeChoice) -> dict[str, KernelSpec]:
    """The kernels of a campaign that are named; all where none is.

    :raises UserError: one is not there.
    """
    known = {spec.name: spec for spec in loaded_with_trees(campaign, None, trees).kernels}
    for name in names:
        if name not in known:
            raise UserError(f"{campaign}: no kernel {name!r}; there are {', '.join(known)}")
    return {name: known[name] for name in names or known}


@kernels.command(name="list")
def list_kernels() -> int:
    """Show the kernels in the cache."""
    table = Table("kernel", "release", "key", "MiB", "last used")
    for one in cached_kernels():
        used = datetime.fromtimestamp(one.last_used).strftime("%Y-%m-%d %H:%M")
        table.add_row(", ".join(one.names), one.release, one.key, f"{one.size >> 20:,}", used)
    console_here().print(table)
    return ExitCode.AS_EXPECTED


@kernels.command(name="prune")
def prune_kernels(
    *, keep: int | None = None, older_than_days: float | None = None, everything: bool = False
) -> int:
    """Remove kernels from the cache.

    Parameters
    ----------
    keep
        Keep so many, the last used ones.
    older_than_days
        Remove what was not used for so many days.
    everything
        Remove all kernels, and with them source trees, build directories, downloads and ccache.
    """
    if keep is None and older_than_days is None and not everything:
        raise UserError("say what to remove: --keep, --older-than-days or --everything")
    if keep is not None and keep < 0:
        raise UserError(f"--keep {keep}: none, or some")
    if older_than_days is not None and not older_than_days >= 0:
        raise UserError(f"--older-than-days {older_than_days:g}: no number of days")
    report = prune(keep=keep, older_than_days=older_than_days, everything=everything)
    trees = f" and {len(report.trees)} source trees" if report.trees else ""
    busy = f"; {len(report.busy)} in use, left alone" if report.busy else ""
    freed = f"{report.freed >> 20:,} MiB"
    console_here().print(f"removed {len(report.kernels)} kernels{trees}: {freed} freed{busy}")
    return ExitCode.AS_EXPECTED
