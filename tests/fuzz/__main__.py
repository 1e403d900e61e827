"""One target, fuzzed by coverage for a while: ``python -m fuzz TARGET SECONDS FINDINGS``.

A process of its own: libFuzzer ends it, and its limits on time and memory are the process's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris
from fuzz.limits import MOST_MIB, SLOWEST_S

with atheris.instrument_imports(include=["qemu_diff", "pygdbmi", "elftools"]):
    from fuzz.targets import TARGETS, fault_of

MOST_BYTES = 65_536


def main() -> None:
    """Never returns."""
    name, seconds, findings = sys.argv[1:]
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus")
        corpus.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / str(number)).write_bytes(seed)
        os.environ["QEMU_DIFF_CACHE"] = f"{scratch}/cache"

        def taken(data: bytes) -> None:
            with tempfile.TemporaryDirectory(dir=scratch) as directory:
                fault = fault_of(target, data, Path(directory))
            if fault:
                raise AssertionError(fault)

        options = [
            f"-max_total_time={seconds}",
            f"-timeout={SLOWEST_S}",
            f"-rss_limit_mb={MOST_MIB}",
            f"-max_len={MOST_BYTES}",
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
            "-seed=1",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], taken)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
