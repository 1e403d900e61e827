"""``scripts/mutants``: writes the mechanical mutants' patches, from Debian's kernel source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cyclopts import App
from mutants.mutations import WHERE, Mutation, Operation, grep, mutations

from qemu_diff.kernels import cache
from qemu_diff.kernels.debian import locate
from qemu_diff.kernels.source import resolve
from qemu_diff.kernels.tree import IsolatedTree
from qemu_diff.model import DebianSource

SOURCE = DebianSource("linux-source-6.1")
MECHANICAL = Path(__file__).resolve().parents[2] / "guest_images" / "patches" / "mechanical"

WORDS = {
    Operation.NEGATE: "The condition is its opposite:",
    Operation.GUARD: "The condition around it is its opposite:",
    Operation.DROP: "This is left out:",
    Operation.OPPOSITE: "Set is clear, and clear is set:",
    Operation.SWAP: "These change places:",
}

app = App(name="scripts/mutants", help="Writes guest_images/patches/mechanical.")


def sources() -> Iterator[tuple[str, str]]:
    """(path, content) of every file that is looked through, as Debian ships it.

    :raise UnavailableSourceError: the package is not installed, and can't be fetched.
    """
    resolved = resolve(SOURCE)
    with cache.lineage_lock(resolved.lineage):
        tree = IsolatedTree(resolved.lineage)
        resolved.prepare(tree)
        for path in sorted(filter(WHERE.fullmatch, tree.base_files())):
            state = tree.base(path)
            content = state.content.decode() if state is not None else ""
            if grep(content):
                yield path, content


def patches() -> dict[str, str]:
    """File name → content of every patch."""
    version = locate(SOURCE).version
    return {
        f"{one.name}.patch": patch_file(one, version)
        for path, content in sources()
        for one in mutations(path, content)
    }


def patch_file(mutation: Mutation, version: str) -> str:
    """A patch with its words before it."""
    return (
        f"KVM: arm64: Mutant: {mutation.name}\n\n"
        f"{WORDS[mutation.operation]}\n\n"
        f"\t{mutation.was}\n\n"
        f"Made by scripts/mutants from {SOURCE.package} of Debian 12 ({version}): don't edit.\n\n"
        f"---\n{mutation.patch}"
    )


@app.default
def write() -> None:
    """Write every patch, and take away what is no mutant any more."""
    made = patches()
    MECHANICAL.mkdir(exist_ok=True)
    for path in MECHANICAL.glob("*.patch"):
        if path.name not in made:
            path.unlink()
    for name, content in made.items():
        (MECHANICAL / name).write_text(content)
    print(f"{len(made)} mutants in {MECHANICAL}")


if __name__ == "__main__":
    app()
