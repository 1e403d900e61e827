"""The program and its help; each module of this folder adds the commands of one matter."""

from __future__ import annotations

from cyclopts import App, Parameter

app = App(
    name="qemu-diff",
    help="Judges KVM/arm64 guest single-step, kernel against kernel, and both against the truth.",
    help_epilogue=(
        "Exit status: 0 everything as expected, expected failures seen included; 1 an unexpected "
        "finding, an expectation not met, or a regression; 2 a mistake in what was asked for; "
        "3 nothing judged, or infrastructure lost."
    ),
    version_flags=[],
    default_parameter=Parameter(negative=()),
)
kernels = App(name="kernels", help="The kernels that campaigns boot, in the cache.")
app.command(kernels)
