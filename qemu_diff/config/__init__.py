"""Campaign files: TOML in, a checked :class:`qemu_diff.model.Campaign` out."""

from qemu_diff.config.load import load_campaign

__all__ = ["load_campaign"]
