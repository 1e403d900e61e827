"""The command line."""

from qemu_diff.cli import finding, kernels, machine, results, run
from qemu_diff.cli.main import main

__all__ = ["finding", "kernels", "machine", "main", "results", "run"]
