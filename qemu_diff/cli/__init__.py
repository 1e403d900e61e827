"""The command line."""

from qemu_diff.cli import bisect, finding, kernels, machine, results, run
from qemu_diff.cli.main import main

__all__ = ["bisect", "finding", "kernels", "machine", "main", "results", "run"]
