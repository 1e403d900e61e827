"""The program and its help; each module of this folder adds the commands of one matter."""

from __future__ import annotations

from cyclopts import App, Parameter

from qemu_diff.campaign.finding_directory import tool_version
from qemu_diff.campaign.outcome import MEANINGS

app = App(
    name="qemu-diff",
    help="Judges KVM/arm64 guest single-step, kernel against kernel, and both against the truth.",
    help_epilogue="Exit status: "
    + "; ".join(f"{code:d} {meaning}" for code, meaning in MEANINGS.items())
    + ".",
    version=lambda: f"qemu-diff {tool_version()}",
    version_flags=("--version",),
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
kernels = App(name="kernels", help="The kernels that campaigns boot, in the cache.")
app.command(kernels)
