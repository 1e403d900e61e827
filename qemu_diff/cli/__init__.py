"""The command line."""

from qemu_diff.cli import bisect, finding, history, kernels, machine, results, run
from qemu_diff.cli.main import main

__all__ = ["bisect", "finding", "history", "kernels", "machine", "main", "results", "run"]
