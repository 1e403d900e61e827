"""``python -m qemu_diff``: the same program as ``qemu-diff``."""

from qemu_diff.cli import main

main()
