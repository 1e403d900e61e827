"""``scripts/bless``: runs the golden campaign twice, and keeps what it recorded."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from golden.blessed import BLESSED, CAMPAIGN, Run, bless, differences, inputs_here, load, recorded
from integration.cli_run import CliRun, run_campaign


def main() -> None:
    """Bless, unless two runs differ or a cell is not as expected."""
    inputs = inputs_here()
    with tempfile.TemporaryDirectory(prefix="qemu-diff-") as scratch:
        runs = [_run(Path(scratch) / name) for name in ("one", "two")]
    if runs[0] != runs[1]:
        sys.exit("scripts/bless: two runs, one after the other, recorded different things")
    for golden in load():
        if golden.inputs["QEMU"] == inputs["QEMU"]:
            print(f"differs: {'; '.join(differences(golden.inputs, inputs)) or 'no input'}")
    bless(Run(inputs, runs[0]))
    print(f"{len(runs[0])} cells on {inputs['QEMU']}: {BLESSED}")


def _run(results: Path) -> dict[str, object]:
    done: CliRun = run_campaign(CAMPAIGN, results)
    if done.status:
        sys.exit(f"scripts/bless: not as expected, so nothing is blessed:\n{done.stdout}")
    return recorded(done.verdicts)


if __name__ == "__main__":
    main()
